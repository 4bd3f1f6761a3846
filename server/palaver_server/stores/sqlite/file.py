"""The database file: its schema, its checks at opening, and its transactions."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from palaver_server.domain.errors import StoreCorrupt, StoreFull, StoreUnavailable

APPLICATION_ID = 0x50414C56  # "PALV"
SCHEMA_VERSION = 3
SCHEMA = """
CREATE TABLE assistants (
    key INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused: a reset conversation gets a new one
    collection TEXT NOT NULL COLLATE NOCASE,
    id TEXT NOT NULL,
    created_at INTEGER NOT NULL,  -- times are microseconds since 1970, UTC
    updated_at INTEGER NOT NULL,
    total_messages INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    lease_holder TEXT NOT NULL DEFAULT '',
    lease_until INTEGER NOT NULL DEFAULT 0,
    UNIQUE (collection, id)
) STRICT;
CREATE TABLE messages (
    assistant INTEGER NOT NULL REFERENCES assistants ON DELETE CASCADE,
    "index" INTEGER NOT NULL,
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    skill_calls TEXT NOT NULL,  -- empty, or a JSON array of [id, name, arguments_json]
    skill_call_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    is_error INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (assistant, "index")
) STRICT;
CREATE INDEX messages_by_time ON messages (assistant, created_at);
CREATE TABLE turns (
    assistant INTEGER NOT NULL REFERENCES assistants ON DELETE CASCADE,
    request_id TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    first_index INTEGER NOT NULL,
    last_index INTEGER NOT NULL,
    finish_reason TEXT NOT NULL,
    usage TEXT NOT NULL,  -- a JSON object
    chat_model TEXT NOT NULL,
    PRIMARY KEY (assistant, request_id)
) STRICT;
"""

MIGRATIONS = {
    1: (
        "ALTER TABLE assistants ADD COLUMN lease_holder TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE assistants ADD COLUMN lease_until INTEGER NOT NULL DEFAULT 0",
    ),
    2: ("ALTER TABLE messages ADD COLUMN is_error INTEGER NOT NULL DEFAULT 0",),
}
"""The statements that upgrade the schema from each version to the next one."""

ADDITIONS = (
    """
CREATE TABLE IF NOT EXISTS turn_parameters (
    assistant INTEGER NOT NULL REFERENCES assistants ON DELETE CASCADE,
    request_id TEXT NOT NULL,
    parameters TEXT NOT NULL,  -- a JSON object
    PRIMARY KEY (assistant, request_id)
) STRICT
""",
    """
CREATE TABLE IF NOT EXISTS message_extras (
    assistant INTEGER NOT NULL REFERENCES assistants ON DELETE CASCADE,
    "index" INTEGER NOT NULL,  -- of the message
    extras TEXT NOT NULL,  -- a JSON object
    PRIMARY KEY (assistant, "index")
) STRICT
""",
)
"""Tables that older servers may ignore. They do not change the version, so an older server can keep using the file."""


def connect(path: Path, busy_timeout: float) -> sqlite3.Connection:
    """Opens a database, checks it and migrates it, or creates it if there is no file.

    `busy_timeout` is the time in seconds that a transaction waits for those of other processes.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable("the folder of the database can't be created") from error
    # The store's thread opens the connection, but at exit the interpreter may close it in another thread.
    connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        with transaction(connection):
            _check_or_create_schema(connection)  # before anything else: the file may be another program's
        _use_write_ahead_log(connection, busy_timeout)
        connection.execute("PRAGMA synchronous = FULL")  # an acknowledged turn survives a power failure
        connection.execute("PRAGMA foreign_keys = ON")
        _check_integrity(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _use_write_ahead_log(connection: sqlite3.Connection, busy_timeout: float) -> None:
    deadline = time.monotonic() + busy_timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:  # noqa: PERF203 - the statement is retried
            # Changing the mode needs exclusive access, and SQLite does not wait for it.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _check_integrity(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise StoreCorrupt("the database is damaged")


def _check_or_create_schema(connection: sqlite3.Connection) -> None:
    if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        for statement in SCHEMA.split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    elif connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreCorrupt("the database is not one of Palaver's")
    else:
        _migrate(connection, connection.execute("PRAGMA user_version").fetchone()[0])
    for statement in ADDITIONS:
        connection.execute(statement)


def _migrate(connection: sqlite3.Connection, found: int) -> None:
    if not 1 <= found <= SCHEMA_VERSION:
        raise StoreCorrupt(f"the database has schema version {found}; this server knows version {SCHEMA_VERSION}")
    for version in range(found, SCHEMA_VERSION):
        for statement in MIGRATIONS[version]:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version + 1}")


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE", *, is_durable: bool = True) -> Iterator[None]:
    """Runs a block as a transaction. Without `is_durable`, a power failure may undo it after its commit."""
    if not is_durable:
        connection.execute("PRAGMA synchronous = NORMAL")
    try:
        connection.execute(f"BEGIN {kind}")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            # SQLite rolls back on its own after some errors, such as a full disk.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    finally:
        if not is_durable:
            connection.execute("PRAGMA synchronous = FULL")


@contextmanager
def store_errors() -> Iterator[None]:
    """Converts the errors of SQLite to those of a store."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "disk is full" in text:
            raise StoreFull("the disk of the database is full") from error
        # DatabaseError itself means a damaged file. Its subclasses mean a failure with a sound one, except these two.
        if type(error) is sqlite3.DatabaseError or "malformed" in text or "Could not decode to UTF-8" in text:
            raise StoreCorrupt("the database is damaged") from error
        if isinstance(error, sqlite3.OperationalError):
            raise StoreUnavailable("the database can't be used right now") from error
        raise
