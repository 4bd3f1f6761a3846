"""The embedded store: one SQLite file, for one machine.

The standard library's `sqlite3` in a single thread measured three times faster than an asyncio wrapper around it, and
one writer is all that SQLite has anyway. Other processes may use the same file at the same time.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TypeVar

from palaver_server.errors import (
    AssistantBusy,
    AssistantExists,
    AssistantNotFound,
    ConcurrentWrite,
    ConversationFull,
    StoreCorrupt,
    TurnCancelled,
)
from palaver_server.failpoints import Failpoint, reach
from palaver_server.models import Assistant, FinishReason, IfExists, Message, Order, Role, SkillCall, Usage
from palaver_server.stores.sqlite_file import connect, store_errors, transaction
from palaver_server.stores.store import (
    CANCELLED,
    MAX_MESSAGES,
    TIME_TO_TELL,
    FinishedTurn,
    FoundTurn,
    Lease,
    Limits,
    Listing,
    Page,
    StoredTurn,
    Window,
    page,
)

ASSISTANT_COLUMNS = "key, id, created_at, updated_at, total_messages, total_tokens, lease_holder, lease_until"
MESSAGE_COLUMNS = '"index", role, content, created_at, skill_calls, skill_call_id, request_id, is_error'
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

T = TypeVar("T")


class SqliteStore:
    """A `Store` in one SQLite file."""

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        """Names the file. `open` makes or opens it; each later call opens it where that has not succeeded yet."""
        self._path = path
        self._busy_timeout = (limits or Limits()).call - TIME_TO_TELL
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Opens the database and checks it, or raises `StoreCorrupt` or `StoreUnavailable`. It is never recreated."""
        await self._run(lambda _connection: None)

    async def create_assistant(
        self, collection: str, assistant_id: str, instructions: str, if_exists: IfExists
    ) -> tuple[Assistant, bool]:
        def create(connection: sqlite3.Connection) -> tuple[Assistant, bool]:
            with transaction(connection):
                found = _find(connection, collection, assistant_id)
                if found is not None:
                    if if_exists is IfExists.KEEP:
                        return _assistant(found), False
                    if if_exists is IfExists.FAIL:
                        raise AssistantExists(assistant_id, collection)
                    connection.execute("DELETE FROM assistants WHERE key = ?", (found["key"],))
                now = _now()
                has_instructions = bool(instructions.strip())
                key = connection.execute(
                    "INSERT INTO assistants (collection, id, created_at, updated_at, total_messages, total_tokens)"
                    " VALUES (?, ?, ?, ?, ?, 0)",
                    (collection, assistant_id, now, now, int(has_instructions)),
                ).lastrowid
                if has_instructions:
                    _insert_message(
                        connection, key, Message(Role.SYSTEM, instructions, index=1, create_time=_time(now))
                    )
                return _assistant(_get(connection, collection, assistant_id)), True

        return await self._run(create)

    async def get_assistant(self, collection: str, assistant_id: str) -> Assistant:
        return await self._run(lambda connection: _assistant(_get(connection, collection, assistant_id)))

    async def list_messages(self, collection: str, assistant_id: str, listing: Listing) -> Page:
        oldest_first = listing.order is Order.OLDEST_FIRST
        after_index = listing.after_index
        if after_index is None:
            after_index = 0 if oldest_first else MAX_MESSAGES + 1
        query = (
            f"SELECT {MESSAGE_COLUMNS} FROM messages"  # noqa: S608 - built of constants
            f' WHERE assistant = ? AND created_at > ? AND "index" {">" if oldest_first else "<"} ?'
            f' ORDER BY "index" {"ASC" if oldest_first else "DESC"} LIMIT ?'
        )
        after_time = -1 if listing.after_time is None else _microseconds(listing.after_time)

        def select(connection: sqlite3.Connection) -> Page:
            with transaction(connection, "DEFERRED"):
                key = _get(connection, collection, assistant_id)["key"]
                # One row more than the page holds tells whether there are more.
                rows = connection.execute(query, (key, after_time, after_index, listing.limit + 1))
                return page(map(_message, rows), listing.limit)

        return await self._run(select)

    async def delete_assistant(self, collection: str, assistant_id: str) -> None:
        def delete(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                key = _get(connection, collection, assistant_id)["key"]
                connection.execute("DELETE FROM assistants WHERE key = ?", (key,))

        await self._run(delete)

    async def read_window(
        self, collection: str, assistant_id: str, max_messages: int, lease: Lease | None = None
    ) -> Window:
        def read(connection: sqlite3.Connection) -> Window:
            # That a lease survives a power failure is not worth the wait for the disk.
            with transaction(connection, "DEFERRED" if lease is None else "IMMEDIATE", is_durable=False):
                row = _get(connection, collection, assistant_id)
                if lease is not None:
                    _take_lease(connection, row, lease)
                first = _messages(
                    connection.execute(
                        f'SELECT {MESSAGE_COLUMNS} FROM messages WHERE assistant = ? AND "index" = 1 AND role = ?',  # noqa: S608
                        (row["key"], Role.SYSTEM.value),
                    )
                )
                lowest = max(row["total_messages"] - max_messages + 1, len(first) + 1)
                messages = _messages(
                    connection.execute(
                        f'SELECT {MESSAGE_COLUMNS} FROM messages WHERE assistant = ? AND "index" >= ? ORDER BY "index"',  # noqa: S608
                        (row["key"], lowest),
                    )
                )
            holder = "" if lease is None else lease.holder
            return Window(_assistant(row), _version(row, holder), first[0] if first else None, messages)

        return await self._run(read)

    async def renew_lease(self, collection: str, assistant_id: str, version: str, lease: Lease) -> str:
        def renew(connection: sqlite3.Connection) -> str:
            with transaction(connection, is_durable=False):
                row = _current(connection, collection, assistant_id, version)
                _set_lease(connection, row["key"], lease.holder, _now() + round(lease.seconds * 1_000_000))
            return version

        return await self._run(renew)

    async def release_lease(self, collection: str, assistant_id: str, lease: Lease) -> None:
        def release(connection: sqlite3.Connection) -> None:
            with transaction(connection, is_durable=False):
                row = _find(connection, collection, assistant_id)
                if row is not None and row["lease_holder"] == lease.holder:
                    _set_lease(connection, row["key"], "", 0)

        await self._run(release)

    async def cancel_lease(self, collection: str, assistant_id: str, turn: str) -> bool:
        def cancel(connection: sqlite3.Connection) -> bool:
            with transaction(connection):
                row = _find(connection, collection, assistant_id)
                holder = "" if row is None else row["lease_holder"].removeprefix(CANCELLED)
                if row is None or not holder.startswith(turn):
                    return False
                _set_lease(connection, row["key"], CANCELLED + holder, 0)
                return True

        return await self._run(cancel)

    async def find_turn(self, collection: str, assistant_id: str, request_id: str) -> FoundTurn | None:
        def find(connection: sqlite3.Connection) -> FoundTurn | None:
            with transaction(connection, "DEFERRED"):
                assistant = _find(connection, collection, assistant_id)
                if assistant is None:
                    return None
                turn = connection.execute(
                    "SELECT * FROM turns WHERE assistant = ? AND request_id = ?", (assistant["key"], request_id)
                ).fetchone()
                if turn is None:
                    return None
                messages = _messages(
                    connection.execute(
                        f"SELECT {MESSAGE_COLUMNS} FROM messages"  # noqa: S608 - built of constants
                        ' WHERE assistant = ? AND "index" BETWEEN ? AND ? ORDER BY "index"',
                        (assistant["key"], turn["first_index"], turn["last_index"]),
                    )
                )
            return _found_turn(_assistant(assistant), messages, turn)

        return await self._run(find)

    async def commit_turn(self, collection: str, assistant_id: str, version: str, turn: FinishedTurn) -> StoredTurn:
        def commit(connection: sqlite3.Connection) -> StoredTurn:
            with transaction(connection):
                row = _current(connection, collection, assistant_id, version)
                first_index = row["total_messages"] + 1
                last_index = row["total_messages"] + len(turn.messages)
                if last_index > MAX_MESSAGES:
                    raise ConversationFull(f"a conversation holds {MAX_MESSAGES:,} messages at most")
                # A clock that was set back must not hide the messages from callers that poll by time.
                start = max(_now(), row["updated_at"] + 1)
                messages = tuple(
                    Message(
                        draft.role,
                        draft.content,
                        draft.skill_calls,
                        draft.skill_call_id,
                        draft.is_error,
                        index=first_index + offset,
                        create_time=_time(start + offset),
                        request_id=turn.request_id,
                    )
                    for offset, draft in enumerate(turn.messages)
                )
                for message in messages:
                    _insert_message(connection, row["key"], message)
                try:
                    connection.execute(
                        "INSERT INTO turns VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                        (row["key"], turn.request_id, turn.request_hash, first_index, last_index,
                         turn.finish_reason.value, json.dumps(asdict(turn.usage)), turn.chat_model),
                    )  # fmt: skip
                except sqlite3.IntegrityError as error:
                    raise ConcurrentWrite("the turn is stored already") from error
                connection.execute(
                    "UPDATE assistants SET updated_at = ?, total_messages = ?, total_tokens = ?, lease_holder = '',"
                    " lease_until = 0 WHERE key = ?",
                    (start + len(messages) - 1, last_index, turn.total_tokens, row["key"]),
                )
                reach(Failpoint.TURN_WRITTEN)
                return StoredTurn(_assistant(_get(connection, collection, assistant_id)), messages)

        return await self._run(commit)

    async def close(self) -> None:
        def close() -> None:
            if self._connection is not None:
                self._connection.close()

        await asyncio.get_running_loop().run_in_executor(self._thread, close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            with store_errors():
                if self._connection is None:
                    self._connection = connect(self._path, self._busy_timeout)
                return work(self._connection)

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)


