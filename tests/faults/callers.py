"""Callers who post turn after turn by the Python client, leave now and then, and don't rest before a turn is stored."""

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
"""Of a turn; more than any caller would put up with."""

MAX_SURPRISES = 20
"""After which all has been said."""

MAY_TRY_AGAIN = (palaver.AbortedError, palaver.UnavailableError)
"""What a caller must expect while servers come and go; another error is a surprise."""


@dataclass(frozen=True)
class Wait:
    """How long a caller has waited for a turn to be stored."""

    seconds: float
    turns: int
    """Those of others that were stored meanwhile."""


class Callers:
    """Some callers of some assistants, who share a client and a log."""

    def __init__(
        self,
        client: palaver.AsyncClient,
        assistants: list[str],
        seed: int,
        *,
        may_leave: bool = True,
        log: Log | None = None,
    ) -> None:
        """Takes the log of other callers of the same assistants, if there are any."""
        self.log = log or Log()
        self._ways = [self._stream] * 7 + [self._wait] * 2 + [self._leave] * may_leave
        self.told = asyncio.Condition()
        """Told of each turn that was acknowledged."""
        self.waits: list[Wait] = []
        self._client = client
        self._assistants = assistants
        self._choices = random.Random(seed)
        self._newest = dict.fromkeys(assistants, 1)

    async def run(self, count: int, go_on: Callable[[], bool]) -> None:
        """Lets so many callers post as long as `go_on` says so."""
        numbers: Iterator[int] = iter(range(2**62))

        async def caller() -> None:
            while go_on() and len(self.log.surprises) < MAX_SURPRISES:
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
                if not isinstance(error, MAY_TRY_AGAIN) or failures == MAX_FAILURES:
                    self.log.surprises.append(f"{question}, after {failures} failures: {error}")
                    return
                await asyncio.sleep(error.retry_delay or 0.1)  # what the server asks for
        asked, answered = completed.messages
        self._newest[assistant] = max(self._newest[assistant], answered.index)
        self.waits.append(Wait(time.monotonic() - start, len(self.log.acknowledged) - stored_before))
        self.log.acknowledged.append(Acknowledged(request_id, asked.index, asked.content, answered.content))
        async with self.told:
            self.told.notify_all()

    async def _stream(self, assistant: str, question: str, options: Any) -> palaver.TurnCompleted:
        shown = ""
        async with self._client.post_user_query(assistant, question, **options) as reply:
            async for event in reply:
                if isinstance(event, palaver.TurnStarted):
                    shown = ""
                elif isinstance(event, palaver.TextDelta):
                    shown += event.text
        if shown != reply.completed.text:
            self.log.surprises.append(f"{question}: shown was {shown!r}, and stored {reply.completed.text!r}")
        return reply.completed

    async def _wait(self, assistant: str, question: str, options: Any) -> palaver.TurnCompleted:
        return await self._client.post_user_query_unary(assistant, question, **options)

    async def _leave(self, assistant: str, question: str, options: Any) -> None:
        """Leaves after some events; the turn may have been cancelled then, or run on."""
        events = self._choices.randrange(4)
        async with self._client.post_user_query(assistant, question, **options) as reply:
            async for _ in reply:
                events -= 1
                if events < 0:
                    return
