"""The files of a server in processes of its own that are read again on SIGHUP."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.support.callers import CallersFile
from tests.support.endpoint import Endpoint
from tests.support.server_process import server_process


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_hangup_makes_every_worker_read_the_files(tmp_path: Path, endpoint: Endpoint, workers: int):
    callers = CallersFile(tmp_path / "callers.toml")
    callers.write(shop={})
    log = tmp_path / "log"

    async def errors(number: int) -> None:
        while log.read_text().count("PALAVER_CALLERS: ") < number:  # noqa: ASYNC110 - a process can't set an event
            await asyncio.sleep(0.05)

    variables = {"PALAVER_CALLERS": str(callers.path), "PALAVER_WORKERS": str(workers)}
    with log.open("wb") as stderr:
        async with server_process(tmp_path, endpoint.url, stderr=stderr, **variables) as server:
            callers.path.write_text("[callers.shop")
            await errors(workers)  # each worker reports what it has found by itself once
            for times in (2, 3):
                server.process.send_signal(signal.SIGHUP)
                await errors(times * workers)
            server.process.terminate()
            assert await server.process.wait() == 0
    assert log.read_text().count("PALAVER_CALLERS: ") == 3 * workers
