"""One turn at a time for each assistant: the others wait in order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from palaver_server.errors import AssistantBusy
from palaver_server.models import AssistantKey


@dataclass(slots=True)
class _Line:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # it wakes waiters in the order of their arrival
    length: int = 0


class TurnQueue:
    """The turns of this process that wait for their assistant."""

    def __init__(self, limit: int) -> None:
        """Sets how many turns may wait for one assistant, besides the one that runs."""
        self._limit = limit
        self._lines: dict[AssistantKey, _Line] = {}

    @asynccontextmanager
    async def turn(self, key: AssistantKey, wait_until: float | None) -> AsyncGenerator[None, None]:
        """Waits for the assistant, at most until then in the loop's time, and keeps it; raises `AssistantBusy`."""
        key = key.folded()
        line = self._lines.setdefault(key, _Line())
        if line.length > self._limit:
            raise AssistantBusy(f"{self._limit} turns wait for this assistant already")
        line.length += 1
        try:
            with anyio.CancelScope(deadline=math.inf if wait_until is None else wait_until) as scope:
                await line.lock.acquire()
            if scope.cancelled_caught:
                raise AssistantBusy("other turns of this assistant took too long")
            try:
                yield
            finally:
                line.lock.release()
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[key]
