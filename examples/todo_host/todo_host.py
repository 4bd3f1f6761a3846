"""To-do lists as skills: a model adds, lists and completes the to-dos of the assistant for which it answers.

    python examples/todo_host/todo_host.py --listen 127.0.0.1:50061 --database todos.db

Each to-do is stored together with the `call_id` that added it, in one row. Whatever happens between the effect and the
answer, a repeated call finds what the first one did, and does not add a second to-do.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from palaver.skills import Invocation, SkillError, serve, skill

SCHEMA = """
CREATE TABLE IF NOT EXISTS todos (
    assistant_id TEXT NOT NULL,
    id INTEGER NOT NULL,
    task TEXT NOT NULL,
    is_completed INTEGER NOT NULL DEFAULT 0,
    call_id TEXT,  -- NULL for a caller that gives none: its repeats can't be told from new calls
    PRIMARY KEY (assistant_id, id),
    UNIQUE (assistant_id, call_id)
) STRICT
"""


@dataclass(frozen=True)
class Todo:
    """A to-do, as the model sees it."""

    id: int
    task: str
    is_completed: bool


def todo_skills(database: Path) -> tuple[Callable[..., object], ...]:
    """Returns the skills on the to-dos in a SQLite file, which is made where there is none."""
    with _transaction(database) as connection:
        connection.execute(SCHEMA)

    @skill
    def add_todo(task: Annotated[str, Field(min_length=1, max_length=1000)], invocation: Invocation) -> Todo:
        """Adds a to-do to the user's list. Use it once for each thing that the user wants to remember.

        Args:
            task: What is to be done, in the user's words.
            invocation: The context of the call; the model does not see it.
        """
        call_id = invocation.call_id or None
        with _transaction(database) as connection:
            connection.execute(
                "INSERT INTO todos (assistant_id, id, task, call_id)"
                " SELECT ?1, coalesce(max(id), 0) + 1, ?2, ?3 FROM todos WHERE assistant_id = ?1"
                " ON CONFLICT (assistant_id, call_id) DO NOTHING",
                (invocation.assistant_id, task, call_id),
            )
            row = connection.execute(
                "SELECT id, task, is_completed FROM todos WHERE assistant_id = ?1 AND call_id IS ?2"
                " ORDER BY id DESC LIMIT 1",
                (invocation.assistant_id, call_id),
            ).fetchone()
        return _todo(row)

    @skill
    def list_todos(invocation: Invocation) -> list[Todo]:
        """Lists all to-dos of the user with their ids, completed ones included."""
        with _transaction(database) as connection:
            rows = connection.execute(
                "SELECT id, task, is_completed FROM todos WHERE assistant_id = ? ORDER BY id",
                (invocation.assistant_id,),
            ).fetchall()
        return [_todo(row) for row in rows]

    @skill
    def complete_todo(
        id: Annotated[int, Field(ge=1, lt=2**63)],  # noqa: A002 - the model sees this name
        invocation: Invocation,
    ) -> Todo:
        """Marks a to-do of the user as completed. One that is completed already stays so.

        Args:
            id: The id of the to-do, as list_todos tells it.
            invocation: The context of the call; the model does not see it.
        """
        # That needs no call_id: the second time changes nothing.
        with _transaction(database) as connection:
            row = connection.execute(
                "UPDATE todos SET is_completed = 1 WHERE assistant_id = ? AND id = ? RETURNING id, task, is_completed",
                (invocation.assistant_id, id),
            ).fetchone()
        if row is None:
            raise SkillError(f"there is no to-do with the id {id}; list_todos tells which there are")
        return _todo(row)

    return add_todo, list_todos, complete_todo


def main() -> None:
    """Serves the skills until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="To-do lists as skills of a Palaver server.")
    parser.add_argument("--listen", default="127.0.0.1:50061", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--database", type=Path, default=Path("todos.db"), help="the file (default: %(default)s)")
    options = parser.parse_args()
    try:
        serve(
            *todo_skills(options.database),
            listen=options.listen,
            on_start=lambda address: print(f"todo-host listening on {address}", flush=True),
        )
    except (OSError, sqlite3.Error) as error:
        sys.exit(f"todo-host: {error}")


@contextmanager
def _transaction(database: Path) -> Iterator[sqlite3.Connection]:
    """Opens the file for one transaction, which is on the disk when the block ends, or never was."""
    with closing(sqlite3.connect(database, timeout=5, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _todo(row: tuple[int, str, int]) -> Todo:
    return Todo(row[0], row[1], bool(row[2]))


if __name__ == "__main__":
    main()
