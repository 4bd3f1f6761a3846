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
    """A common interface to both clients, so that one test covers them both."""

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Calls a method and returns its result."""

    async def collect(self, method: str, *arguments: Any, **options: Any) -> list[Any]:
        """Calls a method that returns an iterator, and returns its items."""

    async def post(self, *arguments: Any, **options: Any) -> tuple[Any, list[palaver.Event]]:
        """Posts a query, reads the reply to its end, and returns the reply and its events."""

    async def next(self, reply: Any) -> palaver.Event:
        """Reads the next event of a reply."""

    async def read(self, reply: Any) -> list[palaver.Event]:
        """Reads a reply to its end."""


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
        return reply, await self.read(reply)

    async def next(self, reply: Any) -> palaver.Event:
        return await asyncio.to_thread(next, reply)

    async def read(self, reply: Any) -> list[palaver.Event]:
        return await asyncio.to_thread(list, reply)


class AsyncDriver:
    def __init__(self, client: palaver.AsyncClient) -> None:
        self.client = client

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return await getattr(self.client, method)(*arguments, **options)

    async def collect(self, method: str, *arguments: Any, **options: Any) -> list[Any]:
        return [item async for item in getattr(self.client, method)(*arguments, **options)]

    async def post(self, *arguments: Any, **options: Any) -> tuple[Any, list[palaver.Event]]:
        reply = self.client.post_user_query(*arguments, **options)
        return reply, await self.read(reply)

    async def next(self, reply: Any) -> palaver.Event:
        return await reply.__anext__()

    async def read(self, reply: Any) -> list[palaver.Event]:
        return [event async for event in reply]


Connect = Callable[..., Awaitable[Driver]]


@pytest.fixture(params=["sync", "async"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Creates a sync or async client from the arguments of its constructor."""
    async with AsyncExitStack() as stack:

        async def make(*arguments: Any, **options: Any) -> Driver:
            if request.param == "sync":
                return SyncDriver(stack.enter_context(palaver.Client(*arguments, **options)))
            return AsyncDriver(await stack.enter_async_context(palaver.AsyncClient(*arguments, **options)))

        yield make


@pytest.fixture
async def driver(connect: Connect, server: ScriptedServer) -> Driver:
    return await connect(server.target)
