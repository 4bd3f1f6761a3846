"""The chunks of a streamed chat completion: their fields, how they are decoded, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from palaver_server.domain.errors import ModelStreamBroken
from palaver_server.domain.limits import MAX_TOKENS
from palaver_server.domain.ports import ModelDelta
from palaver_server.domain.turns import FinishReason, Usage
from palaver_server.llm import lenient
from palaver_server.llm.lenient import SurrogatePairs
from palaver_server.llm.tool_calls import CallPiece, CallSplitter


class TokenDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class ChunkUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: TokenDetails | None = None
    completion_tokens_details: TokenDetails | None = None


class FunctionDelta(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(msgspec.Struct, frozen=True):
    index: int | None = None
    id: str | None = None
    function: FunctionDelta | None = None
    name: str | None = None  # some endpoints leave out the object around these two
    arguments: str | None = None
    extra_content: Any = None  # Gemini's thought signatures


class Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None  # DeepSeek's name, which many compatible servers use
    reasoning: str | None = None  # the newer name of the same, of vLLM and OpenRouter among others
    tool_calls: list[ToolCallDelta] | None = None
    function_call: FunctionDelta | None = None  # OpenAI's own older form of a single call


class Choice(msgspec.Struct, frozen=True):
    index: int | None = 0
    delta: Delta | None = None
    message: Delta | None = None  # a whole completion instead of a chunk
    finish_reason: str | None = None


class Chunk(msgspec.Struct, frozen=True):
    """The fields of a `chat.completion.chunk` that Palaver uses."""

    model: str | None = None
    choices: list[Choice] | None = None
    usage: ChunkUsage | None = None
    error: Any = None
    object: str | None = None
    message: Any = None  # this and the next one stand in errors alone
    detail: Any = None

    @property
    def is_error(self) -> bool:
        """True if the event is an error instead of a chunk."""
        if self.error or self.object == "error":
            return True
        return not self.choices and bool(self.message or self.detail)


class ErrorEvent(Exception):
    """An error in place of a chunk. `body` is the event."""

    def __init__(self, body: object) -> None:
        super().__init__("the endpoint sent an error in its stream")
        self.body = body


_decode_chunk = msgspec.json.Decoder(Chunk).decode

_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "end_turn": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "eos_token": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "max_output_tokens": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
    "safety": FinishReason.CONTENT_FILTER,
    "sensitive": FinishReason.CONTENT_FILTER,
    "refusal": FinishReason.CONTENT_FILTER,
    "recitation": FinishReason.CONTENT_FILTER,
    "prohibited_content": FinishReason.CONTENT_FILTER,
    "tool_calls": FinishReason.SKILL_CALLS,
    "tool_use": FinishReason.SKILL_CALLS,
    "function_call": FinishReason.SKILL_CALLS,
}
"""The finish reasons of OpenAI, and what compatible endpoints send for them, in any letter case."""

ERROR_FINISH_REASONS = frozenset({"error", "network_error", "insufficient_system_resource", "abort"})
"""Finish reasons with which endpoints report that they failed in the middle of a reply."""


class ChunkDecoder:
    """Decodes the chunks of a stream: fast if the fields are of the usual types, and leniently otherwise."""

    def __init__(self) -> None:
        self._pairs = SurrogatePairs()

    def decode(self, data: bytes) -> Chunk:
        """Returns a chunk; raises `ModelStreamBroken` for anything else, and `ErrorEvent` for an error."""
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
        except (ValueError, RecursionError) as error:
            raise ModelStreamBroken("the endpoint sent an event that is not a chat completion chunk") from error
        if isinstance(event, list) and len(event) == 1:
            event = event[0]
        if not isinstance(event, dict):
            raise ModelStreamBroken("the endpoint sent an event that is not a chat completion chunk")
        return self._converted(event)

    def _converted(self, event: dict[str, Any]) -> Chunk:
        """Returns a chunk of decoded JSON, whatever the types of its fields are."""
        choices = []
        for item in map(lenient.object_of, lenient.list_of(event.get("choices"))):
            delta = item.get("delta") or item.get("message")
            choices.append(
                Choice(
                    index=lenient.integer_of(item.get("index")),
                    delta=None if delta is None else self._delta(delta),
                    finish_reason=lenient.string_of(item.get("finish_reason")),
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
        )

    def _delta(self, delta: object) -> Delta:
        fields = lenient.object_of(delta)
        content = delta if isinstance(delta, str) else fields.get("content")
        reasoning = (fields.get(name) for name in ("reasoning_content", "reasoning", "reasoning_details"))
        return Delta(
            content=self._pairs.add(lenient.text_of(content)),
            refusal=lenient.text_of(fields.get("refusal")),
            reasoning_content=_sound(
                lenient.reasoning_of(content) or next(filter(None, map(lenient.plain_text_of, reasoning)), "")
            ),
            tool_calls=[_lenient_call(call) for call in lenient.list_of(fields.get("tool_calls"))],
            function_call=_lenient_function(fields["function_call"]) if fields.get("function_call") else None,
        )


def _lenient_call(call: object) -> ToolCallDelta:
    fields = lenient.object_of(call)
    return ToolCallDelta(
        index=lenient.integer_of(fields.get("index")),
        id=lenient.string_of(fields.get("id")),
        function=_lenient_function(fields.get("function") or fields),
        extra_content=fields.get("extra_content"),
    )


def _lenient_function(function: object) -> FunctionDelta:
    fields = lenient.object_of(function)
    return FunctionDelta(
        name=_sound(lenient.string_of(fields.get("name"))),
        arguments=_sound(lenient.arguments_of(fields.get("arguments"))),
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
    )


def _sound(text: str) -> str:
    """Returns a text without lone surrogates."""
    return SurrogatePairs().add(text) if not text.isascii() else text


class DeltaMerger:
    """Merges the chunks of each read of a reply into one delta."""

    def __init__(self, skill_names: Sequence[str] = ()) -> None:
        """Takes the names of the skills that the model may call."""
        self._calls = CallSplitter(skill_names)
        self.has_output = False
        """True if the model has written text or called a skill."""
        self.has_finish_reason = False
        """True if the endpoint has said why the reply ended."""

    def merge(self, chunks: Sequence[Chunk]) -> ModelDelta:
        """Returns the delta of some chunks. Only the first choice counts, since one was requested."""
        delta = ModelDelta()
        texts: list[str] = []
        for chunk in chunks:
            if chunk.model:
                delta.chat_model = chunk.model
            if chunk.usage is not None:
                delta.usage = _usage(chunk.usage)
            for choice in chunk.choices or ():
                if choice.index:
                    continue
                if choice.finish_reason:
                    delta.finish_reason = _finish_reason(choice.finish_reason)
                part = choice.delta or choice.message
                if part is not None:
                    self._add(delta, texts, part)
        delta.text = texts[0] if len(texts) == 1 else "".join(texts)
        self.has_output = self.has_output or bool(delta.text or delta.skill_calls)
        self.has_finish_reason = self.has_finish_reason or delta.finish_reason is not None
        return delta

    def _add(self, delta: ModelDelta, texts: list[str], part: Delta) -> None:
        text = part.content or part.refusal
        if text:
            texts.append(text)
        reasoning = part.reasoning_content or part.reasoning
        if reasoning:
            delta.reasoning += reasoning
        if part.tool_calls:
            delta.skill_calls = (*delta.skill_calls, *self._calls.split([_piece(call) for call in part.tool_calls]))
        elif part.function_call is not None:
            piece = _piece(ToolCallDelta(function=part.function_call))
            delta.skill_calls = (*delta.skill_calls, *self._calls.split([piece]))


def _piece(call: ToolCallDelta) -> CallPiece:
    function = call.function or FunctionDelta(call.name, call.arguments)
    return CallPiece(call.index, call.id or "", function.name or "", function.arguments or "", call.extra_content)


def _finish_reason(text: str) -> FinishReason:
    name = text.lower()
    if name in ERROR_FINISH_REASONS:
        raise ModelStreamBroken("the endpoint reported an error in the middle of its reply")
    return _FINISH_REASONS.get(name, FinishReason.UNKNOWN)


def _usage(usage: ChunkUsage) -> Usage:
    prompt_details = usage.prompt_tokens_details or TokenDetails()
    completion_details = usage.completion_tokens_details or TokenDetails()
    return Usage(
        prompt_tokens=_count(usage.prompt_tokens),
        completion_tokens=_count(usage.completion_tokens),
        total_tokens=_count(usage.total_tokens),
        cached_tokens=_count(prompt_details.cached_tokens),
        reasoning_tokens=_count(completion_details.reasoning_tokens),
    )


def _count(tokens: int | None) -> int:
    # A paid turn must not fail because of a count.
    return min(max(tokens or 0, 0), MAX_TOKENS)
