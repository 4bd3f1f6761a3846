"""A real Palaver server inside the test's process: on a socket, with a SQLite file, and an endpoint of the test's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub
from palaver_server.app import Application, application
from palaver_server.settings import Settings


@dataclass(frozen=True)
class Served:
    """A server that listens, and a stub to call it."""

    application: Application
    channel: grpc.aio.Channel
    stub: AssistantServiceStub

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.application.port}"


@asynccontextmanager
async def palaver_server(
    data_dir: Path, endpoint_url: str | None = None, environment: dict[str, str] | None = None, **settings: Any
) -> AsyncIterator[Served]:
    """Serves for the time of the block. The model is the endpoint's, reached as an OpenAI-compatible server."""
    variables = dict(environment or {})
    if endpoint_url is not None:
        variables |= {"OPENAI_API_KEY": "sk-secret-key", "OPENAI_BASE_URL": endpoint_url}
    chosen = Settings(**{"listen": "127.0.0.1:0", "data_dir": data_dir, **settings})
    async with (
        application(chosen, variables) as running,
        grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel,
    ):
        yield Served(running, channel, AssistantServiceStub(channel))


@dataclass(frozen=True)
class Replicas:
    """Servers that share a store and an endpoint."""

    folder: Path
    url: str
    variables: dict[str, str]

    def another(self, **settings: Any) -> AbstractAsyncContextManager[Served]:
        """Serves for the time of the block."""
        return palaver_server(self.folder, self.url, self.variables, **settings)
