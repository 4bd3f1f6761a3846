"""One turn at a time for each assistant: the others wait in order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from palaver_server.engine.lease import LONGEST_PAUSE
from palaver_server.errors import AssistantBusy
from palaver_server.models import AssistantKey

FAIR_SHARE = 3.0
"""Seconds after which a process whose turns have followed each other without a gap lets another process have a try."""

GAP = LONGEST_PAUSE + 0.1
"""Seconds in which every process that waits for the assistant looks at it once."""


@dataclass(slots=True)
class Line:
    """The turns of this process that wait for one assistant."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # it wakes waiters in the order of their arrival
    length: int = 0
    taken_at: float | None = None

    def taken(self, *, from_another: bool) -> None:
        """Notes that this process has the assistant, and whether another one has just had it."""
        if self.taken_at is None or from_another:
            self.taken_at = asyncio.get_running_loop().time()

    async def leave_a_gap(self, wait_until: float | None) -> None:
        """Waits a little when it is the turn of others."""
        now = asyncio.get_running_loop().time()
        if self.taken_at is not None and now - self.taken_at > FAIR_SHARE:
            await asyncio.sleep(GAP if wait_until is None else min(GAP, wait_until - now))
            self.taken_at = None


class TurnQueue:
    """The turns of this process that wait for their assistant."""

    def __init__(self, limit: int) -> None:
        """Sets how many turns may wait for one assistant, besides the one that runs."""
        self._limit = limit
        self._lines: dict[AssistantKey, Line] = {}

    @asynccontextmanager
    async def turn(self, key: AssistantKey, wait_until: float | None) -> AsyncGenerator[Line, None]:
        """Waits until no turn before this one is left, at most until then in the loop's time; raises `AssistantBusy`.

        Whoever has its turn then tells the line when it has `taken` the assistant.
        """
        key = key.folded()
        line = self._lines.setdefault(key, Line())
        if line.length > self._limit:
            raise AssistantBusy(f"{self._limit} turns wait for this assistant already")
        line.length += 1
        try:
            with anyio.CancelScope(deadline=math.inf if wait_until is None else wait_until) as scope:
                await line.lock.acquire()
            if scope.cancelled_caught:
                raise AssistantBusy("other turns of this assistant took too long")
            try:
                await line.leave_a_gap(wait_until)
                yield line
            finally:
                line.lock.release()
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[key]
