"""The rounds of a turn: the model writes, skills answer, and the model goes on until it asks for no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import anyio

from palaver_server.engine.limits import TurnSize
from palaver_server.engine.model import ChatModel, Prompt
from palaver_server.engine.reply import Reply, ReplyReader
from palaver_server.engine.skills import CallNames, Invocation, SkillHosts, Toolbox, failed, message
from palaver_server.engine.turn import Turn
from palaver_server.errors import ModelTimeout
from palaver_server.models import Draft, FinishReason, ModelParameters, Role, SkillCall, SkillResult, Usage

TOO_MANY_ROUNDS = "The limit of skill calls in one turn is reached; this call was not made."
TOO_LARGE = "The result is too large for this conversation."


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a turn has led to, ready to be stored behind what it began with."""

    drafts: tuple[Draft, ...]
    finish_reason: FinishReason
    usage: Usage
    total_tokens: int
    chat_model: str


@dataclass(frozen=True, slots=True)
class Rounds:
    """What all rounds of a turn have in common."""

    turn: Turn
    reader: ReplyReader
    size: TurnSize
    model: ChatModel
    parameters: ModelParameters
    toolbox: Toolbox
    hosts: SkillHosts
    names: CallNames
    assistant_id: str
    request_id: str
    max_rounds: int
    room: int
    """The most messages that can be stored."""
    deadline: float

    async def run(self, history: Sequence[Draft]) -> Conversation:
        """Asks the model, and the skills that it asks for, until the reply is whole."""
        drafts: list[Draft] = []
        usage, number = Usage(), 0
        while True:
            prompt = Prompt((*history, *drafts), self.parameters, self.toolbox.all)
            reply = await self.reader.read(self.model, prompt)
            usage = add(usage, reply.usage)
            is_last = number == self.max_rounds or len(drafts) + len(reply.calls) + 2 > self.room
            finish_reason = await self._take(reply, drafts, is_last=is_last)
            if finish_reason is not None:
                return Conversation(tuple(drafts), finish_reason, usage, reply.usage.total_tokens, reply.chat_model)
            number += 1

    async def _take(self, reply: Reply, drafts: list[Draft], *, is_last: bool) -> FinishReason | None:
        """Adds a reply and the results of its calls; says how the turn has ended, if it has."""
        if not reply.calls:
            drafts.append(Draft(Role.ASSISTANT, reply.text))
            return FinishReason.STOP if reply.finish_reason is FinishReason.SKILL_CALLS else reply.finish_reason
        if len(drafts) + len(reply.calls) + 1 > self.room:
            # Not even the refusals would fit, and calls without results would spoil the conversation.
            drafts.append(Draft(Role.ASSISTANT, reply.text))
            return FinishReason.SKILL_LIMIT
        named = [self.names.call(name, arguments) for name, arguments in reply.calls]
        calls = tuple(call for call, _ in named)
        drafts.append(Draft(Role.ASSISTANT, reply.text, calls))
        for call in calls:
            self.turn.publish(call)
        named = [(call, complaint or self.toolbox.complaint(call)) for call, complaint in named]
        waiting = [call for call, complaint in named if self.toolbox.is_of_caller(call) and not complaint]
        if is_last:
            results = [self._publish(failed(call, TOO_MANY_ROUNDS)) for call in calls]
            waiting = []
        else:
            results = await self._results([pair for pair in named if pair[0] not in waiting])
        drafts += map(message, results)
        if waiting:
            return FinishReason.SKILL_CALLS
        return FinishReason.SKILL_LIMIT if is_last else None

    async def _results(self, named: Sequence[tuple[SkillCall, str]]) -> list[SkillResult]:
        """Has the calls answered side by side."""
        results: dict[str, SkillResult] = {}

        async def answer(call: SkillCall, complaint: str) -> None:
            results[call.id] = await self._result(call, complaint)

        with anyio.CancelScope(deadline=self.deadline) as scope:
            async with anyio.create_task_group() as group:
                for call, complaint in named:
                    group.start_soon(answer, call, complaint)
        if scope.cancelled_caught:
            raise ModelTimeout("the skills took longer than the turn may")
        return [results[call.id] for call, _ in named]

    async def _result(self, call: SkillCall, complaint: str) -> SkillResult:
        result = (
            failed(call, complaint)
            if complaint
            else await self.hosts.invoke(Invocation(call, self.assistant_id, self.request_id))
        )
        if self.size.has_room_for(result.text):
            self.size.add(result.text)
        else:
            result = failed(call, TOO_LARGE)
        return self._publish(result)

    def _publish(self, result: SkillResult) -> SkillResult:
        self.turn.publish(result)
        return result


def add(one: Usage, other: Usage) -> Usage:
    """Adds up what two model calls have used."""
    return Usage(*(getattr(one, field.name) + getattr(other, field.name) for field in fields(Usage)))
