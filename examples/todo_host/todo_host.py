"""A to-do list as skills: the model adds, lists and completes the to-dos of its assistant.

    python examples/todo_host/todo_host.py --listen 127.0.0.1:50061 --database todos.db

Each row stores a to-do together with the `call_id` of the call that added it. If the host dies before it answers, a
repeated call finds the existing to-do and does not add another one.
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
    call_id TEXT,  -- NULL if the caller sent none; its repeated calls can't be recognized then
    PRIMARY KEY (assistant_id, id),
    UNIQUE (assistant_id, call_id)
) STRICT
"""


@dataclass(frozen=True)
class Todo:
    """A to-do as the model sees it."""

    id: int
    task: str
    is_completed: bool


def todo_skills(database: Path) -> tuple[Callable[..., object], ...]:
    """Returns the skills for the to-dos in a SQLite file, which is created if it does not exist."""
    with _transaction(database) as connection:
        connection.execute(SCHEMA)

    @skill
    def add_todo(task: Annotated[str, Field(min_length=1, max_length=1000)], invocation: Invocation) -> Todo:
        """Adds a to-do to the user's list. Call it once for each thing that the user wants to remember.

        Args:
            task: The thing to do, in the user's words.
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
        """Lists all to-dos of the user with their ids, including completed ones."""
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
        """Marks a to-do of the user as completed. Does nothing if it is already completed.

        Args:
            id: The id of the to-do, from list_todos.
            invocation: The context of the call; the model does not see it.
        """
        # No call_id is needed, because repeating the call changes nothing.
        with _transaction(database) as connection:
            row = connection.execute(
                "UPDATE todos SET is_completed = 1 WHERE assistant_id = ? AND id = ? RETURNING id, task, is_completed",
                (invocation.assistant_id, id),
            ).fetchone()
        if row is None:
            raise SkillError(f"there is no to-do with the id {id}; list_todos lists all to-dos")
        return _todo(row)

    return add_todo, list_todos, complete_todo


def main() -> None:
    """Serves the skills until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="To-do lists as skills of a Palaver server.")
    parser.add_argument("--listen", default="127.0.0.1:50061", help="the address to listen on (default: %(default)s)")
    parser.add_argument(
        "--database", type=Path, default=Path("todos.db"), help="the SQLite file (default: %(default)s)"
    )
    options = parser.parse_args()
    try:
        skills = todo_skills(options.database)
        names = ", ".join(skill.__name__ for skill in skills)
        serve(
            *skills,
            listen=options.listen,
            on_start=lambda address: print(f"todo-host listening on {address} with {names}", flush=True),
        )
    except (OSError, sqlite3.Error) as error:
        sys.exit(f"todo-host: {error}")


@contextmanager
def _transaction(database: Path) -> Iterator[sqlite3.Connection]:
    """Opens the database for one transaction, committed at the end of the block and rolled back after an exception."""
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
