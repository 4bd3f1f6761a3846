"""A reader for the bytes of a streamed chat completion.

The SDK's typed stream costs ten times as much per piece as splitting the bytes and decoding the few fields that are
used. The SDK therefore opens the request, and this module reads the response. A property test compares it with the
SDK's typed stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from palaver_server.domain.errors import ModelStreamBroken
from palaver_server.domain.ports import ModelDelta, SkillCallDelta
from palaver_server.domain.turns import FinishReason, Usage

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""The largest event of a stream. A reply that can be stored is smaller, even as a single event."""

MAX_COUNT = 2**31 - 1

DONE = b"[DONE]"
MARKED_DATA = b"\xef\xbb\xbfdata:"  # some servers begin with a byte order mark


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
    index: int | None = 0
    id: str | None = None
    function: FunctionDelta | None = None


class Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None  # DeepSeek's name, which many compatible servers use
    tool_calls: list[ToolCallDelta] | None = None


class Choice(msgspec.Struct, frozen=True):
    index: int | None = 0
    delta: Delta | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct, frozen=True):
    """The fields of a `chat.completion.chunk` that Palaver uses."""

    model: str | None = None
    choices: list[Choice] | None = None
    usage: ChunkUsage | None = None
    error: Any = None


class ErrorEvent(Exception):
    """An error object in the middle of a stream. `body` is the object."""

    def __init__(self, body: object) -> None:
        super().__init__("the endpoint sent an error in its stream")
        self.body = body


_decode_chunk = msgspec.json.Decoder(Chunk).decode

_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
    "tool_calls": FinishReason.SKILL_CALLS,
}


class ChunkReader:
    """Splits the bytes of a stream into its chunks, wherever the reads begin and end."""

    def __init__(self) -> None:
        self._rest = b""
        self._ended_with_cr = False
        self._data: list[bytes] = []
        self._size = 0
        self.is_done = False
        """True after the endpoint has sent `[DONE]`. Everything after that is ignored."""

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Takes the next bytes and yields the chunks that they complete.

        Raises `ModelStreamBroken` for an event that is not a chunk and `ErrorEvent` for an error, in either case after
        the chunks before it.
        """
        if self._is_one_event(data):
            yield _chunk(data[6:-2])
            return
        if self._ended_with_cr and data:
            data = data.removeprefix(b"\n")  # the second half of a line end that two reads share
            self._ended_with_cr = False
        if b"\r" in data:
            self._ended_with_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = (self._rest + data if self._rest else data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if self.is_done:
                break
            if line:
                self._take_field(line)
            elif self._data:
                chunk = self._dispatch()
                if chunk is not None:
                    yield chunk
        if len(self._rest) + self._size > MAX_EVENT_BYTES:
            raise ModelStreamBroken("the endpoint sent an event that does not end")

    def _is_one_event(self, data: bytes) -> bool:
        """Returns whether the bytes are exactly one event, as they are while a model writes token by token."""
        return (
            data.startswith(b"data: {")
            and data.endswith(b"\n\n")
            and data.count(b"\n") == 2
            and b"\r" not in data
            and not (self._rest or self._data or self._ended_with_cr or self.is_done)
        )

    def _take_field(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            value = line[6:] if line.startswith(b"data: ") else line[5:]
        elif line == b"data":
            value = b""
        elif line.startswith(MARKED_DATA):
            self._take_field(line[3:])
            return
        else:
            return  # comments, and the fields `event`, `id` and `retry`, which have no use here
        self._data.append(value)
        self._size += len(line) + 1

    def _dispatch(self) -> Chunk | None:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data.clear()
        self._size = 0
        if data.startswith(DONE):
            self.is_done = True
            return None
        return _chunk(data)


def _chunk(data: bytes) -> Chunk:
    try:
        chunk = _decode_chunk(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelStreamBroken("the endpoint sent an event that is not a chat completion chunk") from error
    if chunk.error:
        raise ErrorEvent(chunk.error)
    return chunk


def merge(chunks: list[Chunk]) -> ModelDelta:
    """Merges the chunks of one read into one delta. Only the first choice counts, since one was requested."""
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
                delta.finish_reason = _FINISH_REASONS.get(choice.finish_reason, FinishReason.UNKNOWN)
            if choice.delta is not None:
                _add(delta, texts, choice.delta)
    delta.text = texts[0] if len(texts) == 1 else "".join(texts)
    return delta


def _add(delta: ModelDelta, texts: list[str], part: Delta) -> None:
    text = part.content or part.refusal
    if text:
        texts.append(text)
    if part.reasoning_content:
        delta.thinking = True
    if part.tool_calls:
        delta.skill_calls = (*delta.skill_calls, *map(_skill_call, part.tool_calls))


def _skill_call(call: ToolCallDelta) -> SkillCallDelta:
    function = call.function or FunctionDelta()
    return SkillCallDelta(call.index or 0, call.id or "", function.name or "", function.arguments or "")


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
    # The contract and the extension's tables hold 32 bits, and a paid turn must not fail because of a count.
    return min(max(tokens or 0, 0), MAX_COUNT)
