"""Reading a reply from the model, with deadlines and retries."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import anyio
import stamina

from palaver_server.domain.errors import ModelError, ModelStreamBroken, ModelTimeout, RetryableError
from palaver_server.domain.limits import END_TIMEOUT
from palaver_server.domain.ports import ChatModel, ModelDelta, Prompt, SkillCallDelta
from palaver_server.domain.stages import Observer, Stage
from palaver_server.domain.turns import FinishReason, TextDelta, Usage
from palaver_server.engine.options import EngineOptions
from palaver_server.engine.transcript import TurnSize
from palaver_server.engine.turn import Turn

ATTEMPTS = 3
MAX_RETRY_AFTER = 10.0
"""Seconds. If an endpoint asks for a longer pause, the call is not retried, and the caller gets the pause."""


@dataclass(frozen=True, slots=True)
class RequestedCall:
    """A skill call as the model wrote it."""

    name: str = ""
    arguments: str = ""
    endpoint_state: object = None


@dataclass(slots=True)
class _GrowingCall:
    """A skill call while the model writes it."""

    name: str = ""
    arguments: list[str] = field(default_factory=list)
    endpoint_state: object = None

    def add(self, delta: SkillCallDelta) -> None:
        self.name += delta.name
        if delta.arguments:
            self.arguments.append(delta.arguments)
        self.endpoint_state = delta.endpoint_state or self.endpoint_state

    def whole(self) -> RequestedCall | None:
        """Returns the whole call, or None if it is an empty one, which some endpoints send with a plain reply."""
        arguments = "".join(self.arguments)
        if not self.name.strip() and arguments.strip() in ("", "{}", "null"):
            return None
        return RequestedCall(self.name, arguments, self.endpoint_state)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply of the model."""

    text: str
    calls: tuple[RequestedCall, ...]
    finish_reason: FinishReason
    usage: Usage
    chat_model: str
    reasoning: str = ""
    endpoint_state: str = ""
    """See `Draft.endpoint_state`."""


@dataclass(slots=True)
class _ReplyCollector:
    """Assembles a reply from its deltas."""

    chat_model: str
    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: defaultdict[int, _GrowingCall] = field(default_factory=lambda: defaultdict(_GrowingCall))
    endpoint_state: list[object] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)

    def add(self, delta: ModelDelta) -> None:
        if delta.text:
            self.texts.append(delta.text)
        if delta.reasoning:
            self.reasoning.append(delta.reasoning)
        for call in delta.skill_calls:
            self.calls[call.position].add(call)
        self.endpoint_state += delta.endpoint_state
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.usage = delta.usage or self.usage
        self.chat_model = delta.chat_model or self.chat_model

    def reply(self) -> Reply:
        if self.finish_reason is None:
            raise ModelStreamBroken("the endpoint ended its reply without a finish reason")
        calls = tuple(filter(None, (call.whole() for _, call in sorted(self.calls.items()))))
        return Reply(
            text="".join(self.texts),
            calls=calls,
            finish_reason=self.finish_reason,
            usage=replace(self.usage, model_calls=1),
            chat_model=self.chat_model,
            reasoning="".join(self.reasoning),
            endpoint_state=self._state_with(calls),
        )

    def _state_with(self, calls: tuple[RequestedCall, ...]) -> str:
        states = [call.endpoint_state for call in calls]
        has_state = self.endpoint_state or any(state is not None for state in states)
        return json.dumps({"message": self.endpoint_state, "calls": states}) if has_state else ""


