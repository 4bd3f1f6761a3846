"""The command in its own process: signals, pipes and the locale."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from palaver.v1 import assistant_service_pb2
from tests.support import replies
from tests.support.scripted_server import HANG

PALAVER = [sys.executable, "-m", "palaver"]


@pytest.fixture
def start(server):
    processes = []

    def run(*arguments, **options):
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        options = {"stdin": subprocess.DEVNULL, "env": environment, **options}
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([*PALAVER, "--server", server.target, *arguments], **options)
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def test_events_are_printed_as_they_arrive(start, server):
    go_on = threading.Event()
    server.script("PostUserQuery", [replies.started(), replies.delta("Hi"), go_on, *replies.turn(" there")[1:]])
    process = start("ask", "support", "Hello!", "--json")
    assert b'"started"' in process.stdout.readline()
    assert b'"Hi"' in process.stdout.readline()
    go_on.set()
    assert b'" there"' in process.stdout.readline()
    assert b'"completed"' in process.stdout.readline()
    assert process.wait() == 0


def test_interrupting_ask_cancels_the_call(start, server):
    server.script("PostUserQuery", [replies.started(), replies.delta("Hi"), HANG])
    process = start("ask", "support", "Hello!")
    assert process.stdout.read(2) == b"Hi"
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 130
    assert (stdout.strip(), stderr.strip()) == (b"", b"")
    assert server.calls[0].abandoned.wait(30)


def test_a_closed_pipe_ends_the_command_quietly(start, server):
    go_on = threading.Event()
    server.script("PostUserQuery", [replies.started(), replies.delta("one\n"), go_on, replies.delta("two\n"), HANG])
    process = start("ask", "support", "Hello!")
    assert process.stdout.readline() == b"one\n"
    process.stdout.close()
    go_on.set()
    assert process.stderr.read() == b""
    assert process.wait() != 0
    assert server.calls[0].abandoned.wait(30)


def test_output_is_utf8_whatever_the_locale(start, server):
    server.script("PostUserQuery", replies.turn("Grüße 😀"))
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    process = start("ask", "support", "Hello!", env=environment)
    stdout, stderr = process.communicate()
    assert (stdout.decode(), stderr) == ("Grüße 😀\n", b"")


@pytest.mark.parametrize("command", [["history", "support"], ["chat"], ["ask", "support", "-"]])
def test_output_without_a_terminal_has_no_escape_codes(start, server, command):
    server.script("ListMessages", assistant_service_pb2.ListMessagesResponse(messages=[replies.message()]))
    process = start(*command, stdin=subprocess.PIPE)
    stdout, stderr = process.communicate(b"Hello!\n")
    assert process.returncode == 0, stderr
    assert b"\x1b" not in stdout + stderr
    assert stdout


def test_a_failed_tls_handshake_is_reported_in_one_line(start):
    process = start("--tls", "ask", "support", "Hello!")
    stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (1, b"")
    assert len(stderr.splitlines()) == 1, stderr.decode()


@pytest.mark.parametrize("missing", ["click", "rich", "prompt_toolkit"])
def test_a_missing_extra_is_reported_with_the_command_to_install_it(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; from palaver.cli import main; main(['--help'])"
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "pip install 'palaver[cli]'" in line


def test_help_and_version():
    for option in ("--help", "--version"):
        result = subprocess.run([*PALAVER, option], check=False, capture_output=True, text=True)
        assert result.returncode == 0
        assert result.stdout.startswith(("Usage: palaver", "palaver, version"))
