"""The chunks of a streamed chat completion: their fields, and how they are decoded."""

from __future__ import annotations

from typing import Any

import msgspec

from palaver_server.domain.conversation import sound
from palaver_server.domain.errors import ModelStreamBroken
from palaver_server.domain.limits import MAX_EVENT_ITEMS
from palaver_server.llm import lenient
from palaver_server.llm.lenient import SurrogatePairs


class TokenDetails(msgspec.Struct, frozen=True, gc=False):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class ChunkUsage(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: TokenDetails | None = None
    completion_tokens_details: TokenDetails | None = None
    input_tokens: int | None = None  # Anthropic's names of the first two
    output_tokens: int | None = None


class FunctionDelta(msgspec.Struct, frozen=True, gc=False):
    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
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


class Delta(msgspec.Struct, frozen=True, gc=False):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None  # DeepSeek's name, which many compatible servers use
    reasoning: str | None = None  # the newer name of the same, of vLLM and OpenRouter among others
    reasoning_details: Any = None  # OpenRouter's, which it wants back
    tool_calls: list[ToolCallDelta] | None = None
    function_call: FunctionDelta | None = None  # OpenAI's own older form of a single call


class Choice(msgspec.Struct, frozen=True, gc=False):
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


class Chunk(msgspec.Struct, frozen=True, gc=False):
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
        for choice in self.choices:  # noqa: SIM110 - a generator would be a fifth of the cost of a chunk
            if choice.error:
                return True
        return False


class ErrorEvent(Exception):
    """An error in place of a chunk. `body` is the event."""

    def __init__(self, body: object) -> None:
        super().__init__("the endpoint sent an error in its stream")
        self.body = body


_decode_chunk = msgspec.json.Decoder(Chunk).decode


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
