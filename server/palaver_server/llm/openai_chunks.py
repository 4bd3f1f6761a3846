"""The chunks of a streamed chat completion: their fields, how they are decoded, and what they say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from palaver_server.domain.conversation import sound
from palaver_server.domain.errors import ModelStreamBroken
from palaver_server.domain.limits import (
    MAX_CHAT_MODEL_CHARACTERS,
    MAX_ENDPOINT_STATE_CHARACTERS,
    MAX_EVENT_ITEMS,
    MAX_ID_CHARACTERS,
    MAX_REPLY_CALLS,
    MAX_TOKENS,
)
from palaver_server.domain.ports import ModelDelta
from palaver_server.domain.turns import FinishReason, Usage
from palaver_server.llm import lenient
from palaver_server.llm.lenient import SurrogatePairs
from palaver_server.llm.tool_calls import MAX_NAME_CHARACTERS, CallPiece, CallSplitter, too_many_calls


class TokenDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class ChunkUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: TokenDetails | None = None
    completion_tokens_details: TokenDetails | None = None
    input_tokens: int | None = None  # Anthropic's names of the first two
    output_tokens: int | None = None


class FunctionDelta(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(msgspec.Struct, frozen=True):
    index: int | None = None
    id: str | None = None
    function: FunctionDelta | None = None
    name: str | None = None  # some endpoints leave out the object around these two
    arguments: str | None = None
    # Where endpoints put the state that they want back: Gemini, LiteLLM, and gateways to Gemini.
    extra_content: Any = None
    provider_specific_fields: Any = None
    thought_signature: Any = None

    @property
    def state(self) -> dict[str, Any] | None:
        """The fields that the endpoint wants back with the call, or None."""
        fields = {name: value for name in CALL_STATE_FIELDS if (value := getattr(self, name))}
        return fields or None


CALL_STATE_FIELDS = ("extra_content", "provider_specific_fields", "thought_signature")
"""The fields of a call that are returned to the endpoint."""


class Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None  # DeepSeek's name, which many compatible servers use
    reasoning: str | None = None  # the newer name of the same, of vLLM and OpenRouter among others
    reasoning_details: Any = None  # OpenRouter's, which it wants back
    tool_calls: list[ToolCallDelta] | None = None
    function_call: FunctionDelta | None = None  # OpenAI's own older form of a single call


class Choice(msgspec.Struct, frozen=True):
    index: int | None = 0
    delta: Delta | None = None
    message: Delta | None = None  # a whole completion instead of a chunk
    finish_reason: str | None = None
    text: str | None = None  # OpenAI's own older form of a completion
    usage: ChunkUsage | None = None  # Moonshot's place for it
    error: Any = None

    @property
    def has_output(self) -> bool:
        """True if the model has written something in it."""
        part = self.delta or self.message or Delta()
        texts = (self.text, part.content, part.refusal, part.reasoning_content, part.reasoning)
        return any(texts) or bool(part.reasoning_details or part.tool_calls or part.function_call)


class Chunk(msgspec.Struct, frozen=True):
    """The fields of a `chat.completion.chunk` that Palaver uses."""

    model: str | None = None
    choices: list[Choice] | None = None
    usage: ChunkUsage | None = None
    error: Any = None
    object: str | None = None
    message: Any = None  # this and the next ones stand in errors alone
    detail: Any = None
    msg: Any = None
    errors: Any = None

    @property
    def is_error(self) -> bool:
        """True if the event is an error instead of a chunk."""
        if self.error or self.object == "error":
            return True
        if not self.choices:
            return bool(self.message or self.detail or self.msg or self.errors)
        return any(choice.error for choice in self.choices)


class ErrorEvent(Exception):
    """An error in place of a chunk. `body` is the event."""

    def __init__(self, body: object) -> None:
        super().__init__("the endpoint sent an error in its stream")
        self.body = body


_decode_chunk = msgspec.json.Decoder(Chunk).decode

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
"""What some endpoints write as long as there is no finish reason."""

CUT_OFF = (FinishReason.LENGTH, FinishReason.CONTENT_FILTER)

ERROR_FINISH_REASONS = frozenset({"error", "network_error", "insufficient_system_resource", "abort"})
"""Finish reasons with which endpoints report that they failed in the middle of a reply."""


class ChunkDecoder:
    """Decodes the chunks of a stream: fast if the fields are of the usual types, and leniently otherwise."""

    def __init__(self) -> None:
        self._pairs = SurrogatePairs()

    def decode(self, data: bytes) -> Chunk:
        """Returns a chunk; raises `ModelStreamBroken` for anything else, and `ErrorEvent` for an error."""
        if len(data) > MAX_EVENT_ITEMS and data.count(b"{") + data.count(b"[") > MAX_EVENT_ITEMS:
            raise ModelStreamBroken(f"the endpoint sent an event of more than {MAX_EVENT_ITEMS:,} items")
        try:
            chunk = _decode_chunk(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            chunk = self._lenient(data)
        else:
            if self._pairs.is_open:
                chunk = self._lenient(data)
        if chunk.is_error:
            raise ErrorEvent(data)
        return chunk

    def _lenient(self, data: bytes) -> Chunk:
        try:
            event = lenient.decode(data)
            if isinstance(event, list) and len(event) == 1:
                event = event[0]
            if isinstance(event, dict):
                return self._converted(event)
        except (ValueError, RecursionError) as error:
            raise ModelStreamBroken("the endpoint sent an event that is not a chat completion chunk") from error
        raise ModelStreamBroken("the endpoint sent an event that is not a chat completion chunk")

    def _converted(self, event: dict[str, Any]) -> Chunk:
        """Returns a chunk of decoded JSON, whatever the types of its fields are."""
        choices = []
        for item in map(lenient.object_of, lenient.list_of(event.get("choices"))):
            delta, message, usage = (item.get(name) for name in ("delta", "message", "usage"))
            choices.append(
                Choice(
                    index=lenient.integer_of(item.get("index")),
                    delta=None if delta is None else self._delta(delta),
                    message=None if message is None else self._delta(message),
                    finish_reason=lenient.string_of(item.get("finish_reason")),
                    text=self._pairs.add(lenient.text_of(item.get("text"))) if item.get("text") else None,
                    usage=_lenient_usage(usage) if isinstance(usage, dict) else None,
                    error=item.get("error"),
                )
            )
        usage = event.get("usage")
        return Chunk(
            model=lenient.string_of(event.get("model")),
            choices=choices,
            usage=_lenient_usage(usage) if isinstance(usage, dict) else None,
            error=event.get("error"),
            object=lenient.string_of(event.get("object")),
            message=event.get("message"),
            detail=event.get("detail"),
            msg=event.get("msg"),
            errors=event.get("errors"),
        )

    def _delta(self, delta: object) -> Delta:
        fields = lenient.object_of(delta)
        content = fields.get("content") if isinstance(delta, dict) else delta
        reasoning = (fields.get(name) for name in ("reasoning_content", "reasoning", "reasoning_details"))
        return Delta(
            content=self._pairs.add(lenient.text_of(content)),
            refusal=sound(lenient.text_of(fields.get("refusal"))),
            reasoning_content=sound(
                lenient.reasoning_of(content) or next(filter(None, map(lenient.plain_text_of, reasoning)), "")
            ),
            reasoning_details=fields.get("reasoning_details"),
            tool_calls=[_lenient_call(call) for call in lenient.list_of(fields.get("tool_calls"))],
            function_call=_lenient_function(fields["function_call"]) if fields.get("function_call") else None,
        )


def _lenient_call(call: object) -> ToolCallDelta:
    fields = lenient.object_of(call)
    return ToolCallDelta(
        index=lenient.integer_of(fields.get("index")),
        id=lenient.string_of(fields.get("id")),
        function=_lenient_function(fields.get("function") or fields),
        **{name: fields.get(name) for name in CALL_STATE_FIELDS},
    )


def _lenient_function(function: object) -> FunctionDelta:
    fields = lenient.object_of(function)
    return FunctionDelta(
        name=lenient.string_of(fields.get("name")),
        arguments=sound(lenient.arguments_of(fields.get("arguments"))),
    )


def _lenient_usage(usage: dict[str, Any]) -> ChunkUsage:
    count = lenient.integer_of
    prompt = lenient.object_of(usage.get("prompt_tokens_details"))
    completion = lenient.object_of(usage.get("completion_tokens_details"))
    return ChunkUsage(
        prompt_tokens=count(usage.get("prompt_tokens")),
        completion_tokens=count(usage.get("completion_tokens")),
        total_tokens=count(usage.get("total_tokens")),
        prompt_tokens_details=TokenDetails(cached_tokens=count(prompt.get("cached_tokens"))),
        completion_tokens_details=TokenDetails(reasoning_tokens=count(completion.get("reasoning_tokens"))),
        input_tokens=count(usage.get("input_tokens")),
        output_tokens=count(usage.get("output_tokens")),
    )


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
