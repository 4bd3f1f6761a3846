"""The schema of the database, and its versions.

A server of an older version may have the file open at the same time, or be started again. So a change adds tables, or
columns with a default, and leaves the version alone: every statement names its columns, and ignores those that it does
not know. Only a change that an older server can't live with increases the version. Such a server then refuses each call
when it begins, so before it calls a model.
"""

from __future__ import annotations

import sqlite3

from palaver_server.domain.errors import StoreCorrupt, StoreUnavailable

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
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE IF NOT EXISTS message_extras (
    assistant INTEGER NOT NULL REFERENCES assistants ON DELETE CASCADE,
    "index" INTEGER NOT NULL,  -- of the message
    extras TEXT NOT NULL,  -- a JSON object
    PRIMARY KEY (assistant, "index")
) STRICT, WITHOUT ROWID
""",
)
"""Tables that older servers ignore."""


def prepare(connection: sqlite3.Connection, *, may_create: bool) -> None:
    """Checks the schema of a database and upgrades it, or creates it in an empty file if that is allowed."""
    if not (version := usable_version(connection)):
        if not may_create:
            raise StoreUnavailable("the database was replaced by an empty file")
        for statement in SCHEMA.split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    else:
        _migrate(connection, version)
    for statement in ADDITIONS:
        connection.execute(statement)


def usable_version(connection: sqlite3.Connection) -> int:
    """Returns the version of a database's schema, or 0 for an empty file.

    Raises `StoreCorrupt` if it is not a database that this server can upgrade.
    """
    if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        return 0
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreCorrupt("the database is not one of Palaver's")
    if not 1 <= (found := version_of(connection)) <= SCHEMA_VERSION:
        raise StoreCorrupt(f"the database has schema version {found}; this server knows version {SCHEMA_VERSION}")
    return found


def version_of(connection: sqlite3.Connection) -> int:
    """Returns the version of a database's schema."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check_version(connection: sqlite3.Connection) -> None:
    """Raises `StoreUnavailable` if a newer server has changed the schema since the database was opened."""
    if (found := version_of(connection)) != SCHEMA_VERSION:
        raise StoreUnavailable(
            f"a newer server has upgraded the database to schema version {found}; this server knows {SCHEMA_VERSION}"
        )


def _migrate(connection: sqlite3.Connection, found: int) -> None:
    for version in range(found, SCHEMA_VERSION):
        for statement in MIGRATIONS[version]:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version + 1}")
