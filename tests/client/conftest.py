from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, Protocol

import pytest

import palaver
from tests.support.scripted_server import ScriptedServer


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


class Driver(Protocol):
    """One way to use either client, so that a test states what is true of both."""

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Calls a method and returns its result."""

    async def collect(self, method: str, *arguments: Any, **options: Any) -> list[Any]:
        """Calls a method that returns an iterator, and returns all that it yields."""

    async def post(self, *arguments: Any, **options: Any) -> tuple[Any, list[palaver.Event]]:
        """Posts a query and returns the reply, read to its end, and its events."""


class SyncDriver:
    def __init__(self, client: palaver.Client) -> None:
        self.client = client

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return await asyncio.to_thread(getattr(self.client, method), *arguments, **options)

    async def collect(self, method: str, *arguments: Any, **options: Any) -> list[Any]:
        iterator = getattr(self.client, method)(*arguments, **options)
        return await asyncio.to_thread(list, iterator)

    async def post(self, *arguments: Any, **options: Any) -> tuple[Any, list[palaver.Event]]:
        reply = self.client.post_user_query(*arguments, **options)
        return reply, await asyncio.to_thread(list, reply)


class AsyncDriver:
    def __init__(self, client: palaver.AsyncClient) -> None:
        self.client = client

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return await getattr(self.client, method)(*arguments, **options)

    async def collect(self, method: str, *arguments: Any, **options: Any) -> list[Any]:
        return [item async for item in getattr(self.client, method)(*arguments, **options)]

    async def post(self, *arguments: Any, **options: Any) -> tuple[Any, list[palaver.Event]]:
        reply = self.client.post_user_query(*arguments, **options)
        return reply, [event async for event in reply]


Connect = Callable[..., Awaitable[Driver]]


@pytest.fixture(params=["sync", "async"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Makes a client of each kind, with the arguments of its constructor."""
    async with AsyncExitStack() as stack:

        async def make(*arguments: Any, **options: Any) -> Driver:
            if request.param == "sync":
                return SyncDriver(stack.enter_context(palaver.Client(*arguments, **options)))
            return AsyncDriver(await stack.enter_async_context(palaver.AsyncClient(*arguments, **options)))

        yield make


@pytest.fixture
async def driver(connect: Connect, server: ScriptedServer) -> Driver:
    return await connect(server.target)
