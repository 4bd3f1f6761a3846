"""Locks that another process holds on a SQLite database."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SCRIPT = (
    "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1], isolation_level=None);"
    "connection.executescript(sys.argv[2]); print('locked', flush=True);"
    "sys.stdin.readline(); connection.execute('ROLLBACK'); print('released', flush=True); sys.stdin.read()"
)


@contextmanager
def another_process_holds_the_lock(path: Path, begin: str = "BEGIN IMMEDIATE") -> Iterator[Callable[[], None]]:
    """Runs another process that holds the write lock. Yields a function that makes it end its transaction."""
    command = [sys.executable, "-c", SCRIPT, str(path), begin]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"

        def release() -> None:
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "released\n"

        try:
            yield release
        finally:
            process.kill()
