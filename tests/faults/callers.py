"""Callers that post turn after turn with the Python client, sometimes leave, and retry until each turn is stored.

Some turns call skills: those of a host, or the callers' own.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import palaver
from tests.faults import skills
from tests.faults.checker import Acknowledged, Log, Posted

RECONNECT_TIMEOUT = 60.0

MAX_FAILURES = 50
"""The most failures of a turn. No real caller would retry as often."""

MAX_UNEXPECTED = 20
"""The number of unexpected results after which the callers stop. More would say nothing new."""

SHARE_OF_SHARED_ASSISTANTS = 0.7
"""The share of turns that callers with assistants of their own post to the others."""

RETRYABLE = (palaver.AbortedError, palaver.UnavailableError)
"""The errors that callers must expect while servers come and go. Any other error is unexpected."""


@dataclass(frozen=True)
class Wait:
    """The time that a caller waited for a turn to be stored."""

    seconds: float
    turns: int
    """The turns of other callers that were stored meanwhile."""


def _by_round(results: Sequence[tuple[str, str]], messages: Iterable[palaver.Message]) -> list[list[tuple[str, str]]]:
    """Returns results by the message with their calls, which run at the same time and end in any order."""
    rest = iter(results)
    rounds = [sorted(islice(rest, len(message.skill_calls))) for message in messages if message.skill_calls]
    return [*rounds, list(rest)]


class Callers:
    """Callers of some assistants. They share a client and a log."""

    def __init__(
        self,
        client: palaver.AsyncClient,
        assistants: list[str],
        seed: int,
        *,
        own_assistants: Sequence[str] = (),
        may_leave: bool = True,
        log: Log | None = None,
    ) -> None:
        """Takes the log of the other callers of the same assistants, if there are any.

        With assistants of their own, one for each caller, the callers also run skills: nobody else may post to an
        assistant that waits for the results of its caller.
        """
        self.log = log or Log()
        self._ways = [self._stream] * 7 + [self._wait] * 2 + [self._leave] * may_leave
        self.acknowledged = asyncio.Condition()
        """Notified of each turn that was acknowledged."""
        self.waits: list[Wait] = []
        self._client = client
        self._assistants = assistants
        self._own_assistants = own_assistants
        self._choices = random.Random(seed)
        self._newest = dict.fromkeys((*assistants, *own_assistants), 1)

    async def run(self, count: int, is_wanted: Callable[[], bool]) -> None:
        """Runs a number of callers, which post turns as long as `is_wanted` returns True."""
        numbers: Iterator[int] = iter(range(2**62))

        async def caller(number: int) -> None:
            own = self._own_assistants[number] if self._own_assistants else None
            while is_wanted() and len(self.log.unexpected) < MAX_UNEXPECTED:
                if own is None or self._choices.random() < SHARE_OF_SHARED_ASSISTANTS:
                    await self._turn(self._choices.choice(self._assistants), next(numbers), may_ask=False)
                else:
                    await self._turn(own, next(numbers), may_ask=True)

        await asyncio.gather(*map(caller, range(count)))

    async def _turn(self, assistant: str, number: int, *, may_ask: bool) -> None:
        """Posts a question, and then the results of the caller's skill, if the model called it."""
        request_id = self._new_request_id()
        question = f"question {number}, {request_id[:8]}{skills.random_wish(self._choices, may_ask=may_ask)}"
        options = {"caller_skills": [skills.ASK_SKILL]} if may_ask else {}
        completed = await self._post(request_id, assistant, question, (question,), options)
        if completed is None or completed.finish_reason is not palaver.FinishReason.SKILL_CALLS:
            return
        calls = completed.messages[-1].skill_calls
        results = [palaver.SkillResult(call.id, skills.result_of(call.name, call.arguments_json)) for call in calls]
        contents = tuple(result.content or "" for result in results)
        await self._post(self._new_request_id(), assistant, "", contents, {**options, "skill_results": results})

    def _new_request_id(self) -> str:
        return uuid.UUID(int=self._choices.getrandbits(128)).hex

    async def _post(
        self, request_id: str, assistant: str, question: str, texts: tuple[str, ...], options: dict[str, Any]
    ) -> palaver.TurnCompleted | None:
        """Posts a turn until it is stored. Returns None if something unexpected happened."""
        options = {
            **options,
            "request_id": request_id,
            "on_disconnect": self._choices.choice(["cancel", "continue"]),
        }
        self.log.posted[request_id] = Posted(assistant, texts, self._newest[assistant])
        start, stored_before = time.monotonic(), len(self.log.acknowledged)
        completed, failures = None, 0
        while completed is None:
            ask = self._choices.choice(self._ways)
            try:
                completed = await ask(assistant, question, options)
            except palaver.PalaverError as error:
                failures += 1
                if not isinstance(error, RETRYABLE) or failures == MAX_FAILURES:
                    self.log.unexpected.append(f"{texts}, after {failures} failures: {error}")
                    return None
                await asyncio.sleep(error.retry_delay or 0.1)  # as the server asks
        self._newest[assistant] = max(self._newest[assistant], completed.messages[-1].index)
        self.waits.append(Wait(time.monotonic() - start, len(self.log.acknowledged) - stored_before))
        self.log.acknowledged.append(Acknowledged.of(request_id, completed.messages))
        async with self.acknowledged:
            self.acknowledged.notify_all()
        return completed

    async def _stream(self, assistant: str, question: str, options: Any) -> palaver.TurnCompleted:
        shown, called, answered = "", [], []
        async with self._client.post_user_query(assistant, question, **options) as reply:
            async for event in reply:
                if isinstance(event, palaver.TurnStarted):
                    shown, called, answered = "", [], []
                elif isinstance(event, palaver.TextDelta):
                    shown += event.text
                elif isinstance(event, palaver.SkillCall):
                    called.append(event)
                elif isinstance(event, palaver.SkillResult):
                    answered.append((event.id, event.content))
        stored = reply.completed.messages[1:] if question else reply.completed.messages
        results = [(message.skill_call_id, message.content) for message in stored if message.skill_call_id and question]
        calls = [call for message in stored for call in message.skill_calls]
        expected = (reply.completed.text, calls, _by_round(results, stored))
        if (shown, called, _by_round(answered, stored)) != expected:
            self.log.unexpected.append(
                f"{question}: {shown!r}, {called} and {answered} were shown, but {stored} is stored"
            )
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
