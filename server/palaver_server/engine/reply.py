"""Reading a reply from the model: time limits, retries, and the pieces put together."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import anyio
import stamina

from palaver_server.engine.limits import TurnSize
from palaver_server.engine.model import ChatModel, ModelDelta, Prompt
from palaver_server.engine.options import EngineOptions
from palaver_server.engine.skills import CallCollector
from palaver_server.engine.turn import Turn
from palaver_server.errors import ModelError, ModelStreamBroken, ModelTimeout, RetryableError
from palaver_server.failpoints import Failpoint, reach
from palaver_server.models import FinishReason, TextDelta, Usage

ATTEMPTS = 3
MAX_RETRY_AFTER = 10.0
"""Seconds: an endpoint that asks for a longer pause is not asked again; the caller is told the pause."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model answered, whole."""

    text: str
    calls: tuple[tuple[str, str], ...]
    """The names and the arguments of the skills that the model asks for."""
    finish_reason: FinishReason
    usage: Usage
    chat_model: str


@dataclass(slots=True)
class _Collector:
    """Puts the deltas of a model call together."""

    chat_model: str
    pieces: list[str] = field(default_factory=list)
    calls: CallCollector = field(default_factory=CallCollector)
    finish_reason: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)

    def add(self, delta: ModelDelta) -> None:
        if delta.text:
            self.pieces.append(delta.text)
        for piece in delta.skill_calls:
            self.calls.add(piece)
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.usage = delta.usage or self.usage
        self.chat_model = delta.chat_model or self.chat_model

    def reply(self) -> Reply:
        if self.finish_reason is None:
            raise ModelStreamBroken("the endpoint ended its reply without a finish reason")
        usage = replace(self.usage, model_calls=1)
        return Reply("".join(self.pieces), self.calls.calls(), self.finish_reason, usage, self.chat_model)


class ReplyReader:
    """Reads the replies of a turn."""

    def __init__(
        self, turn: Turn, size: TurnSize, options: EngineOptions, *, deadline: float, retry_until: float
    ) -> None:
        """Sets where the pieces go and what limits them.

        `deadline` is that of the turn, and no retry begins after `retry_until`, because nobody would wait for its
        reply; both are times of the event loop.
        """
        self._turn = turn
        self._size = size
        self._options = options
        self._deadline = deadline
        self._retry_until = retry_until
        self._has_begun = False
        self._extend_at = 0.0
        self._now = asyncio.get_running_loop().time

    async def read(self, model: ChatModel, prompt: Prompt) -> Reply:
        """Asks the model, again where that is allowed, until there is a whole reply; raises a `ModelError`."""
        self._has_begun = False
        self._size.begin_reply()
        async for attempt in stamina.retry_context(
            on=self._pause_before_retry, attempts=ATTEMPTS, timeout=None, wait_initial=0.25, wait_jitter=0.25
        ):
            with attempt:
                reply = await self._read_once(model, prompt)
        return reply

    async def _read_once(self, model: ChatModel, prompt: Prompt) -> Reply:
        collector = _Collector(prompt.parameters.chat_model)
        self._extend_at = 0.0
        first_token_deadline = min(self._now() + self._options.first_token_timeout, self._deadline)
        with anyio.CancelScope(deadline=first_token_deadline) as scope:
            async with aclosing(model.stream(prompt)) as deltas:
                async for delta in deltas:
                    collector.add(delta)
                    if delta.text:
                        reach(Failpoint.TEXT_RECEIVED)
                        self._pass_on(delta.text)
                        if self._turn.is_far_ahead:
                            await self._wait_for_the_callers(scope)
                    for piece in delta.skill_calls:
                        self._has_begun = True
                        self._size.add(piece.name + piece.arguments)
                    # Comments and empty deltas are no sign of progress; what is written or thought is.
                    if delta.text or delta.thinking or delta.skill_calls:
                        self._extend(scope)
        if scope.cancelled_caught:
            raise self._timeout()
        return collector.reply()

    def _pass_on(self, text: str) -> None:
        self._has_begun = True
        self._size.add_reply(text)
        self._turn.publish(TextDelta(text))

    async def _wait_for_the_callers(self, scope: anyio.CancelScope) -> None:
        # They are slow, not the endpoint: only the limit of the whole turn goes on counting.
        scope.deadline = self._deadline
        await self._turn.room()
        self._extend_at = 0.0

    def _extend(self, scope: anyio.CancelScope) -> None:
        """Gives the model the pause between two tokens from now on.

        Moving the deadline costs as much as all else that is done for a token here. So it is moved a tenth further
        than asked, and only when that tenth is used up.
        """
        now = self._now()
        if now >= self._extend_at:
            margin = self._options.token_timeout / 10
            scope.deadline = min(now + self._options.token_timeout + margin, self._deadline)
            self._extend_at = now + margin

    def _timeout(self) -> ModelTimeout:
        if self._now() >= self._deadline:
            return ModelTimeout(f"the turn took longer than {self._options.turn_timeout:g} seconds")
        if self._has_begun:
            return ModelTimeout(f"the model wrote nothing for {self._options.token_timeout:g} seconds")
        return ModelTimeout(f"the model did not begin to write within {self._options.first_token_timeout:g} seconds")

    def _pause_before_retry(self, error: Exception) -> bool | float:
        """Tells whether to try again: False, True for a growing pause, or the seconds that the endpoint asked for."""
        if self._has_begun or not (isinstance(error, ModelError) and isinstance(error, RetryableError)):
            return False
        if error.retry_after is None:
            return True
        if error.retry_after > MAX_RETRY_AFTER or self._now() + error.retry_after > self._retry_until:
            return False
        return error.retry_after + random.uniform(0, 0.25)  # noqa: S311 - it spreads callers, it keeps no secret
