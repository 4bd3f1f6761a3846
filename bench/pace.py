"""The pace of a reply, which the name of the model tells: "40x200" is 200 pieces at 40 a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """How a reply is written: so many pieces, and how many of them a second; 0 is as fast as possible."""

    per_second: int
    pieces: int

    def __str__(self) -> str:
        return f"{self.per_second}x{self.pieces}"

    @staticmethod
    def parse(model: str) -> Pace:
        """Reads a pace from the name of the model that a query asks for."""
        per_second, _, pieces = model.partition("x")
        return Pace(int(per_second), int(pieces))

    async def ticks(self) -> AsyncIterator[None]:
        """Yields when a piece is due, without falling behind when one was late."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        for _ in range(self.pieces):
            if self.per_second:
                due += 1 / self.per_second
                await asyncio.sleep(due - loop.time())
            yield
