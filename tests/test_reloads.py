"""What is read again on SIGHUP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from palaver_server.reloads import Reloads

RELOADING_WORKERS = """
import asyncio, os, signal, sys
from palaver_server import __main__, app, reloads

class Announced(reloads.Reloads):
    def __init__(self):
        super().__init__()
        self.add("the test", lambda: print(f"reloaded {os.getpid()}", flush=True))

app.Reloads = Announced
if __name__ == "__main__":
    __main__.main()
"""
"""A server with something to read again. Its workers import this file as well."""


def test_one_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture):
    called = []
    reloads = Reloads()
    reloads.add("the certificate", lambda: called.append(1))
    reloads.add("the callers", lambda: 1 / 0)
    reloads.add("the keys", lambda: called.append(3))
    reloads.run()
    assert called == [1, 3]
    assert caplog.messages == ["the callers can't be read again; the server goes on with what it has"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_hangup_reaches_every_worker(tmp_path: Path, workers: int):
    script = tmp_path / "server.py"
    script.write_text(RELOADING_WORKERS)
    command = [sys.executable, str(script), "--offline-model", "--listen", "127.0.0.1:0", "--workers", str(workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True) as process:
        try:
            assert process.stdout.readline().startswith("palaver-server listening on ")
            for _ in range(2):
                process.send_signal(signal.SIGHUP)
                lines = {process.stdout.readline() for _ in range(workers)}
                assert len(lines) == workers
                assert all(line.startswith("reloaded ") for line in lines)
                assert workers == 1 or f"reloaded {process.pid}\n" not in lines
            process.terminate()
            assert process.wait() == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
