"""The log of a server process, written as JSON to a file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any


class LogFile:
    """The lines of a log, as objects."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def text(self) -> str:
        return self.path.read_text()

    def lines(self, **members: Any) -> list[dict[str, Any]]:
        """Returns the lines so far that have these members."""
        return [line for line in map(json.loads, self.text.splitlines()) if members.items() <= line.items()]

    async def line(self, number: int = 1, **members: Any) -> dict[str, Any]:
        """Waits until a number of lines have these members, and returns the last one."""
        while len(found := self.lines(**members)) < number:  # noqa: ASYNC110 - another process writes the file
            await asyncio.sleep(0.02)
        return found[-1]
