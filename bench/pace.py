"""The pace of a reply, which is the model name of a query: "40x200" is 200 pieces at 40 per second."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass

GOLDEN_RATIO = 0.618034
_streams = itertools.count()


@dataclass(frozen=True)
class Pace:
    """The number of pieces of a reply, and how many are due per second. 0: as fast as possible."""

    per_second: int
    pieces: int

    def __str__(self) -> str:
        return f"{self.per_second}x{self.pieces}"

    @staticmethod
    def parse(model: str) -> Pace:
        """Parses a pace from the model name of a query."""
        per_second, _, pieces = model.partition("x")
        return Pace(int(per_second), int(pieces))

    async def ticks(self) -> AsyncIterator[None]:
        """Yields whenever a piece is due. A late piece does not delay the following ones."""
        loop = asyncio.get_running_loop()
        # Real models do not write in step, but streams that start together, like those of the echo, would: all pieces
        # would be due in one iteration of the event loop, which halves their cost. Each stream therefore has its own
        # phase. Multiples of the golden ratio spread any number of phases evenly.
        phase = next(_streams) * GOLDEN_RATIO % 1
        due = loop.time() + (phase / self.per_second if self.per_second else 0)
        for _ in range(self.pieces):
            if self.per_second:
                due += 1 / self.per_second
                await asyncio.sleep(due - loop.time())
            yield
