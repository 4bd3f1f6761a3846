"""Servers of the version before, which use a database at the same time as this one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from palaver_server.domain.turns import TurnKey
from palaver_server.stores.sqlite import SqliteStore
from palaver_server.stores.sqlite.file import SCHEMA
from tests.support.conversations import add_turn, create, finished, key, version_of

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
