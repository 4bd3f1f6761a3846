"""The rows of the database: the statements that read and write them, and their conversion to values."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from palaver_server.domain.conversation import Assistant, AssistantKey, Message, Role, SkillCall
from palaver_server.domain.errors import AssistantNotFound, ConcurrentWrite, StoreCorrupt, TurnCancelled
from palaver_server.domain.limits import MAX_MESSAGES
from palaver_server.domain.turns import FinishedTurn, FoundTurn, Lease, LeaseHolder, StoredTurn, TurnKey, Version
from palaver_server.stores.common import (
    count,
    dump_extras,
    dump_parameters,
    dump_usage,
    load_found_turn,
    load_message,
    reading,
    text,
)
from palaver_server.stores.leases import StoredLease

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

_ASSISTANT_COLUMNS = "key, id, created_at, updated_at, total_messages, total_tokens, lease_holder, lease_until"
_MESSAGE_COLUMNS = '"index", role, content, created_at, skill_calls, skill_call_id, request_id, is_error, extras'


@dataclass(frozen=True, slots=True)
class SqliteVersion(Version):
    """The state of a conversation in the database, which a commit compares with the current one."""

    row: int
    """The key of the assistant's row. A reset conversation gets a new one."""
    total_messages: int
    holder: LeaseHolder | None
    """The holder of the lease that was taken, or None if none was."""

    def current_row(self, connection: sqlite3.Connection, key: AssistantKey) -> sqlite3.Row:
        """Returns the assistant's row if it still is as this version says.

        Raises `TurnCancelled` if the lease was cancelled, and `ConcurrentWrite` after any other change.
        """
        row = find_assistant(connection, key)
        if row is not None and (row["key"], row["total_messages"]) == (self.row, self.total_messages):
            lease = stored_lease(row)
            if self.holder is None or lease.is_held_by(self.holder):
                return row
            if lease.was_cancelled(self.holder):
                raise TurnCancelled("the turn was cancelled")
        raise ConcurrentWrite("the conversation has changed, or another turn has its lease")


def find_assistant(connection: sqlite3.Connection, key: AssistantKey) -> sqlite3.Row | None:
    """Returns the row of an assistant, or None."""
    row: sqlite3.Row | None = connection.execute(
        f"SELECT {_ASSISTANT_COLUMNS} FROM assistants WHERE collection = ? AND id = ?",  # noqa: S608 - all constants
        (key.collection, key.id),
    ).fetchone()
    return row


def select_assistants(connection: sqlite3.Connection, collection: str, after: str, limit: int) -> list[sqlite3.Row]:
    """Returns the rows of the first assistants of a collection behind an id. The index has them in this order."""
    return connection.execute(
        f"SELECT {_ASSISTANT_COLUMNS} FROM assistants"  # noqa: S608 - all constants
        " WHERE collection = ? AND id > ? ORDER BY id LIMIT ?",
        (collection, after, limit),
    ).fetchall()


def get_assistant(connection: sqlite3.Connection, key: AssistantKey) -> sqlite3.Row:
    """Returns the row of an assistant, or raises `AssistantNotFound`."""
    row = find_assistant(connection, key)
    if row is None:
        raise AssistantNotFound(key.id, key.collection)
    return row


def insert_assistant(connection: sqlite3.Connection, collection: str, assistant: Assistant) -> int:
    """Inserts the row of a new assistant and returns the row's key."""
    created_at = microseconds(assistant.create_time)
    cursor = connection.execute(
        "INSERT INTO assistants (collection, id, created_at, updated_at, total_messages, total_tokens)"
        " VALUES (?, ?, ?, ?, ?, 0)",
        (collection, assistant.id, created_at, created_at, assistant.total_messages),
    )
    return cursor.lastrowid or 0


@reading("the state of the assistant")
def assistant(row: sqlite3.Row) -> Assistant:
    """Returns the assistant of a row."""
    return Assistant(
        id=row["id"],
        create_time=time(row["created_at"]),
        update_time=time(row["updated_at"]),
        total_messages=count(row["total_messages"], MAX_MESSAGES),
        total_tokens=count(row["total_tokens"]),
    )


@reading("the lease of the assistant")
def stored_lease(row: sqlite3.Row) -> StoredLease:
    """Returns the lease in the row of an assistant."""
    return StoredLease.parse(row["lease_holder"], time(row["lease_until"]))


def write_lease(connection: sqlite3.Connection, row: int, lease: StoredLease) -> None:
    """Writes a lease to the row of an assistant."""
    connection.execute(
        "UPDATE assistants SET lease_holder = ?, lease_until = ? WHERE key = ?",
        (lease.holder_text, microseconds(lease.until), row),
    )


def extend_lease(connection: sqlite3.Connection, row: int, lease: Lease) -> None:
    """Writes a lease that lasts from now on."""
    write_lease(connection, row, StoredLease.lasting(lease, now()))


