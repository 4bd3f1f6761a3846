"""Our reader finds the same in the bytes of a stream as the typed stream of OpenAI's SDK, at a tenth of its cost."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

from palaver_server.domain.errors import ModelStreamBroken
from palaver_server.domain.ports import ModelDelta
from palaver_server.domain.turns import FinishReason, Usage
from palaver_server.llm.deltas import DeltaMerger
from palaver_server.llm.openai_chunks import Chunk, ChunkUsage, ErrorEvent
from palaver_server.llm.openai_stream import MAX_EVENT_BYTES, ChunkReader

_client = openai.OpenAI(api_key="none", base_url="http://127.0.0.1:1")


def merge(chunks: list[Chunk]) -> ModelDelta:
    return DeltaMerger().merge(chunks)


@dataclass
class Outcome:
    """The result of reading a stream: its chunks, and how it ended."""

    chunks: list[Any]
    end: str = "whole"
    error: object = None


def read_with_sdk(pieces: list[bytes]) -> Outcome:
    request = httpx2.Request("POST", "http://127.0.0.1:1/chat/completions")
    response = httpx2.Response(200, content=iter(pieces), request=request)
    outcome = Outcome([])
    try:
        for chunk in openai.Stream(cast_to=ChatCompletionChunk, response=response, client=_client):
            outcome.chunks.append(_seen_by_sdk(chunk))
    except openai.APIError as error:
        outcome.end, outcome.error = "error event", error.body
    except ValueError:  # the base of JSONDecodeError and UnicodeDecodeError
        outcome.end = "broken"
    return outcome


def read_with_ours(pieces: list[bytes]) -> Outcome:
    reader = ChunkReader()
    outcome = Outcome([])
    try:
        for piece in pieces:
            for chunk in reader.feed(piece):
                outcome.chunks.append(_seen_by_us(chunk))
            if reader.is_done:
                break
    except ErrorEvent as error:
        outcome.end, outcome.error = "error event", json.loads(error.body)["error"]
    except ModelStreamBroken:
        outcome.end = "broken"
    return outcome


def _seen_by_sdk(chunk: ChatCompletionChunk) -> Any:
    usage = chunk.usage
    prompt_details = getattr(usage, "prompt_tokens_details", None)
    completion_details = getattr(usage, "completion_tokens_details", None)
    return (
        getattr(chunk, "model", None),
        [
            (
                choice.index,
                choice.finish_reason,
                getattr(choice.delta, "content", None),
                getattr(choice.delta, "refusal", None),
                getattr(choice.delta, "reasoning_content", None),
                [
                    (
                        call.index,
                        call.id,
                        getattr(call.function, "name", None),
                        getattr(call.function, "arguments", None),
                    )
                    for call in getattr(choice.delta, "tool_calls", None) or []
                ],
            )
            for choice in getattr(chunk, "choices", None) or []
        ],
        usage
        and (
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.total_tokens,
            prompt_details and prompt_details.cached_tokens,
            completion_details and completion_details.reasoning_tokens,
        ),
    )


def _seen_by_us(chunk: Chunk) -> Any:
    usage = chunk.usage
    return (
        chunk.model,
        [
            (
                choice.index,
                choice.finish_reason,
                choice.delta and choice.delta.content,
                choice.delta and choice.delta.refusal,
                choice.delta and choice.delta.reasoning_content,
                [
                    (
                        call.index,
                        call.id,
                        call.function and call.function.name,
                        call.function and call.function.arguments,
                    )
                    for call in (choice.delta and choice.delta.tool_calls) or []
                ],
            )
            for choice in chunk.choices or []
        ],
        usage
        and (
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.total_tokens,
            usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens,
            usage.completion_tokens_details and usage.completion_tokens_details.reasoning_tokens,
        ),
    )


# The objects of a stream. A missing field and one that is null are both common.


def optional(**fields: st.SearchStrategy) -> st.SearchStrategy:
    return st.fixed_dictionaries({}, optional=fields)


texts = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["", "data: [DONE]", "\n\n", "\r", "\u2028", "\x85", "\x00", "😀👩‍👩‍👧", "日本語", "\ufeff", '"\\', "}", "é"]
)
names = st.sampled_from(["", "weather", "call_1", "gpt-4o", "模型"])
counts = st.integers(0, 2**31 - 1)
functions = st.none() | optional(name=st.none() | names, arguments=st.none() | texts)
tool_calls = st.lists(
    st.fixed_dictionaries(
        {"index": st.integers(0, 3)}, optional={"id": st.none() | names, "type": names, "function": functions}
    ),
    max_size=2,
)
deltas = optional(
    role=st.sampled_from(["assistant", None]),
    content=st.none() | texts,
    refusal=st.none() | texts,
    reasoning_content=st.none() | texts,
    tool_calls=st.none() | tool_calls,
    annotations=st.just([]),
)
choices = st.fixed_dictionaries(
    {
        "index": st.sampled_from([0, 0, 0, 1]),
        "delta": deltas,
        "finish_reason": st.sampled_from([None, None, "stop", "length", "tool_calls", "content_filter", "eos"]),
    },
    optional={"logprobs": st.none() | optional(content=st.lists(optional(token=texts)))},
)
usages = st.fixed_dictionaries(
    {"prompt_tokens": counts, "completion_tokens": counts, "total_tokens": counts},
    optional={
        "prompt_tokens_details": st.none() | st.fixed_dictionaries({"cached_tokens": st.none() | counts}),
        "completion_tokens_details": st.none() | st.fixed_dictionaries({"reasoning_tokens": st.none() | counts}),
    },
)
chunks = st.fixed_dictionaries(
    {"choices": st.lists(choices, max_size=2)},
    optional={
        "id": names,
        "object": st.just("chat.completion.chunk"),
        "created": st.integers(0, 2**40) | st.floats(allow_nan=False, allow_infinity=False),
        "model": names,
        "usage": st.none() | usages,
        "error": st.sampled_from([None, {}, "", False]),
        "prompt_filter_results": st.lists(optional(prompt_index=counts)),
        "x": st.recursive(st.none() | texts, st.lists, max_leaves=5),
    },
)
error_events = st.fixed_dictionaries(
    {
        "error": texts.filter(bool)
        | st.fixed_dictionaries({"message": texts}, optional={"code": st.none() | names, "type": names})
    },
    optional={"choices": st.lists(choices, max_size=1), "model": names},
)

# The encodings of the objects.


@st.composite
def as_json(draw: st.DrawFn, objects: st.SearchStrategy) -> str:
    return json.dumps(
        draw(objects),
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, None, None, 1])),
        separators=draw(st.sampled_from([None, (",", ":")])),
    )


line_ends = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\r\n", b"\r"])
other_fields = st.sampled_from(
    [b": ping", b":", b": data: x", b"event: message", b"event:", b"retry: 10", b"retry: x", b"foo: bar", b"foo"]
)


@st.composite
def events(draw: st.DrawFn, data: st.SearchStrategy, fields: st.SearchStrategy = other_fields) -> bytes:
    """Encodes an event: a `data` field for each line of its data, between other fields and comments."""
    lines = draw(st.lists(fields, max_size=1))
    for text in draw(data).split("\n"):
        lines.append(draw(st.sampled_from([b"data: ", b"data:"])) + text.encode())
        lines += draw(st.lists(fields, max_size=1)) if draw(st.integers(0, 9)) == 0 else []
    one_for_all = draw(st.none() | line_ends)
    return b"".join(line + (one_for_all or draw(line_ends)) for line in [*lines, b""])


comments = st.builds(
    lambda lines, end: b"".join(line + end for line in lines), st.lists(st.sampled_from([b":", b": hi"])), line_ends
)
good_events = events(as_json(chunks)) | comments
dones = events(st.sampled_from(["[DONE]", "[DONE] "]))
broken_json = as_json(chunks).flatmap(
    lambda text: st.integers(0, len(text) - 1).map(lambda cut: text[:cut].rstrip("\n") + "")
)
failing_events = st.one_of(
    events(as_json(error_events)),
    events(broken_json),
    events(st.sampled_from(["{", "nonsense", "{}{}", "'", '{"choices": [}'])),
)
streams = st.builds(
    lambda head, good, last, rest: b"".join([head, *good, *last, *rest]),
    head=comments,
    good=st.lists(good_events, max_size=6),
    last=st.lists(failing_events | dones, max_size=1),
    rest=st.lists(good_events | st.sampled_from([b"", b"data: {", b'data: {"choices": []}', b"data"]), max_size=2),
)


@st.composite
def cut(draw: st.DrawFn, streams: st.SearchStrategy) -> list[bytes]:
    """Splits a stream into the pieces that arrive from the network."""
    stream = draw(streams)
    every = draw(st.sampled_from([None, None, 1, 2, 7]))
    if every:
        positions = list(range(0, len(stream), every))
    else:
        positions = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    return [stream[start:end] for start, end in zip([0, *positions], [*positions, len(stream)], strict=True)]


def feed(reader: ChunkReader, *pieces: bytes) -> list[Chunk]:
    return [chunk for piece in pieces for chunk in reader.feed(piece)]


def fed(*pieces: bytes) -> list[Chunk]:
    return feed(ChunkReader(), *pieces)


def has_events_in_a_row(stream: bytes) -> bool:
    """Returns whether a complete event is followed by another one without a blank line, which only Palaver reads."""
    event: list[bytes] = []
    for line in re.split(b"\r\n|\r|\n", stream):
        if line.startswith(b"data:"):
            if is_object(b"\n".join(event)):
                return True
            event.append(line.removeprefix(b"data:"))
        elif not line:
            event.clear()
    return False


def is_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False


def one_content(text: str) -> bytes:
    return json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode()


def text_of(*pieces: bytes) -> str:
    return merge(fed(*pieces)).text


class TestTheSameAsTheSdk:
    @settings(max_examples=250)
    @given(cut(streams))
    @example([b"data: " + one_content("Hi") + b"\r\r"])
    @example([b"data: " + one_content("Hi") + b"\r", b"\n\r", b"\n", b"data: [DONE]\r\n\r\n"])
    @example([b"data: " + one_content("Hi") + b"\r", b"\r", b"\r", b"data: " + one_content("again") + b"\n\n"])
    @example([b"data: " + one_content("Hi") + b"\n: ping\ndata: " + one_content("again") + b"\n"])
    def test_any_stream_is_read_as_the_sdk_reads_it(self, pieces: list[bytes]):
        ours, theirs = read_with_ours(pieces), read_with_sdk(pieces)
        if has_events_in_a_row(b"".join(pieces)):
            assert ours.chunks[: len(theirs.chunks)] == theirs.chunks
        else:
            assert ours == theirs

    @given(cut(st.lists(good_events, max_size=6).map(b"".join)))
    def test_how_a_stream_is_cut_changes_nothing(self, pieces: list[bytes]):
        assert read_with_ours(pieces) == read_with_ours([b"".join(pieces)])

    @given(cut(streams))
    def test_reading_byte_by_byte_changes_nothing(self, pieces: list[bytes]):
        single = [bytes([byte]) for byte in b"".join(pieces)]
        assert read_with_ours(single) == read_with_ours(pieces)

    @given(
        cut(
            st.binary(max_size=200)
            | st.lists(st.sampled_from([b"data", b":", b" ", b"\r", b"\n", b"{}", b"[DONE]", b"\xef\xbb\xbf"])).map(
                b"".join
            )
        )
    )
    def test_no_bytes_raise_an_unexpected_error(self, pieces: list[bytes]):
        assert read_with_ours(pieces).end in ("whole", "broken", "error event")

    @pytest.mark.parametrize(
        "event",
        [b"event: ping\n\n", b"id: 7\n\n", b"retry: 10\n\n", b"event: ping\r\n\r\n", b"id: 7\n\n\n\n"],
    )
    def test_an_event_without_data_is_ignored_as_in_the_standard(self, event: bytes):
        done = b"data: [DONE]\n\n"
        stream = event + b"data: " + one_content("Hi") + b"\n\n" + done
        assert text_of(stream) == "Hi"
        assert read_with_sdk([stream]).end == "broken"  # the SDK parses it as JSON

    def test_a_byte_order_mark_costs_no_text(self):
        stream = b"\xef\xbb\xbfdata: " + one_content("Hi") + b"\n\n"
        for pieces in ([stream], [stream[:1], stream[1:2], stream[2:]], [b"\xef\xbb\xbf", stream[3:]]):
            assert text_of(*pieces) == "Hi"
        assert read_with_sdk([stream]).chunks == []  # the SDK takes it for part of the field name

    def test_invalid_utf8_in_comments_is_ignored(self):
        stream = b": \xff\n\ndata: " + one_content("Hi") + b"\n\n"
        assert text_of(stream) == "Hi"
        assert read_with_sdk([stream]).end == "broken"


class TestBroken:
    @pytest.mark.parametrize(
        "data",
        [
            "[]",
            "3",
            "null",
            '"text"',
            '{"choices": [{"index": 0, "delta": {"content": "a\x01b"}}]}',
            '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}",
            '{"error": ' + "[" * 100_000 + "]" * 100_000 + "}",
            "",
            " ",
        ],
        ids=lambda data: data[:60],
    )
    def test_an_event_that_is_not_a_chunk_breaks_the_stream(self, data: str):
        with pytest.raises(ModelStreamBroken):
            fed(f"data: {data}\n\n".encode())

    def test_a_pair_of_surrogate_escapes_is_a_character(self):
        data = b'{"choices": [{"index": 0, "delta": {"content": "\\ud83d\\ude00"}}]}'
        assert text_of(b"data: " + data + b"\n\n") == "😀"

    @pytest.mark.parametrize("error", [{"message": "Overloaded", "code": "x"}, "Overloaded", [1], 5, True])
    def test_an_error_object_is_raised_with_its_body(self, error: object):
        reader = ChunkReader()
        with pytest.raises(ErrorEvent) as caught:
            feed(reader, f"data: {json.dumps({'error': error})}\n\n".encode())
        assert json.loads(caught.value.body) == {"error": error}

    def test_data_after_the_end_mark_is_ignored(self):
        reader = ChunkReader()
        stream = b"data: " + one_content("Hi") + b"\n\ndata: [DONE]\n\n"
        chunks = feed(reader, stream + b"data: nonsense\n\n" + b"data: " + one_content("more") + b"\n\n")
        assert merge(chunks).text == "Hi"
        assert reader.is_done
        assert feed(reader, b"data: nonsense\n\ndata: " + one_content("more") + b"\n\n") == []

    @pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\r"])
    def test_an_unterminated_event_is_ignored(self, end: bytes):
        reader = ChunkReader()
        assert feed(reader, b"data: " + one_content("Hi") + end) == []
        assert not reader.is_done

    @pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
    def test_an_event_is_returned_with_its_last_byte(self, end: bytes):
        reader = ChunkReader()
        for text in ("One", "Two"):
            assert merge(feed(reader, b"data: " + one_content(text) + end + end)).text == text
        feed(reader, b"data: [DONE]" + end + end)
        assert reader.is_done


class TestLimits:
    """The memory of a stream is bounded, whatever the endpoint sends."""

    @pytest.mark.parametrize(
        "piece", [b"x" * 65_536, b"data: " + b"x" * 65_530, b":" * 65_536], ids=["text", "data", "comment"]
    )
    def test_an_endless_line_breaks_the_stream(self, piece: bytes):
        reader = ChunkReader()
        reads = MAX_EVENT_BYTES // len(piece)
        for _ in range(reads):
            feed(reader, piece)
        with pytest.raises(ModelStreamBroken, match="that does not end"):
            feed(reader, piece)

    @pytest.mark.parametrize("line", [b"data: x\n", b"data:\n", b"data\n", b"data: \r\n"], ids=repr)
    def test_an_endless_event_breaks_the_stream(self, line: bytes):
        reader = ChunkReader()
        piece = line * 8192
        feed(reader, *[piece] * (MAX_EVENT_BYTES // len(piece)))
        with pytest.raises(ModelStreamBroken, match="that does not end"):
            feed(reader, *[piece] * (MAX_EVENT_BYTES // len(piece)))

    def test_a_large_event_is_read(self):
        text = "x" * (MAX_EVENT_BYTES - 1000)
        stream = b"data: " + one_content(text) + b"\n\n"
        pieces = [stream[start : start + 65_536] for start in range(0, len(stream), 65_536)]
        assert text_of(*pieces) == text

    def test_a_long_stream_of_small_events_is_read_to_its_end(self):
        event = b"data: " + one_content("x" * 1000) + b"\n\n"
        reader = ChunkReader()
        count = MAX_EVENT_BYTES // len(event) + 100
        assert sum(len(merge(feed(reader, event)).text) for _ in range(count)) == count * 1000

    def test_comments_may_continue_for_ever(self):
        reader = ChunkReader()
        for _ in range(MAX_EVENT_BYTES // 4096 + 10):
            assert feed(reader, b": ping\n\n" * 512) == []
        assert merge(feed(reader, b"data: " + one_content("Hi") + b"\n\n")).text == "Hi"


class TestMerging:
    @given(st.lists(as_json(chunks), max_size=6))
    def test_chunks_mean_the_same_one_by_one_and_merged(self, written: list[str]):
        parsed = [chunk for text in written for chunk in fed(b"data: " + text.replace("\n", "").encode() + b"\n\n")]
        whole = merge(parsed)
        merger = DeltaMerger()
        singles = [merger.merge([chunk]) for chunk in parsed]
        assert whole.text == "".join(single.text for single in singles)
        assert whole.reasoning == "".join(single.reasoning for single in singles)
        assert whole.finish_reason == next((s.finish_reason for s in singles[::-1] if s.finish_reason), None)
        assert whole.usage == next((s.usage for s in singles[::-1] if s.usage), None)
        assert whole.chat_model == next((s.chat_model for s in singles[::-1] if s.chat_model), "")

    def test_the_parts_of_a_reply_are_found(self):
        stream = b"".join(
            b"data: " + json.dumps(chunk).encode() + b"\n\n"
            for chunk in [
                {"model": "gpt-x-2026", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
                {"choices": [{"index": 0, "delta": {"content": "It "}}]},
                {"choices": [{"index": 1, "delta": {"content": "(another choice)"}, "finish_reason": "length"}]},
                {"choices": [{"index": 0, "delta": {"content": "rains."}}], "usage": None},
                {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                {
                    "choices": [],
                    "usage": {
                        "prompt_tokens": 1,
                        "completion_tokens": 2,
                        "total_tokens": 3,
                        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
                        "completion_tokens_details": {"reasoning_tokens": 5},
                    },
                },
            ]
        )
        delta = merge(fed(stream))
        assert (delta.text, delta.chat_model, delta.reasoning) == ("It rains.", "gpt-x-2026", "")
        assert delta.finish_reason is FinishReason.STOP
        assert delta.usage == Usage(
            prompt_tokens=1, completion_tokens=2, total_tokens=3, cached_tokens=4, reasoning_tokens=5
        )

    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("stop", FinishReason.STOP),
            ("length", FinishReason.LENGTH),
            ("content_filter", FinishReason.CONTENT_FILTER),
            ("eos", FinishReason.STOP),
            ("MAX_TOKENS", FinishReason.LENGTH),
            ("safety", FinishReason.CONTENT_FILTER),
            ("tired", FinishReason.UNKNOWN),
            ("stop ", FinishReason.STOP),
            ("COMPLETE", FinishReason.STOP),
            ("max_completion_tokens", FinishReason.LENGTH),
            ("BLOCKLIST", FinishReason.CONTENT_FILTER),
            ("guardrail_intervened", FinishReason.CONTENT_FILTER),
            ("null", None),
        ],
    )
    def test_an_unlisted_finish_reason_is_unknown(self, written: str, meant: FinishReason):
        data = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": written}]}).encode()
        assert merge(fed(b"data: " + data + b"\n\n")).finish_reason is meant

    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            (["length", "stop"], FinishReason.LENGTH),
            (["stop", "length"], FinishReason.LENGTH),
            (["tool_calls", "stop"], FinishReason.SKILL_CALLS),
            (["tired", "stop"], FinishReason.STOP),
            (["null", "stop", ""], FinishReason.STOP),
        ],
    )
    def test_the_first_known_reason_counts_unless_another_cuts_the_reply_off(
        self, written: list[str], meant: FinishReason
    ):
        events = ({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]} for reason in written)
        stream = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in events)
        assert merge(fed(stream)).finish_reason is meant

    @pytest.mark.parametrize(
        ("written", "counted"),
        [
            ({"prompt_tokens": 1, "completion_tokens": 2}, Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)),
            ({"input_tokens": 1, "output_tokens": "2"}, Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)),
            ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None),
        ],
    )
    @pytest.mark.parametrize("is_in_choice", [False, True])
    def test_usage_is_read_in_every_form(self, written: dict, counted: Usage | None, is_in_choice: bool):
        chunk = {"choices": [{"index": 0, "delta": {}, "usage": written}]} if is_in_choice else {"usage": written}
        assert merge(fed(b"data: " + json.dumps(chunk).encode() + b"\n\n")).usage == counted

    def test_a_refusal_is_the_text_of_the_reply(self):
        data = b'{"choices": [{"index": 0, "delta": {"content": null, "refusal": "I can\'t."}}]}'
        assert text_of(b"data: " + data + b"\n\n") == "I can't."

    def test_reasoning_is_progress_and_not_text(self):
        data = b'{"choices": [{"index": 0, "delta": {"content": null, "reasoning_content": "Hm."}}]}'
        delta = merge(fed(b"data: " + data + b"\n\n"))
        assert (delta.text, delta.reasoning) == ("", "Hm.")

    def test_usage_that_is_not_reported_is_zero(self):
        delta = merge([Chunk(usage=ChunkUsage(total_tokens=9))])
        assert delta.usage == Usage(total_tokens=9)


@pytest.mark.parametrize(
    ("first", "piece", "count"),
    [
        (b'data: {"a":[\n', b"data: {}\n", 400_000),
        (b'data: {"a":[{}\n', b"data: {}\n", 400_000),
        (b'data: {"a":"\n', b'data: {"}\n', 400_000),
        (b'data: {"a": "', b"x", 4_000_000),
        (b"data: {\n", b"data:\n", 600_000),
        (b"", b":\n", 400_000),
        (b"", b"\r", 400_000),
        (b"", b"\n", 400_000),
        (b"", b"data\n\n", 100_000),
        (b"{", b" ", 4_000_000),
        (b"[", b"\r\n", 1_000_000),
    ],
)
@pytest.mark.parametrize("reads", [1, 16_384])
def test_small_pieces_are_read_in_linear_time(first: bytes, piece: bytes, count: int, reads: int):
    """A reader that took quadratic time would be at it for hours."""
    reader = ChunkReader()
    data = piece if reads == 1 else piece * (reads // len(piece))
    with suppress(ModelStreamBroken, ErrorEvent):
        for _ in reader.feed(first):
            pass
        for _ in range(count * len(piece) // len(data)):
            for _ in reader.feed(data):
                pass
        for _ in reader.finish():
            pass