class ReplyReader:
    """Reads the replies of a turn and publishes their text."""

    def __init__(
        self,
        turn: Turn,
        size: TurnSize,
        options: EngineOptions,
        observer: Observer,
        *,
        deadline: float,
        retry_until: float,
    ) -> None:
        """Takes the limits of the turn, as times of the event loop.

        A pause that the endpoint asks for must end before `retry_until`, because no caller would wait for the reply.
        """
        self._turn = turn
        self._size = size
        self._options = options
        self._observer = observer
        self._deadline = deadline
        self._retry_until = retry_until
        self._has_begun = False
        self._extend_at = 0.0
        self._now = asyncio.get_running_loop().time

    async def read(self, model: ChatModel, prompt: Prompt) -> Reply:
        """Calls the model and returns its reply, or raises a `ModelError`.

        A failed call is retried if the model had not begun to write.
        """
        self._has_begun = False
        self._size.begin_reply()
        async for attempt in stamina.retry_context(
            on=self._backoff, attempts=ATTEMPTS, timeout=None, wait_initial=0.25, wait_jitter=0.25
        ):
            with attempt:
                reply = await self._observed_call(model, prompt)
        return reply

    async def _observed_call(self, model: ChatModel, prompt: Prompt) -> Reply:
        self._observer.reached(Stage.MODEL_CALLED, self._turn.key, prompt)
        try:
            reply = await self._call(model, prompt)
        except BaseException as error:
            self._observer.reached(Stage.MODEL_ANSWERED, self._turn.key, error)
            raise
        self._observer.reached(Stage.MODEL_ANSWERED, self._turn.key, reply)
        return reply

    async def _call(self, model: ChatModel, prompt: Prompt) -> Reply:
        collector = _ReplyCollector(prompt.parameters.chat_model)
        self._extend_at = 0.0
        has_output = False
        first_token_deadline = min(self._now() + self._options.first_token_timeout, self._deadline)
        with anyio.CancelScope(deadline=first_token_deadline) as scope:
            async with aclosing(model.stream(prompt)) as deltas:
                async for delta in deltas:
                    collector.add(delta)
                    if not has_output and (delta.text or delta.reasoning or delta.skill_calls):
                        has_output = True
                        self._observer.reached(Stage.OUTPUT_RECEIVED, self._turn.key)
                    if delta.text:
                        self._observer.reached(Stage.TEXT_RECEIVED, self._turn.key, delta.text)
                        self._publish(delta.text)
                        if self._turn.has_backpressure:
                            await self._wait_for_callers(scope)
                    for call in delta.skill_calls:
                        self._has_begun = True
                        self._size.add(call.name + call.arguments)
                    if delta.reasoning:
                        self._size.add_reasoning(delta.reasoning)
                    # Comments and empty deltas show no progress of the model; text, reasoning and calls do.
                    if delta.text or delta.reasoning or delta.skill_calls:
                        self._extend(scope)
                    if delta.finish_reason is not None:
                        # The reply is whole, and must not be lost to an endpoint that does not end its stream.
                        scope.deadline = max(scope.deadline, self._now() + 2 * END_TIMEOUT)
        if scope.cancelled_caught:
            raise self._timeout()
        return collector.reply()

    def _publish(self, text: str) -> None:
        self._has_begun = True
        self._size.add_to_reply(text)
        self._turn.publish(TextDelta(text))

    async def _wait_for_callers(self, scope: anyio.CancelScope) -> None:
        """Waits for slow callers. Only the limit of the whole turn applies, because the endpoint is not to blame."""
        scope.deadline = self._deadline
        await self._turn.wait_for_demand()
        self._extend_at = 0.0

    def _extend(self, scope: anyio.CancelScope) -> None:
        """Restarts the time limit between two tokens.

        Moving the deadline costs as much as all other work on a token. It is therefore moved a tenth further than
        needed, and moved again only after that tenth has passed.
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

    def _backoff(self, error: Exception) -> bool | float:
        """Returns False for no retry, True for exponential backoff, or the pause in seconds, as stamina expects."""
        if self._has_begun or not (isinstance(error, ModelError) and isinstance(error, RetryableError)):
            return False
        if error.retry_after is None:
            return True
        if error.retry_after > MAX_RETRY_AFTER or self._now() + error.retry_after > self._retry_until:
            return False
        return error.retry_after + random.uniform(0, 0.25)  # noqa: S311 - jitter needs no secrecy
