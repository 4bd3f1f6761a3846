"""The meaning of the chunks of a reply: its text, its calls, its finish reason and its usage."""

from __future__ import annotations

import json
from collections.abc import Sequence

from palaver_server.domain.errors import ModelStreamBroken
from palaver_server.domain.limits import (
    MAX_CHAT_MODEL_CHARACTERS,
    MAX_ENDPOINT_STATE_CHARACTERS,
    MAX_ID_CHARACTERS,
    MAX_REPLY_CALLS,
    MAX_TOKENS,
)
from palaver_server.domain.ports import ModelDelta
from palaver_server.domain.turns import FinishReason, Usage
from palaver_server.llm import lenient
from palaver_server.llm.openai_chunks import (
    Choice,
    Chunk,
    ChunkUsage,
    Delta,
    FunctionDelta,
    TokenDetails,
    ToolCallDelta,
)
from palaver_server.llm.tool_calls import MAX_NAME_CHARACTERS, CallPiece, CallSplitter, too_many_calls

_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "stop_token": FinishReason.STOP,
    "stopped": FinishReason.STOP,
    "complete": FinishReason.STOP,
    "completed": FinishReason.STOP,
    "done": FinishReason.STOP,
    "end": FinishReason.STOP,
    "eos_found": FinishReason.STOP,
    "end_turn": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "eos_token": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "max_output_tokens": FinishReason.LENGTH,
    "max_completion_tokens": FinishReason.LENGTH,
    "max_length": FinishReason.LENGTH,
    "token_limit": FinishReason.LENGTH,
    "context_length_exceeded": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
    "safety": FinishReason.CONTENT_FILTER,
    "sensitive": FinishReason.CONTENT_FILTER,
    "refusal": FinishReason.CONTENT_FILTER,
    "recitation": FinishReason.CONTENT_FILTER,
    "prohibited_content": FinishReason.CONTENT_FILTER,
    "content_filtered": FinishReason.CONTENT_FILTER,
    "blocklist": FinishReason.CONTENT_FILTER,
    "spii": FinishReason.CONTENT_FILTER,
    "image_safety": FinishReason.CONTENT_FILTER,
    "guardrail_intervened": FinishReason.CONTENT_FILTER,
    "tool_calls": FinishReason.SKILL_CALLS,
    "tool_call": FinishReason.SKILL_CALLS,
    "tool_use": FinishReason.SKILL_CALLS,
    "function_call": FinishReason.SKILL_CALLS,
}
"""The finish reasons of OpenAI, and what compatible endpoints send for them, in any letter case."""

NO_REASON = frozenset({"", "null", "none"})
"""The values that some endpoints send before there is a finish reason."""

CUT_OFF = (FinishReason.LENGTH, FinishReason.CONTENT_FILTER)

ERROR_FINISH_REASONS = frozenset({"error", "network_error", "insufficient_system_resource", "abort"})
"""Finish reasons with which endpoints report that they failed in the middle of a reply."""


