"""Servers of the version before and of the next one, which use a database at the same time as this one."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from palaver.v1 import assistant_service_pb2 as pb
from palaver_server.domain.conversation import IfExists, Role
from palaver_server.domain.turns import TurnKey
from palaver_server.stores.sqlite import SqliteStore
from palaver_server.stores.sqlite.schema import SCHEMA
from tests.support.calls import query
from tests.support.conversations import add_turn, create, draft, finished, history, key, version_of
from tests.support.endpoint import Endpoint
from tests.support.palaver_server import server_with_assistant
from tests.support.statuses import failure_of

SCHEMA_VERSION = 3


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database as the version before creates it."""
    with closing(sqlite3.connect(tmp_path / "palaver.db")) as connection:
        connection.executescript(SCHEMA)
        connection.execute(f"PRAGMA application_id = {0x50414C56}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return tmp_path / "palaver.db"


@pytest.fixture
def older(path: Path) -> Iterator[sqlite3.Connection]:
    """The connection of a server of the version before, which was open first."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        yield connection


async def test_an_older_server_goes_on_with_the_database_while_a_newer_one_uses_it(
    path: Path, older: sqlite3.Connection
):
    store = SqliteStore(path)
    await create(store, instructions="")
    await add_turn(store)
    assert older.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)  # so it may also start again

    [(row,)] = older.execute("SELECT key FROM assistants").fetchall()
    older.execute("BEGIN IMMEDIATE")
    older.execute("INSERT INTO messages VALUES (?, 3, 'user', 'Hi', 9000000000000000, '', '', 'old', 0)", (row,))
    older.execute("INSERT INTO turns VALUES (?, 'old', 'hash', 3, 3, 'stop', '{\"model_calls\": 1}', 'gpt')", (row,))
    older.execute("UPDATE assistants SET total_messages = 3, updated_at = 9000000000000000")
    older.execute("COMMIT")
    found = await store.find_turn(TurnKey(key(), "old"))
    assert found is not None
    assert (found.messages[0].content.text, found.usage.model_calls, found.parameters) == ("Hi", 1, None)
    await add_turn(store)

    older.execute("DELETE FROM assistants")
    assert older.execute("SELECT count(*) FROM turn_parameters").fetchone() == (0,)
    await store.close()


async def test_what_a_newer_server_adds_to_the_stored_objects_is_ignored(path: Path, older: sqlite3.Connection):
    store = SqliteStore(path)
    await create(store)
    await store.commit_turn(key(), await version_of(store), finished(request_id="r"))
    older.execute("UPDATE turns SET usage = json_set(usage, '$.audio_tokens', 7)")
    older.execute("UPDATE turn_parameters SET parameters = json_set(parameters, '$.seed', 7)")
    found = await store.find_turn(TurnKey(key(), "r"))
    assert found is not None
    assert found.parameters == finished().parameters
    assert found.usage == finished().usage
    await store.close()


COLUMN = "ALTER TABLE {table} ADD COLUMN added TEXT NOT NULL DEFAULT 'new'"


async def test_this_server_goes_on_when_a_newer_one_adds_columns_and_tables(path: Path, older: sqlite3.Connection):
    store = SqliteStore(path)
    await create(store)
    newer = older  # an unprepared connection, on which the test makes the changes of a newer server
    for table in ("assistants", "messages", "turns", "turn_parameters", "message_extras"):
        newer.execute(COLUMN.format(table=table))
    newer.execute("CREATE TABLE added (assistant INTEGER NOT NULL REFERENCES assistants ON DELETE CASCADE)")
    newer.execute("INSERT INTO added SELECT key FROM assistants")
    for opened in (store, SqliteStore(path)):
        await add_turn(opened, draft(Role.USER, "Hi"), draft(Role.ASSISTANT, "Ho", endpoint_state='["signature"]'))
        found = await history(opened)
        assert [message.content.text for message in found[-2:]] == ["Hi", "Ho"]
        assert await opened.find_turn(TurnKey(key(), found[-1].request_id)) is not None
        await create(opened, f"by {id(opened)}")
    await store.create_assistant(key(), "", IfExists.RESET)
    assert newer.execute("SELECT count(*) FROM added").fetchone() == (0,)
    await store.close()
    await opened.close()


async def test_no_model_is_called_when_a_newer_server_has_changed_the_version(
    path: Path, older: sqlite3.Connection, endpoint: Endpoint
):
    async with server_with_assistant(path.parent, endpoint.url) as served:
        older.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        for call in (
            served.stub.PostUserQueryUnary(query()),
            served.stub.PostUserQueryUnary(query(request_id="r")),
            served.stub.GetAssistant(pb.GetAssistantRequest(id="a")),
            served.stub.DeleteAssistant(pb.DeleteAssistantRequest(id="a")),
        ):
            failure = await failure_of(call)
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
            assert f"schema version {SCHEMA_VERSION + 1}" in failure.text
        assert endpoint.calls == []


async def test_no_model_is_called_when_the_data_folder_is_gone(tmp_path: Path, endpoint: Endpoint):
    folder = tmp_path / "data"
    async with server_with_assistant(folder, endpoint.url) as served:
        await served.stub.PostUserQueryUnary(query())
        shutil.rmtree(folder)
        for _ in range(2):
            failure = await failure_of(served.stub.PostUserQueryUnary(query()))
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert len(endpoint.calls) == 1
