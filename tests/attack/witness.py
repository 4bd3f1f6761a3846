"""The second caller of the server under attack, in a process of its own.

It calls `GetAssistant` all the time on its own connection, and samples the memory of the server. For each line on its
standard input, it prints what it has seen since the line before.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field

import grpc
import psutil

from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub
from tests.support.server_process import ServerProcess

PAUSE = 0.005
"""Seconds between two calls, and between two samples of the memory."""

LAST_CALL_TIMEOUT = 5.0
"""Seconds for which a report waits for the call that is under way. After that, the wait so far is reported."""

MAX_FAILURES = 5


@dataclass
class Sighting:
    """What the second caller has seen for some time."""

    wait: float = 0.0
    """The longest wait for `GetAssistant`, in seconds."""
    noise: float = 0.0
    """The longest time by which a pause took too long, in seconds: the machine had no processor for this process."""
    memory: int = 0
    """The most bytes of memory that the server has held."""
    failures: list[str] = field(default_factory=list)
    """The statuses of calls that failed."""


@dataclass(frozen=True)
class Witness:
    """A second caller that runs."""

    process: asyncio.subprocess.Process

    async def report(self) -> Sighting:
        """Returns what was seen since the last report."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        return Sighting(**json.loads(await self.process.stdout.readline()))


@asynccontextmanager
async def witness(server: ServerProcess, assistant: str) -> AsyncIterator[Witness]:
    """Runs a second caller of an assistant until the end of the block."""
    command = [sys.executable, "-m", "tests.attack.witness", server.address, assistant, str(server.process.pid)]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Witness(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class _Watch:
    def __init__(self, address: str, assistant: str, pid: int) -> None:
        self._stub = AssistantServiceStub(grpc.insecure_channel(address))
        self._request = pb.GetAssistantRequest(id=assistant)
        self._server = psutil.Process(pid)
        self._seen = Sighting()
        self._is_idle = threading.Event()
        self._called_at = 0.0

    def call_forever(self) -> None:
        while True:
            self._called_at = time.monotonic()
            self._is_idle.clear()
            try:
                self._stub.GetAssistant(self._request)
            except grpc.RpcError as error:
                if len(self._seen.failures) < MAX_FAILURES:
                    self._seen.failures.append(f"the second caller got {error.code().name}: {error.details()}")
            self._seen.wait = max(self._seen.wait, time.monotonic() - self._called_at)
            self._is_idle.set()
            time.sleep(PAUSE)

    def sample_forever(self) -> None:
        with suppress(psutil.NoSuchProcess):
            while True:
                self._seen.memory = max(self._seen.memory, self._server.memory_info().rss)
                start = time.monotonic()
                time.sleep(PAUSE)
                self._seen.noise = max(self._seen.noise, time.monotonic() - start - PAUSE)

    def report(self) -> Sighting:
        if not self._is_idle.wait(LAST_CALL_TIMEOUT):
            self._seen.wait = max(self._seen.wait, time.monotonic() - self._called_at)
        seen, self._seen = self._seen, Sighting()
        return seen


def main(address: str, assistant: str, pid: int) -> None:
    watch = _Watch(address, assistant, pid)
    for loop in (watch.call_forever, watch.sample_forever):
        threading.Thread(target=loop, daemon=True).start()
    for _ in sys.stdin:
        print(json.dumps(asdict(watch.report())), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
