"""The pace of a reply, which the name of the model tells: "40x200" is 200 pieces at 40 a second."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass

GOLDEN_RATIO = 0.618034
_streams = itertools.count()


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
        # Models do not write in step. Streams that begin together, as those of the echo do, would: all of their pieces
        # would be due in one turn of the event loop, which sends them for half the price. So each has a phase of its
        # own, and multiples of this number spread them evenly, however many there are.
        phase = next(_streams) * GOLDEN_RATIO % 1
        due = loop.time() + (phase / self.per_second if self.per_second else 0)
        for _ in range(self.pieces):
            if self.per_second:
                due += 1 / self.per_second
                await asyncio.sleep(due - loop.time())
            yield
