"""The tool loop: the model and its skills take turns until the model asks for no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from palaver_server.domain.conversation import SkillCall, SkillResult
from palaver_server.domain.errors import ModelTimeout
from palaver_server.domain.generation import GenerationParameters
from palaver_server.domain.ports import ChatModel, Prompt, SkillInvocation, SkillSource
from palaver_server.domain.stages import Observer, Stage
from palaver_server.domain.turns import FinishReason, ProgressPhase, Usage
from palaver_server.engine.call_ids import CallIdGenerator
from palaver_server.engine.reply import Reply, ReplyReader
from palaver_server.engine.toolbox import Toolbox
from palaver_server.engine.transcript import Transcript
from palaver_server.engine.turn import Turn

TOO_MANY_ROUNDS = "The turn has reached its limit of skill calls; this call was not made."

CUT_OFF = (FinishReason.LENGTH, FinishReason.CONTENT_FILTER)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a tool loop. The messages are in the transcript."""

    finish_reason: FinishReason
    usage: Usage
    total_tokens: int
    """The `total_tokens` of the last model call."""
    chat_model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolLoop:
    """A loop of model calls and skill calls, which publishes its events to a turn."""

    turn: Turn
    observer: Observer
    transcript: Transcript
    reader: ReplyReader
    model: ChatModel
    parameters: GenerationParameters
    toolbox: Toolbox
    skills: SkillSource
    call_ids: CallIdGenerator
    max_rounds: int
    deadline: float
    """The end of the turn, in the time of the event loop."""

    async def run(self) -> Outcome:
        """Calls the model, and the skills that it asks for, until the reply is complete."""
        rounds = 0
        while True:
            self.turn.phase = ProgressPhase.MODEL
            reply = await self.reader.read(
                self.model, Prompt(self.transcript.prompt, self.parameters, self.toolbox.all)
            )
            self.turn.usage += reply.usage
            is_last = rounds == self.max_rounds or not self.transcript.has_room_after_calls(len(reply.calls))
            finish_reason = await self._process(reply, is_last=is_last)
            if finish_reason is not None:
                return Outcome(finish_reason, self.turn.usage, reply.usage.total_tokens, reply.chat_model)
            rounds += 1

    async def _process(self, reply: Reply, *, is_last: bool) -> FinishReason | None:
        """Appends a reply and the results of its calls. Returns the finish reason, or None if the loop goes on."""
        # If the reply was cut off by its length or by a filter, its calls are dropped, however complete they look.
        if not reply.calls or reply.finish_reason in CUT_OFF:
            self.transcript.add_reply(reply.text)
            return FinishReason.STOP if reply.finish_reason is FinishReason.SKILL_CALLS else reply.finish_reason
        if not self.transcript.has_room_for_calls(len(reply.calls)):
            # Calls without results would make the conversation unusable, and there is no room even for errors.
            self.transcript.add_reply(reply.text)
            return FinishReason.SKILL_LIMIT
        identified = [self.call_ids.identify(self.toolbox.name_of(call.name), call.arguments) for call in reply.calls]
        calls = [(call, error or self.toolbox.call_error(call)) for call, error in identified]
        self.transcript.add_reply(reply.text, [call for call, _ in calls], reply.endpoint_state, reply.reasoning)
        for call, _ in calls:
            self.turn.publish(call)
        if is_last:
            self.transcript.add_results(
                [self._publish(SkillResult.failure(call, TOO_MANY_ROUNDS)) for call, _ in calls]
            )
            return FinishReason.SKILL_LIMIT
        waiting = [call for call, error in calls if self.toolbox.is_of_caller(call) and not error]
        self.transcript.add_results(await self._answer([pair for pair in calls if pair[0] not in waiting]))
        return FinishReason.SKILL_CALLS if waiting else None

    async def _answer(self, calls: Sequence[tuple[SkillCall, str]]) -> list[SkillResult]:
        """Runs skill calls concurrently and returns their results. The result of a call with an error is the error."""
        results: dict[str, SkillResult] = {}

        async def answer(call: SkillCall, error: str) -> None:
            result = SkillResult.failure(call, error) if error else await self._invoke(call)
            results[call.id] = self._publish(self.transcript.fit(call, result))

        self.turn.phase = ProgressPhase.SKILL
        with anyio.CancelScope(deadline=self.deadline) as scope:
            async with anyio.create_task_group() as group:
                for call, error in calls:
                    group.start_soon(answer, call, error)
        if scope.cancelled_caught:
            raise ModelTimeout("the turn's time limit was reached while skills were running")
        return [results[call.id] for call, _ in calls]

    async def _invoke(self, call: SkillCall) -> SkillResult:
        self.observer.reached(Stage.SKILL_CALLED, self.turn.key, call)
        result = await self.skills.invoke(SkillInvocation(call, self.turn.key))
        self.observer.reached(Stage.SKILL_ANSWERED, self.turn.key, result)
        return result

    def _publish(self, result: SkillResult) -> SkillResult:
        self.turn.publish(result)
        return result
