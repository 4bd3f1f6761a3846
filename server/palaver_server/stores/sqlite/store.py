"""A `Store` in one SQLite file.

The standard library's `sqlite3` in a thread for reads and one for writes measured three times faster than an asyncio
wrapper around it, and SQLite has only one writer anyway. Other processes may use the same file at the same time.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import cast

from palaver_server.domain.conversation import (
    Assistant,
    AssistantKey,
    AssistantPage,
    CollectionKey,
    IfExists,
    Listing,
    MessageBudget,
    Order,
    Page,
    Role,
)
from palaver_server.domain.errors import AssistantExists
from palaver_server.domain.limits import DEFAULT_HISTORY_BYTES, MAX_MESSAGES
from palaver_server.domain.stages import Observer, Observers, Stage
from palaver_server.domain.turns import (
    FinishedTurn,
    FoundTurn,
    Lease,
    LeaseHolder,
    StoredTurn,
    TurnKey,
    Version,
    Window,
)
from palaver_server.stores.common import (
    REPORTING_MARGIN,
    StoreTimeouts,
    assistants_of,
    first_index,
    new_assistant,
    page_of,
    stamped,
)
from palaver_server.stores.leases import LeaseWatch, StoredLease
from palaver_server.stores.sqlite import rows
from palaver_server.stores.sqlite.file import DatabaseFile
from palaver_server.stores.sqlite.lane import Lane
from palaver_server.stores.sqlite.rows import SqliteVersion

NO_LEASE = StoredLease(None, rows.EPOCH)


class SqliteStore:
    """A `Store` in one SQLite file."""

    def __init__(self, path: Path, timeouts: StoreTimeouts | None = None, observer: Observer | None = None) -> None:
        """Takes the path of the file, which `open` opens or creates. If that fails, each later call tries again."""
        self.location = str(path.absolute())
        file, timeout = DatabaseFile(path), (timeouts or StoreTimeouts()).call - REPORTING_MARGIN
        self._reads = Lane(file, "DEFERRED", timeout)
        self._writes = Lane(file, "IMMEDIATE", timeout)
        self._watch = LeaseWatch()
        self._observer = observer or Observers()

    async def open(self) -> None:
        """Opens and checks the database, or raises `StoreCorrupt` or `StoreUnavailable`. It never replaces a file."""
        await self._reads.run(lambda _connection: None)

    async def create_assistant(
        self, key: AssistantKey, instructions: str, if_exists: IfExists
    ) -> tuple[Assistant, bool]:
        def create(connection: sqlite3.Connection) -> tuple[Assistant, bool]:
            found = rows.find_assistant(connection, key)
            if found is not None:
                if if_exists is IfExists.KEEP:
                    return rows.assistant(found), False
                if if_exists is IfExists.FAIL:
                    raise AssistantExists(key.id, key.collection)
                connection.execute("DELETE FROM assistants WHERE key = ?", (found["key"],))
            assistant, messages = new_assistant(key.id, instructions, rows.now())
            row = rows.insert_assistant(connection, key.collection, assistant)
            for message in messages:
                rows.insert_message(connection, row, message)
            return assistant, True

        return await self._writes.run(create)

    async def get_assistant(self, key: AssistantKey) -> Assistant:
        return await self._reads.run(lambda connection: rows.assistant(rows.get_assistant(connection, key)))

    async def list_assistants(self, key: CollectionKey, limit: int, position: str) -> AssistantPage:
        def select(connection: sqlite3.Connection) -> AssistantPage:
            # One more row than a page holds shows whether there is another page.
            found = rows.select_assistants(connection, key.collection, position, limit + 1)
            page = [(row["id"], row) for row in found[:limit]]
            return assistants_of(page, rows.assistant, page[-1][0] if len(found) > limit else "")

        return await self._reads.run(select)

    async def list_messages(self, key: AssistantKey, listing: Listing) -> Page:
        oldest_first = listing.order is Order.OLDEST_FIRST
        after_index = listing.after_index
        if after_index is None:
            after_index = 0 if oldest_first else MAX_MESSAGES + 1
        after_time = -1 if listing.after_time is None else rows.microseconds(listing.after_time)
        condition = (
            f'assistant = ? AND created_at > ? AND "index" {">" if oldest_first else "<"} ?'
            f' ORDER BY "index" {"ASC" if oldest_first else "DESC"} LIMIT ?'
        )

        def select(connection: sqlite3.Connection) -> Page:
            row = rows.get_assistant(connection, key)["key"]
            # One more row than a page holds shows whether there is another page.
            found = rows.select_messages(connection, condition, row, after_time, after_index, listing.limit + 1)
            return page_of(map(rows.message, found), listing)

        return await self._reads.run(select)

    async def delete_assistant(self, key: AssistantKey) -> None:
        def delete(connection: sqlite3.Connection) -> None:
            row = rows.get_assistant(connection, key)["key"]
            connection.execute("DELETE FROM assistants WHERE key = ?", (row,))

        await self._writes.run(delete)

    async def read_window(
        self,
        key: AssistantKey,
        max_messages: int,
        lease: Lease | None = None,
        *,
        max_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> Window:
        def read(connection: sqlite3.Connection) -> Window:
            row = rows.get_assistant(connection, key)
            if lease is not None:
                self._watch.check_available(rows.stored_lease(row), lease, rows.now())
                rows.extend_lease(connection, row["key"], lease)
            first = rows.select_messages(
                connection, 'assistant = ? AND "index" = 1 AND role = ?', row["key"], Role.SYSTEM.value
            ).fetchone()
            instructions = None if first is None else rows.message(first)
            assistant = rows.assistant(row)
            newest = rows.select_messages(
                connection,
                'assistant = ? AND "index" >= ? ORDER BY "index" DESC',
                row["key"],
                first_index(assistant, instructions, max_messages),
            )
            version = SqliteVersion(row["key"], assistant.total_messages, lease.holder if lease else None)
            # The rows are read one by one, so those that are left out cost nothing.
            messages = tuple(takewhile(MessageBudget(max_messages, max_bytes).takes, map(rows.message, newest)))
            return Window(assistant, version, instructions, messages[::-1])

        if lease is None:
            return await self._reads.run(read)
        # A lease need not survive a power failure, so it does not wait for the disk.
        return await self._writes.run(read, is_durable=False)

    async def renew_lease(self, key: AssistantKey, version: Version, lease: Lease) -> Version:
        def renew(connection: sqlite3.Connection) -> Version:
            row = cast("SqliteVersion", version).current_row(connection, key)
            rows.extend_lease(connection, row["key"], lease)
            return version

        return await self._writes.run(renew, is_durable=False)

    async def release_lease(self, key: AssistantKey, holder: LeaseHolder) -> None:
        def release(connection: sqlite3.Connection) -> None:
            row = rows.find_assistant(connection, key)
            if row is not None and rows.stored_lease(row).is_held_by(holder):
                rows.write_lease(connection, row["key"], NO_LEASE)

        await self._writes.run(release, is_durable=False)

    async def has_lease(self, turn: TurnKey) -> bool:
        def look(connection: sqlite3.Connection) -> bool:
            row = rows.find_assistant(connection, turn.assistant)
            lease = None if row is None else rows.stored_lease(row)
            return (
                lease is not None and lease.belongs_to(turn.request_id) and self._watch.is_in_force(lease, rows.now())
            )

        return await self._reads.run(look)

    async def cancel_lease(self, turn: TurnKey) -> bool:
        def cancel(connection: sqlite3.Connection) -> bool:
            row = rows.find_assistant(connection, turn.assistant)
            if row is None:
                return False
            lease = rows.stored_lease(row)
            if not lease.belongs_to(turn.request_id):
                return False
            rows.write_lease(connection, row["key"], replace(lease, until=rows.EPOCH, is_cancelled=True))
            return True

        return await self._writes.run(cancel)

    async def find_turn(self, turn: TurnKey) -> FoundTurn | None:
        def find(connection: sqlite3.Connection) -> FoundTurn | None:
            return rows.find_turn(connection, turn)

        return await self._reads.run(find)

    async def commit_turn(self, key: AssistantKey, version: Version, turn: FinishedTurn) -> StoredTurn:
        def commit(connection: sqlite3.Connection) -> StoredTurn:
            row = cast("SqliteVersion", version).current_row(connection, key)
            stored = stamped(rows.assistant(row), turn, rows.now())
            rows.insert_turn(connection, row["key"], turn, stored)
            self._observer.reached(Stage.WRITTEN, TurnKey(key, turn.request_id))
            return stored

        return await self._writes.run(commit)

    async def close(self) -> None:
        await self._reads.close()
        await self._writes.close()
