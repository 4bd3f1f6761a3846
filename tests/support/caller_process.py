"""A caller in a process of its own, which a test can kill or freeze.

async with caller_process(address, request) as caller:
    await caller.wait_for("text_delta")
    caller.process.kill()
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import grpc

from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub


@dataclass(frozen=True)
class CallerProcess:
    """A caller that posts a user query, and prints "posted" and then the name of each event that it receives."""

    process: asyncio.subprocess.Process

    async def wait_for(self, word: str) -> None:
        """Waits until the caller has printed a word."""
        assert self.process.stdout is not None
        while (line := await self.process.stdout.readline()).decode().strip() != word:
            assert line, f"the caller ended before it printed {word!r}; see its message on stderr"


@asynccontextmanager
async def caller_process(address: str, request: pb.PostUserQueryRequest) -> AsyncIterator[CallerProcess]:
    """Runs a caller until the end of the block."""
    command = [sys.executable, __file__, address, request.SerializeToString().hex()]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        yield CallerProcess(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def main(address: str, request: pb.PostUserQueryRequest) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = AssistantServiceStub(channel)
        call = stub.PostUserQuery(request)
        # The server accepts the calls of a connection in order: when this call returns, it has the query.
        stub.GetAssistant(pb.GetAssistantRequest(id=request.id))
        print("posted", flush=True)
        for response in call:
            print(response.WhichOneof("event"), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], pb.PostUserQueryRequest.FromString(bytes.fromhex(sys.argv[2])))
