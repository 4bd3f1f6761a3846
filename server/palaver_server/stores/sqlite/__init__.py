"""The embedded store: one SQLite file, for the processes of one machine."""

from palaver_server.stores.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
