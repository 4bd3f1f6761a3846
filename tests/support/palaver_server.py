"""A real Palaver server in the process of the test: on a socket, with a SQLite file, and with the test's endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from palaver.v1.admin_service_pb2_grpc import AdminServiceStub
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub
from palaver_server.app import Application, application
from palaver_server.settings import Settings
from tests.support.calls import create_assistant


@dataclass(frozen=True)
class Served:
    """A server that listens, and a stub to call it."""

    application: Application
    channel: grpc.aio.Channel
    stub: AssistantServiceStub
    admin: AdminServiceStub

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.application.port}"


@asynccontextmanager
async def palaver_server(
    data_dir: Path, endpoint_url: str | None = None, environment: dict[str, str] | None = None, **settings: Any
) -> AsyncIterator[Served]:
    """Serves for the time of the block. The endpoint is reached as an OpenAI-compatible server."""
    variables = dict(environment or {})
    if endpoint_url is not None:
        variables |= {"OPENAI_API_KEY": "sk-secret-key", "OPENAI_BASE_URL": endpoint_url}
    chosen = Settings(**{"listen": "127.0.0.1:0", "data_dir": data_dir, **settings})
    async with (
        application(chosen, variables) as running,
        grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel,
    ):
        yield Served(running, channel, AssistantServiceStub(channel), AdminServiceStub(channel))


@asynccontextmanager
async def server_with_assistant(*arguments: Any, instructions: str = "", **settings: Any) -> AsyncIterator[Served]:
    """Serves for the time of the block, with the assistant `a`. Takes what `palaver_server` takes."""
    async with palaver_server(*arguments, **settings) as served:
        await create_assistant(served, instructions=instructions)
        yield served


@dataclass(frozen=True)
class Replicas:
    """Servers that share a store and an endpoint."""

    folder: Path
    url: str
    variables: dict[str, str]

    def another(self, **settings: Any) -> AbstractAsyncContextManager[Served]:
        """Serves for the time of the block."""
        return palaver_server(self.folder, self.url, self.variables, **settings)

    def first(self, **settings: Any) -> AbstractAsyncContextManager[Served]:
        """Serves for the time of the block, and creates the assistant `a` for all replicas."""
        return server_with_assistant(self.folder, self.url, self.variables, **settings)
