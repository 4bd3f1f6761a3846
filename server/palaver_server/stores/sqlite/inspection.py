"""The inspection of a database, which changes nothing, unlike the opening of a store."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from palaver_server.domain.errors import StoreUnavailable
from palaver_server.stores.sqlite import schema
from palaver_server.stores.sqlite.file import check_integrity, store_errors, transaction


def inspect_database(path: Path, timeout: float) -> str:
    """Returns what a server would find at a path; raises a `StoreError` if it could not work with that.

    The write lock is taken for a moment, and locks of others are waited for up to `timeout` seconds.
    """
    if not path.exists():
        _check_may_create(path)
        return f"{path} does not exist; the server will create it"
    with store_errors(), closing(_connect(path, timeout)) as connection:
        with transaction(connection):
            version = schema.usable_version(connection)
        check_integrity(connection)
    if not version:
        return f"{path} is empty; the server will create its tables"
    found = f"{path} can be read and written"
    if version < schema.SCHEMA_VERSION:
        return (
            f"{found}; the server will upgrade it from schema version {version} to {schema.SCHEMA_VERSION}, which older"
            " servers can't use"
        )
    return found


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=timeout, isolation_level=None)


def _check_may_create(path: Path) -> None:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise StoreUnavailable(f"{path} does not exist, and the server can't create it in {folder}")
