"""The backends that the contract is run against. A new one is a context manager here and its name in `BACKENDS`."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from palaver_server.stores.sqlite import SqliteStore
from palaver_server.stores.store import Store


@dataclass(frozen=True)
class Place:
    """Somewhere to keep conversations, empty at first and gone after the test."""

    connect: Callable[[], Awaitable[Store]]
    """Opens another store on this place, as another process would. It is closed after the test."""
    close: Callable[[Store], Awaitable[None]]
    """Closes a store during the test."""
    move_into_future: Callable[[timedelta], None]
    """Moves all times that are stored, which for the stores is as if the clock had been set back."""


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[Place]:
    path = folder / "contract.db"
    async with AsyncExitStack() as stack:
        opened: dict[int, AsyncExitStack] = {}

        async def connect() -> Store:
            store = SqliteStore(path)
            closing = opened[id(store)] = await stack.enter_async_context(AsyncExitStack())
            closing.push_async_callback(store.close)
            await store.open()
            return store

        async def close(store: Store) -> None:
            await opened[id(store)].aclose()

        def move_into_future(by: timedelta) -> None:
            with sqlite3.connect(path) as connection:
                step = by // timedelta(microseconds=1)
                connection.execute(
                    "UPDATE assistants SET created_at = created_at + ?, updated_at = updated_at + ?", (step, step)
                )
                connection.execute("UPDATE messages SET created_at = created_at + ?", (step,))
            connection.close()

        yield Place(connect, close, move_into_future)


BACKENDS: dict[str, Callable[[Path], AbstractAsyncContextManager[Place]]] = {"sqlite": sqlite}


@pytest.fixture(params=BACKENDS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with BACKENDS[request.param](tmp_path) as place:
        yield place


@pytest.fixture
async def store(place: Place) -> Store:
    return await place.connect()