def _find(connection: sqlite3.Connection, collection: str, assistant_id: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        f"SELECT {ASSISTANT_COLUMNS} FROM assistants WHERE collection = ? AND id = ?",  # noqa: S608 - built of constants
        (collection, assistant_id),
    ).fetchone()
    return row


def _get(connection: sqlite3.Connection, collection: str, assistant_id: str) -> sqlite3.Row:
    row = _find(connection, collection, assistant_id)
    if row is None:
        raise AssistantNotFound(assistant_id, collection)
    return row


def _take_lease(connection: sqlite3.Connection, row: sqlite3.Row, lease: Lease) -> None:
    remaining = (row["lease_until"] - _now()) / 1_000_000
    if remaining > 0 and not lease.may_follow(row["lease_holder"]):
        raise AssistantBusy("another turn of the assistant runs", retry_after=remaining)
    _set_lease(connection, row["key"], lease.holder, _now() + round(lease.seconds * 1_000_000))


def _set_lease(connection: sqlite3.Connection, key: int, holder: str, until: int) -> None:
    connection.execute("UPDATE assistants SET lease_holder = ?, lease_until = ? WHERE key = ?", (holder, until, key))


def _version(row: sqlite3.Row, lease_holder: str) -> str:
    return f"{row['key']}:{row['total_messages']}:{lease_holder}"


