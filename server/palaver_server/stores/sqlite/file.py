"""The database file: how it is created and opened, who may read it, and whether it is still in its place."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from palaver_server.domain.errors import StoreCorrupt, StoreFull, StoreUnavailable
from palaver_server.stores.sqlite import schema

logger = logging.getLogger(__name__)

CHECKED_BYTES = 16 * 1024 * 1024
"""The largest database that is checked whole when it is opened, which takes up to a quarter of a second (15 ms a MiB
from a cold disk). Of a larger one, every call checks the pages that it reads."""

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO

LOG_SUFFIXES = ("-wal", "-shm")
"""The suffixes of the files that SQLite keeps beside a database. It creates them with the mode of the database."""


class DatabaseConnection(sqlite3.Connection):
    """A connection that knows which file it has opened: its device and inode."""

    file_identity: tuple[int, int] | None = None


class DatabaseFile:
    """A database file, which several connections of this process use."""

    def __init__(self, path: Path) -> None:
        """Takes the path. The first connection checks the file, or creates it."""
        self.path = path
        self._lock = threading.Lock()
        self._checked_identity: tuple[int, int] | None = None

    def connect(self, timeout: float) -> DatabaseConnection:
        """Opens a connection, which waits up to `timeout` seconds for other processes."""
        with self._lock:
            identity = self._identity()
            if identity is None or identity != self._checked_identity:
                self._prepare(timeout)
                identity = self._checked_identity = self._identity()
        connection = self._open(timeout)
        connection.file_identity = identity
        return connection

    def is_in_place(self, connection: DatabaseConnection) -> bool:
        """Returns False if the connection's file was removed or replaced, so that what it writes is lost."""
        return self._identity() == connection.file_identity

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _prepare(self, timeout: float) -> None:
        # A file that was there is never created again: without its conversations, each call would appear to succeed.
        may_create = self._checked_identity is None
        if may_create:
            self._create()
        elif not self.path.exists():
            raise StoreUnavailable("the database file is gone")
        with closing(self._open(timeout)) as connection:
            with transaction(connection):
                schema.prepare(connection, may_create=may_create)  # first: the file may be another program's
            _use_write_ahead_log(connection, timeout)
            check_integrity(connection)
            self._restrict()

    def _open(self, timeout: float) -> DatabaseConnection:
        # A thread of the store uses the connection, but at exit the interpreter may close it in another one.
        connection = sqlite3.connect(
            self.path, timeout=timeout, isolation_level=None, check_same_thread=False, factory=DatabaseConnection
        )
        connection.row_factory = sqlite3.Row
        try:
            connection.execute("PRAGMA synchronous = FULL")  # an acknowledged turn survives a power failure
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA cell_size_check = ON")  # finds damage in a page before it is used
        except BaseException:
            connection.close()
            raise
        return connection

    def _create(self) -> None:
        """Creates the folder and an empty file, if they are missing, for this user alone."""
        try:
            self.path.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable("the folder of the database can't be created") from error
        if sys.platform == "linux":
            # Not by opening it: to close the file again would end the locks that this process has on it.
            with suppress(OSError):  # SQLite reports what is wrong
                os.mknod(self.path, PRIVATE_FILE)

    def _restrict(self) -> None:
        """Takes the rights of other users to the files, and warns if they have them anyway."""
        paths = (self.path, *(self.path.with_name(self.path.name + suffix) for suffix in LOG_SUFFIXES))
        if open_paths := [path for path in paths if path.exists() and _mode(path) & OPEN_TO_OTHERS]:
            try:
                for path in open_paths:
                    path.chmod(_mode(path) & ~OPEN_TO_OTHERS)
            except PermissionError:
                logger.warning("%s is open to other users, and belongs to one of them", self.path)
            else:
                logger.warning("%s was open to other users; it no longer is", self.path)
        folder_mode = _mode(self.path.parent)
        if folder_mode & stat.S_IWOTH and not folder_mode & stat.S_ISVTX:
            logger.warning("every user of this machine can replace the files in %s", self.path.parent)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _use_write_ahead_log(connection: sqlite3.Connection, timeout: float) -> None:
    deadline = time.monotonic() + timeout
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


def check_integrity(connection: sqlite3.Connection) -> None:
    """Raises `StoreCorrupt` if a small database is damaged anywhere."""
    pages, page_bytes = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if pages * page_bytes <= CHECKED_BYTES and connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise StoreCorrupt("the database is damaged")


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
