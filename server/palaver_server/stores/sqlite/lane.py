"""A lane of calls to the database: a connection, in a thread of its own, that makes one call after the other.

A store has a lane for reads and one for writes. In write-ahead mode a read waits for no writer, so it must not wait
behind a call that does.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from palaver_server.domain.errors import StoreUnavailable
from palaver_server.stores.sqlite import schema
from palaver_server.stores.sqlite.file import DatabaseConnection, DatabaseFile, store_errors, transaction

T = TypeVar("T")


class Lane:
    """A connection to a database, in a thread of its own. If it can't be opened, each call tries again."""

    def __init__(self, file: DatabaseFile, begin: str, timeout: float) -> None:
        """Takes the kind of the transactions, and the seconds that a call may wait, in the lane and for locks."""
        self._file = file
        self._begin = begin
        self._timeout = timeout
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sqlite-{begin.lower()}")
        self._connection: DatabaseConnection | None = None

    async def run(self, work: Callable[[sqlite3.Connection], T], *, is_durable: bool = True) -> T:
        """Calls a function with the connection in a transaction, which `transaction` describes."""
        deadline = time.monotonic() + self._timeout

        def run() -> T:
            with store_errors():
                connection = self._connected(deadline)
                with transaction(connection, self._begin, is_durable=is_durable):
                    schema.check_version(connection)
                    result = work(connection)
                if not self._file.is_in_place(connection):
                    raise StoreUnavailable("the database file was removed or replaced")
                return result

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    async def close(self) -> None:
        """Ends the thread, after the calls that it has, and closes the connection."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    def _connected(self, deadline: float) -> DatabaseConnection:
        """Returns the connection, which waits for locks until `deadline`, a time of `time.monotonic`."""
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise StoreUnavailable("the database is busy: the calls before this one took too long")
        if self._connection is not None and not self._file.is_in_place(self._connection):
            self._disconnect()
        if self._connection is None:
            self._connection = self._file.connect(remaining)
        self._connection.execute(f"PRAGMA busy_timeout = {int(remaining * 1000)}")
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
