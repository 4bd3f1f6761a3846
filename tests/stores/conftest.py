"""The stores that the contract is tested with. A new one is a context manager here and its name in `BACKENDS`."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from azure.data.tables import TableEntity, TableServiceClient

from palaver_server.domain.ports import Store
from palaver_server.stores.azure import AzureTablesStore
from palaver_server.stores.sqlite import SqliteStore
from palaver_server.stores.sqlite.rows import microseconds
from tests.support.azurite import Account
from tests.support.endpoint import Endpoint
from tests.support.palaver_server import Served, palaver_server


@dataclass(frozen=True)
class Place:
    """A place where stores keep conversations. It is empty at first and removed after the test."""

    connect: Callable[[], Awaitable[Store]]
    """Opens another store on the place, as another process would. The store is closed after the test."""
    close: Callable[[Store], Awaitable[None]]
    """Closes a store during the test."""
    move_into_future: Callable[[timedelta], None]
    """Moves all stored times forward. For the stores, this looks as if the clock had been set back."""
    skip_to: Callable[[int], None]
    """Gives the newest message of the only assistant an index. The messages before it may then be missing."""
    set_lease: Callable[[str, datetime], None]
    """Overwrites the lease of the only assistant: its holder in text form, and when it expires."""
    set_turn_column: Callable[[str, object], None]
    """Overwrites a column of the only turn: `usage`, `parameters` or `finish_reason`."""
    set_extras: Callable[[str], None]
    """Overwrites the extras of all messages that have some."""
    variables: dict[str, str]
    """The environment of a server that keeps its conversations here."""
    ignores_case: bool = True
    """True if collections ignore the case of their names, as in Azure and with SQLite. Azurite does not ignore it."""


@asynccontextmanager
async def sqlite(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    path = request.getfixturevalue("tmp_path") / "contract.db"
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

        def execute(statement: str, *parameters: object) -> None:
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute(statement, parameters)

        def move_into_future(by: timedelta) -> None:
            step = by // timedelta(microseconds=1)
            columns = ("created_at", "updated_at", "lease_until")
            execute(f"UPDATE assistants SET {', '.join(f'{name} = {name} + {step}' for name in columns)}")
            execute("UPDATE messages SET created_at = created_at + ?", step)

        def skip_to(count: int) -> None:
            execute("UPDATE assistants SET total_messages = ?", count)

        def set_lease(holder: str, until: datetime) -> None:
            execute("UPDATE assistants SET lease_holder = ?, lease_until = ?", holder, microseconds(until))

        def set_turn_column(column: str, value: object) -> None:
            table = "turn_parameters" if column == "parameters" else "turns"
            execute(f"UPDATE {table} SET {column} = ?", value)

        def set_extras(text: str) -> None:
            execute("UPDATE message_extras SET extras = ?", text)

        variables = {"AzureWebJobsStorage": f"sqlite:{path}"}
        yield Place(connect, close, move_into_future, skip_to, set_lease, set_turn_column, set_extras, variables)


def change_rows(account: Account, changes: Callable[[TableEntity], dict[str, Any]]) -> None:
    """Changes columns of all rows of an account."""
    with TableServiceClient.from_connection_string(account.connection_string) as service:
        for table in service.list_tables():
            client = service.get_table_client(table.name)
            for row in client.list_entities():
                keys = {"PartitionKey": row["PartitionKey"], "RowKey": row["RowKey"]}
                client.update_entity(keys | changes(row))


@asynccontextmanager
async def azure_tables(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    account = request.getfixturevalue("azurite").account()
    async with AsyncExitStack() as stack:
        opened: dict[int, AsyncExitStack] = {}

        async def connect() -> Store:
            store = AzureTablesStore(connection_string=account.connection_string)
            closing = opened[id(store)] = await stack.enter_async_context(AsyncExitStack())
            await store.open()
            closing.push_async_callback(store.close)
            return store

        async def close(store: Store) -> None:
            await opened[id(store)].aclose()

        change = partial(change_rows, account)

        def move_into_future(by: timedelta) -> None:
            change(lambda row: {name: value + by for name, value in row.items() if isinstance(value, datetime)})

        def skip_to(count: int) -> None:
            change(lambda row: {"TotalMessages": count} if row["RowKey"] == "state" else {})

        def set_lease(holder: str, until: datetime) -> None:
            lease = {"LeaseHolder": holder, "LeaseUntil": until}
            change(lambda row: lease if row["RowKey"] == "state" else {})

        def set_turn_column(column: str, value: object) -> None:
            name = column.title().replace("_", "")
            change(lambda row: {name: value} if row["RowKey"].startswith("done-") else {})

        def set_extras(text: str) -> None:
            change(lambda row: {"Extras_00": text, "ExtrasParts": 1} if "ExtrasParts" in row else {})

        variables = {"AzureWebJobsStorage": account.connection_string}
        yield Place(
            connect=connect,
            close=close,
            move_into_future=move_into_future,
            skip_to=skip_to,
            set_lease=set_lease,
            set_turn_column=set_turn_column,
            set_extras=set_extras,
            variables=variables,
            ignores_case=False,
        )


BACKENDS = {"sqlite": sqlite, "azure_tables": azure_tables}


@pytest.fixture(params=BACKENDS)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """A place of each kind."""
    async with BACKENDS[request.param](request) as place:
        yield place


@pytest.fixture
async def store(place: Place) -> Store:
    """A store of each kind."""
    return await place.connect()


@pytest.fixture
async def served(tmp_path: Path, account: Account, endpoint: Endpoint) -> AsyncIterator[Served]:
    """A server with an empty store in Azure Table Storage."""
    async with palaver_server(tmp_path, endpoint.url, {"AzureWebJobsStorage": account.connection_string}) as running:
        yield running
