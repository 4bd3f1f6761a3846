"""Faults of SQLite, as callers see them. Those of Azure are in `tests/stores/test_azure_faults.py`."""

# ruff: noqa: ASYNC240 - nothing else runs in the event loop meanwhile

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from palaver.v1 import assistant_service_pb2 as pb
from palaver_server.settings import SettingsError
from tests.stores.small_disk import run_on_small_disk
from tests.support.calls import contents, create_assistant, query, read_rest
from tests.support.damages import DAMAGES
from tests.support.endpoint import Endpoint, Stream
from tests.support.palaver_server import Served, palaver_server, server_with_assistant
from tests.support.statuses import failure_of

KEY = {"id": "a", "chat_storage_connection_setting": "Other"}
QUERY = query()

CALLS_TO_ANOTHER: dict[str, Callable[[Served], Awaitable[Any]]] = {
    "CreateAssistant": lambda served: served.stub.CreateAssistant(
        pb.CreateAssistantRequest(**KEY, if_exists=pb.IF_EXISTS_RESET)
    ),
    "GetAssistant": lambda served: served.stub.GetAssistant(pb.GetAssistantRequest(**KEY)),
    "ListMessages": lambda served: served.stub.ListMessages(pb.ListMessagesRequest(**KEY)),
    "DeleteAssistant": lambda served: served.stub.DeleteAssistant(pb.DeleteAssistantRequest(**KEY)),
    "PostUserQuery": lambda served: served.stub.PostUserQuery(
        pb.PostUserQueryRequest(**KEY, user_message="Hello")
    ).read(),
    "PostUserQueryUnary": lambda served: served.stub.PostUserQueryUnary(
        pb.PostUserQueryRequest(**KEY, user_message="Hello", request_id="r")
    ),
}


async def assert_next_turn_works(served: Served) -> None:
    await served.stub.PostUserQueryUnary(QUERY, timeout=5)  # much less than the 15 seconds of a lease
    assert await contents(served) == ["Hello", "Hello, world"]


@pytest.mark.parametrize("damage", DAMAGES)
class TestDamage:
    @pytest.fixture
    async def database(self, tmp_path: Path, damage: Callable[[bytes], bytes]) -> Path:
        """A damaged database of many pages."""
        folder = tmp_path / "damaged"
        async with palaver_server(folder) as served:
            await create_assistant(served, instructions="x" * 300_000)
        [database] = folder.iterdir()
        database.write_bytes(damage(database.read_bytes()))
        return database

    async def test_a_damaged_default_database_fails_the_start(self, database: Path):
        before = database.read_bytes()
        for _ in range(2):
            with pytest.raises(SettingsError, match="can't be used: the database is damaged"):
                async with palaver_server(database.parent):
                    pass
        assert database.read_bytes() == before
        assert list(database.parent.iterdir()) == [database]

    async def test_a_damaged_database_of_another_connection_affects_only_its_callers(
        self, tmp_path: Path, endpoint: Endpoint, database: Path
    ):
        before = database.read_bytes()
        connections = {"storage_connections": ("AzureWebJobsStorage", "Other")}
        async with server_with_assistant(
            tmp_path, endpoint.url, {"Other": f"sqlite:{database}"}, **connections
        ) as served:
            for name, call in CALLS_TO_ANOTHER.items():
                failure = await failure_of(call(served))
                assert (failure.code, failure.reason) == (grpc.StatusCode.DATA_LOSS, "STORE_CORRUPT"), name
                assert failure.retry_delay is None
                assert str(tmp_path) not in failure.text
            assert endpoint.calls == []
            await assert_next_turn_works(served)
        assert database.read_bytes() == before
        assert list(database.parent.iterdir()) == [database]


class TestLock:
    @pytest.mark.parametrize("stage", ["from the start", "when the turn is stored"])
    async def test_a_lock_held_by_another_program_makes_the_store_unavailable(
        self, tmp_path: Path, endpoint: Endpoint, stage: str
    ):
        gate = asyncio.Event()
        endpoint.script(Stream("Hello", gate, ", world"))
        async with server_with_assistant(tmp_path, endpoint.url, store_timeout=0.7) as served:
            with closing(sqlite3.connect(tmp_path / "palaver.db", isolation_level=None)) as connection:
                if stage == "from the start":
                    connection.execute("BEGIN IMMEDIATE")
                call = served.stub.PostUserQuery(QUERY)
                if stage == "when the turn is stored":
                    await call.read()
                    connection.execute("BEGIN IMMEDIATE")
                    gate.set()
                failure = await failure_of(read_rest(call))
                assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
                assert failure.retry_delay is not None
                assert len(endpoint.calls) == (0 if stage == "from the start" else 1)
                assert await contents(served) == []
                connection.rollback()
            gate.set()
            await assert_next_turn_works(served)


class TestDisk:
    def test_nothing_is_stored_of_a_turn_if_the_disk_fills_up(self, tmp_path: Path):
        run_on_small_disk("full_during_a_turn", tmp_path / "disk")
