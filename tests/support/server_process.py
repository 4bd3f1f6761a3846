"""Palaver servers in processes of their own, which a test can kill, stop or freeze.

async with server_process(folder, endpoint.url) as server:
    await server.stub.CreateAssistant(...)
    server.process.kill()
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import grpc

from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub
from tests.support.callers import Metadata

COMMAND = Path(sys.executable).with_name("palaver-server")


@dataclass(frozen=True)
class ServerProcess:
    """A server that listens."""

    process: asyncio.subprocess.Process
    address: str
    channel: grpc.aio.Channel
    stub: AssistantServiceStub


@asynccontextmanager
async def server_process(
    folder: Path,
    endpoint_url: str,
    *,
    listen: str = "127.0.0.1:0",
    command: Sequence[str | Path] = (COMMAND,),
    stderr: IO[bytes] | None = None,
    metadata: Metadata = (),
    **variables: str,
) -> AsyncIterator[ServerProcess]:
    """Runs a server until the end of the block. Its store is SQLite in the folder, unless a variable names another.

    `metadata` identifies the caller in the calls of the stub. Without a file for stderr, the server logs only warnings.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    environment = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": endpoint_url, "PALAVER_DATA_DIR": str(folder)}
    if stderr is None:
        environment["PALAVER_LOG_LEVEL"] = "warning"
    process = await asyncio.create_subprocess_exec(
        *command,
        *("--listen", listen),
        env=inherited | environment | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )
    try:
        assert process.stdout is not None
        words = (await process.stdout.readline()).decode().split()
        assert words, "the server did not start; see its message on stderr"
        async with grpc.aio.insecure_channel(words[-1]) as channel:
            stub = AssistantServiceStub(channel)
            for name, method in vars(stub).items():
                setattr(stub, name, partial(method, metadata=metadata))
            yield ServerProcess(process, words[-1], channel, stub)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