class DeltaMerger:
    """Merges the chunks of each read of a reply into one delta."""

    def __init__(self, skill_names: Sequence[str] = ()) -> None:
        """Takes the names of the skills that the model may call."""
        self._calls = CallSplitter(skill_names)
        self.has_output = False
        """True if the model has written text or called a skill."""
        self.is_finished = False
        """True if the endpoint has said why the reply ended, and this can be believed."""
        self._finish_reason: FinishReason | None = None
        self._state_characters = 0
        self._has_empty_reasons = False  # some endpoints send a reason with every piece, where it says nothing

    @property
    def has_finish_reason(self) -> bool:
        """True if the endpoint has said why the reply ended."""
        return self._finish_reason is not None

    def merge(self, chunks: Sequence[Chunk]) -> ModelDelta:
        """Returns the delta of some chunks. Only the first choice counts, since one was requested."""
        delta = ModelDelta()
        texts: list[str] = []
        chat_model = ""
        for chunk in chunks:
            chat_model = chunk.model or chat_model
            if chunk.usage is not None:
                self._count(delta, chunk.usage)
            for choice in chunk.choices or ():
                if not choice.index:
                    self._add_choice(delta, texts, choice)
        delta.chat_model = chat_model[:MAX_CHAT_MODEL_CHARACTERS]
        delta.text = texts[0] if len(texts) == 1 else "".join(texts)
        self.has_output = self.has_output or bool(delta.text or delta.skill_calls)
        return delta

    def _add_choice(self, delta: ModelDelta, texts: list[str], choice: Choice) -> None:
        if choice.finish_reason or self._finish_reason is not None:
            self._note_end(delta, choice, has_begun=bool(self.has_output or texts or delta.skill_calls))
        if choice.usage is not None:
            self._count(delta, choice.usage)
        if choice.delta is not None:
            self._add(delta, texts, choice.delta)
        if choice.text:
            texts.append(choice.text)
        # Behind the pieces of a reply, a message is the whole of it once more.
        if choice.message is not None and not (self.has_output or texts or delta.skill_calls):
            self._add(delta, texts, choice.message)

    def _note_end(self, delta: ModelDelta, choice: Choice, *, has_begun: bool) -> None:
        writes = choice.has_output
        if self._finish_reason is not None and writes:
            self._has_empty_reasons = True
        if choice.finish_reason:
            delta.finish_reason = self._settled(choice.finish_reason)
        is_end = self._finish_reason is not None and (has_begun or not writes)
        self.is_finished = is_end and not self._has_empty_reasons

    def _settled(self, reason: str) -> FinishReason | None:
        """Returns why the reply ended, with another reason that the endpoint gives.

        The first known one counts, since some endpoints add their own at the end. But a reply that was cut off stays
        so: others send "stop" with every chunk.
        """
        found, before = _finish_reason(reason), self._finish_reason
        if found is not None and (before in (None, FinishReason.UNKNOWN) or found in CUT_OFF):
            self._finish_reason = found
        return self._finish_reason

    @staticmethod
    def _count(delta: ModelDelta, usage: ChunkUsage) -> None:
        found = _usage(usage)
        if found != Usage():  # some endpoints send zeros with every chunk that is not the last one
            delta.usage = found

    def _add(self, delta: ModelDelta, texts: list[str], part: Delta) -> None:
        text = part.content or part.refusal
        if text:
            texts.append(text)
        reasoning = part.reasoning_content or part.reasoning
        if part.reasoning_details:
            details = [detail for detail in lenient.list_of(part.reasoning_details) if isinstance(detail, dict)]
            delta.endpoint_state = (*delta.endpoint_state, *filter(self._has_room_for_state, details))
            reasoning = reasoning or lenient.plain_text_of(details)
        if reasoning:
            delta.reasoning += reasoning
        if part.tool_calls:
            if len(part.tool_calls) > MAX_REPLY_CALLS:
                raise too_many_calls()
            delta.skill_calls = (*delta.skill_calls, *self._calls.split([_piece(call) for call in part.tool_calls]))
        elif part.function_call is not None:
            piece = _piece(ToolCallDelta(function=part.function_call))
            delta.skill_calls = (*delta.skill_calls, *self._calls.split([piece]))

    def _has_room_for_state(self, detail: object) -> bool:
        """Counts a piece of state. What is larger in all than can be stored is left out whole, so no more is held."""
        if self._state_characters > MAX_ENDPOINT_STATE_CHARACTERS or lenient.state_of(detail) is None:
            return False
        self._state_characters += len(json.dumps(detail))
        return True


def _piece(call: ToolCallDelta) -> CallPiece:
    function = call.function or FunctionDelta(call.name, call.arguments)
    state = call.state
    return CallPiece(
        index=call.index,
        id=(call.id or "")[:MAX_ID_CHARACTERS],
        name=(function.name or "")[:MAX_NAME_CHARACTERS],
        arguments=function.arguments or "",
        state=None if state is None else lenient.state_of(state),
    )


def _finish_reason(text: str) -> FinishReason | None:
    name = text.strip().lower()
    if name in NO_REASON:
        return None
    if name in ERROR_FINISH_REASONS:
        raise ModelStreamBroken("the endpoint reported an error in the middle of its reply")
    return _FINISH_REASONS.get(name, FinishReason.UNKNOWN)


def _usage(usage: ChunkUsage) -> Usage:
    prompt_details = usage.prompt_tokens_details or TokenDetails()
    completion_details = usage.completion_tokens_details or TokenDetails()
    prompt = _count(usage.prompt_tokens or usage.input_tokens)
    completion = _count(usage.completion_tokens or usage.output_tokens)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=_count(usage.total_tokens or prompt + completion),
        cached_tokens=_count(prompt_details.cached_tokens),
        reasoning_tokens=_count(completion_details.reasoning_tokens),
    )


def _count(tokens: int | None) -> int:
    # A paid turn must not fail because of a count.
    return min(max(tokens or 0, 0), MAX_TOKENS)
