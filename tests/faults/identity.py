"""The caller as which the harness posts its turns."""

from __future__ import annotations

from pathlib import Path

from tests.support.callers import CallersFile

NAME = "harness"


def identity(folder: Path) -> CallersFile:
    """Writes a callers' file into a folder of servers, in which the harness has limits that it never reaches."""
    callers = CallersFile(folder / "callers.toml")
    callers.write(**{NAME: {"max_turns": 10_000, "turns_per_minute": 1_000_000}})
    return callers
