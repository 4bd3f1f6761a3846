"""Callers that post turn after turn with the Python client, sometimes leave, and retry until each turn is stored."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import palaver
from tests.faults.checker import Acknowledged, Log, Posted

RECONNECT_TIMEOUT = 60.0

MAX_FAILURES = 50
"""The most failures of a turn. No real caller would retry as often."""

MAX_UNEXPECTED = 20
"""The number of unexpected results after which the callers stop. More would say nothing new."""

RETRYABLE = (palaver.AbortedError, palaver.UnavailableError)
"""The errors that callers must expect while servers come and go. Any other error is unexpected."""


@dataclass(frozen=True)
class Wait:
    """The time that a caller waited for a turn to be stored."""

    seconds: float
    turns: int
    """The turns of other callers that were stored meanwhile."""


class Callers:
    """Callers of some assistants. They share a client and a log."""

    def __init__(
        self,
        client: palaver.AsyncClient,
        assistants: list[str],
        seed: int,
        *,
        may_leave: bool = True,
        log: Log | None = None,
    ) -> None:
        """Takes the log of the other callers of the same assistants, if there are any."""
        self.log = log or Log()
        self._ways = [self._stream] * 7 + [self._wait] * 2 + [self._leave] * may_leave
        self.acknowledged = asyncio.Condition()
        """Notified of each turn that was acknowledged."""
        self.waits: list[Wait] = []
        self._client = client
        self._assistants = assistants
        self._choices = random.Random(seed)
        self._newest = dict.fromkeys(assistants, 1)

    async def run(self, count: int, is_wanted: Callable[[], bool]) -> None:
        """Runs a number of callers, which post turns as long as `is_wanted` returns True."""
        numbers: Iterator[int] = iter(range(2**62))

        async def caller() -> None:
            while is_wanted() and len(self.log.unexpected) < MAX_UNEXPECTED:
                await self._turn(next(numbers))

        await asyncio.gather(*(caller() for _ in range(count)))

    async def _turn(self, number: int) -> None:
        assistant = self._choices.choice(self._assistants)
        request_id = uuid.UUID(int=self._choices.getrandbits(128)).hex
        question = f"question {number}, {request_id[:8]}"
        options = {"request_id": request_id, "on_disconnect": self._choices.choice(["cancel", "continue"])}
        self.log.posted[request_id] = Posted(assistant, question, self._newest[assistant])
        start, stored_before = time.monotonic(), len(self.log.acknowledged)
        completed, failures = None, 0
        while completed is None:
            ask = self._choices.choice(self._ways)
            try:
                completed = await ask(assistant, question, options)
            except palaver.PalaverError as error:
                failures += 1
                if not isinstance(error, RETRYABLE) or failures == MAX_FAILURES:
                    self.log.unexpected.append(f"{question}, after {failures} failures: {error}")
                    return
                await asyncio.sleep(error.retry_delay or 0.1)  # as the server asks
        asked, answered = completed.messages
        self._newest[assistant] = max(self._newest[assistant], answered.index)
        self.waits.append(Wait(time.monotonic() - start, len(self.log.acknowledged) - stored_before))
        self.log.acknowledged.append(Acknowledged(request_id, asked.index, asked.content, answered.content))
        async with self.acknowledged:
            self.acknowledged.notify_all()

    async def _stream(self, assistant: str, question: str, options: Any) -> palaver.TurnCompleted:
        shown = ""
        async with self._client.post_user_query(assistant, question, **options) as reply:
            async for event in reply:
                if isinstance(event, palaver.TurnStarted):
                    shown = ""
                elif isinstance(event, palaver.TextDelta):
                    shown += event.text
        if shown != reply.completed.text:
            self.log.unexpected.append(f"{question}: {shown!r} was shown, but {reply.completed.text!r} is stored")
        return reply.completed

    async def _wait(self, assistant: str, question: str, options: Any) -> palaver.TurnCompleted:
        return await self._client.post_user_query_unary(assistant, question, **options)

    async def _leave(self, assistant: str, question: str, options: Any) -> None:
        """Leaves after some events. The turn is then cancelled, or continues."""
        events = self._choices.randrange(4)
        async with self._client.post_user_query(assistant, question, **options) as reply:
            async for _ in reply:
                events -= 1
                if events < 0:
                    return