def _current(connection: sqlite3.Connection, collection: str, assistant_id: str, version: str) -> sqlite3.Row:
    """Finds the conversation that was read, and whose lease, if one was taken, is still not somebody else's."""
    row = _find(connection, collection, assistant_id)
    if row is not None:
        holder = row["lease_holder"]
        if version in (_version(row, ""), _version(row, holder)):
            return row
        if holder == CANCELLED + version.rpartition(":")[2]:
            raise TurnCancelled("the turn was cancelled")
    raise ConcurrentWrite("somebody else wrote to the conversation, or has a turn of the assistant")


def _assistant(row: sqlite3.Row) -> Assistant:
    return Assistant(
        id=row["id"],
        create_time=_time(row["created_at"]),
        update_time=_time(row["updated_at"]),
        total_messages=row["total_messages"],
        total_tokens=row["total_tokens"],
    )


def _found_turn(assistant: Assistant, messages: tuple[Message, ...], row: sqlite3.Row) -> FoundTurn:
    try:
        return FoundTurn(
            assistant=assistant,
            messages=messages,
            request_hash=row["request_hash"],
            finish_reason=FinishReason(row["finish_reason"]),
            usage=Usage(**json.loads(row["usage"])),
            chat_model=row["chat_model"],
        )
    except (TypeError, ValueError) as error:
        raise StoreCorrupt("a stored turn can't be read") from error


def _insert_message(connection: sqlite3.Connection, key: int | None, message: Message) -> None:
    calls = json.dumps([(call.id, call.name, call.arguments_json) for call in message.skill_calls])
    connection.execute(
        "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (key, message.index, message.role.value, message.content, _microseconds(message.create_time),
         calls if message.skill_calls else "", message.skill_call_id, message.request_id, int(message.is_error)),
    )  # fmt: skip


def _messages(rows: Iterable[sqlite3.Row]) -> tuple[Message, ...]:
    return tuple(map(_message, rows))


def _message(row: sqlite3.Row) -> Message:
    try:
        return Message(
            role=Role(row["role"]),
            content=row["content"],
            skill_calls=tuple(SkillCall(*call) for call in json.loads(row["skill_calls"] or "[]")),
            skill_call_id=row["skill_call_id"],
            is_error=bool(row["is_error"]),
            index=row["index"],
            create_time=_time(row["created_at"]),
            request_id=row["request_id"],
        )
    except (TypeError, ValueError) as error:
        raise StoreCorrupt("a stored message can't be read") from error


def _now() -> int:
    return _microseconds(datetime.now(timezone.utc))


def _microseconds(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)


def _time(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)