def select_messages(connection: sqlite3.Connection, condition: str, *parameters: object) -> sqlite3.Cursor:
    """Selects messages. `condition` is everything that follows WHERE in the statement."""
    return connection.execute(
        f"SELECT {_MESSAGE_COLUMNS} FROM messages"  # noqa: S608 - all constants
        f' LEFT JOIN message_extras USING (assistant, "index") WHERE {condition}',
        parameters,
    )


def insert_message(connection: sqlite3.Connection, row: int, message: Message) -> None:
    """Inserts a message of the assistant with this row. Raises `StoreCorrupt` if there is one with its index."""
    calls = [(call.id, call.name, call.arguments_json) for call in message.skill_calls]
    try:
        connection.execute(
            'INSERT INTO messages (assistant, "index", role, content, created_at, skill_calls, skill_call_id,'
            " request_id, is_error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (row, message.index, message.role.value, message.content.text, microseconds(message.create_time),
             json.dumps(calls) if calls else "", message.skill_call_id, message.request_id, int(message.is_error)),
        )  # fmt: skip
    except sqlite3.IntegrityError as error:
        raise StoreCorrupt("the assistant has more messages than its state says") from error
    if extras := dump_extras(message):
        connection.execute(
            'INSERT INTO message_extras (assistant, "index", extras) VALUES (?, ?, ?)', (row, message.index, extras)
        )


@reading("a stored message")
def message(row: sqlite3.Row) -> Message:
    """Returns the message of a row."""
    return load_message(
        content=row["content"],
        extras=row["extras"],
        role=Role(row["role"]),
        skill_calls=_skill_calls(row["skill_calls"]),
        skill_call_id=row["skill_call_id"],
        is_error=bool(row["is_error"]),
        index=count(row["index"], MAX_MESSAGES),
        create_time=time(row["created_at"]),
        request_id=row["request_id"],
    )


def _skill_calls(stored: str) -> tuple[SkillCall, ...]:
    return tuple(SkillCall(*map(text, call)) for call in json.loads(stored)) if stored else ()


def insert_turn(connection: sqlite3.Connection, row: int, turn: FinishedTurn, stored: StoredTurn) -> None:
    """Inserts a turn, its messages and its parameters, and updates the assistant.

    Raises `ConcurrentWrite` if the turn is already stored.
    """
    for new in stored.messages:
        insert_message(connection, row, new)
    first_index, last_index = stored.messages[0].index, stored.messages[-1].index
    try:
        connection.execute(
            "INSERT INTO turns (assistant, request_id, request_hash, first_index, last_index, finish_reason, usage,"
            " chat_model) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (row, turn.request_id, turn.request_hash, first_index, last_index,
             turn.finish_reason.value, dump_usage(turn.usage), turn.chat_model),
        )  # fmt: skip
    except sqlite3.IntegrityError as error:
        raise ConcurrentWrite("the turn is already stored") from error
    connection.execute(
        "INSERT INTO turn_parameters (assistant, request_id, parameters) VALUES (?, ?, ?)",
        (row, turn.request_id, dump_parameters(turn.parameters)),
    )
    connection.execute(
        "UPDATE assistants SET updated_at = ?, total_messages = ?, total_tokens = ?, lease_holder = '',"
        " lease_until = 0 WHERE key = ?",
        (microseconds(stored.assistant.update_time), last_index, turn.total_tokens, row),
    )


def find_turn(connection: sqlite3.Connection, key: TurnKey) -> FoundTurn | None:
    """Returns a stored turn, or None."""
    owner = find_assistant(connection, key.assistant)
    if owner is None:
        return None
    row = connection.execute(
        "SELECT request_hash, first_index, last_index, finish_reason, usage, chat_model, parameters"
        " FROM turns LEFT JOIN turn_parameters USING (assistant, request_id)"
        " WHERE assistant = ? AND request_id = ?",
        (owner["key"], key.request_id),
    ).fetchone()
    if row is None:
        return None
    indexes = (row["first_index"], row["last_index"])
    rows = select_messages(
        connection, 'assistant = ? AND "index" BETWEEN ? AND ? ORDER BY "index"', owner["key"], *indexes
    )
    return load_found_turn(
        assistant(owner),
        tuple(map(message, rows)),
        request_hash=row["request_hash"],
        finish_reason=row["finish_reason"],
        usage=row["usage"],
        chat_model=row["chat_model"],
        parameters=row["parameters"],
    )


def now() -> datetime:
    """Returns the current time, in UTC."""
    return datetime.now(timezone.utc)


def microseconds(time: datetime) -> int:
    """Returns a time as the database stores it."""
    return (time - EPOCH) // timedelta(microseconds=1)


def time(microseconds: int) -> datetime:
    """Returns a stored time."""
    return EPOCH + timedelta(microseconds=microseconds)
