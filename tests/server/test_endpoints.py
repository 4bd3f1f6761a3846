"""Compatible endpoints as they are: a turn succeeds although they deviate from OpenAI's protocol."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from palaver.v1 import assistant_pb2
from palaver.v1 import assistant_service_pb2 as pb
from palaver_server.llm import quirks
from palaver_server.llm.openai_chunks import CALL_STATE_FIELDS
from tests.llm.test_history import assert_every_provider_accepts
from tests.support.calls import query
from tests.support.endpoint import RESET, USAGE, Call, Endpoint, Refusal, Stream, event, skill_calls
from tests.support.palaver_server import Replicas, Served, server_with_assistant
from tests.support.skill_host import SkillHost, content
from tests.support.statuses import failure_of

WEATHER = assistant_pb2.Skill(
    name="weather", description="Tells the weather.", parameters_json_schema='{"type":"object"}'
)
CLOCK = assistant_pb2.Skill(name="clock", description="Tells the time.")
OSLO, ROME = '{"city": "Oslo"}', '{"city": "Rome"}'


@pytest.fixture
async def served(tmp_path: Path, endpoint: Endpoint, request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with server_with_assistant(tmp_path, endpoint.url, **getattr(request, "param", {})) as running:
        yield running


async def ask(served: Served, user_message: str = "Hello", **fields: Any) -> pb.TurnCompleted:
    return (await served.stub.PostUserQueryUnary(query(user_message, **fields), timeout=30)).completed


def chunk(delta: Any, finish: Any = None) -> bytes:
    return event({"model": "m-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def call(name: str, arguments: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **fields}


@dataclass(frozen=True)
class Document:
    """A whole document in place of a stream."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    async def play(self, received: Call) -> None:
        await Refusal(self.status, headers=self.headers, body=self.body).play(received)


@dataclass(frozen=True)
class Unless:
    """Refuses a request as long as its body has a parameter, or a value of it."""

    parameter: str
    refusal: Refusal
    answer: Any = field(default_factory=lambda: Stream("Hello"))
    value: Any = None

    async def play(self, received: Call) -> None:
        found = received.body.get(self.parameter)
        is_refused = found is not None and self.value in (None, found)
        await (self.refusal if is_refused else self.answer).play(received)


# 1. Calls are told apart by several signals. (tests/llm/test_tool_calls.py has the styles.)

PARALLEL = {
    "whole, without index or id": [chunk({"tool_calls": [call("weather", OSLO, index=None, id="")]}),
                                   chunk({"tool_calls": [call("weather", ROME, index=None, id="")]})],
    "in one chunk, with index 0": [chunk({"tool_calls": [call("weather", OSLO, index=0, id=""),
                                                         call("weather", ROME, index=0, id="")]})],
    "with one id for all": [chunk({"tool_calls": [call("weather", OSLO, index=0, id="x")]}),
                            chunk({"tool_calls": [call("weather", ROME, index=1, id="x")]})],
    "with objects as arguments": [chunk({"tool_calls": [call("weather", json.loads(OSLO), index=0, id="x"),
                                                        call("weather", json.loads(ROME), index=1, id="y")]})],
    "with indexes that are text": [chunk({"tool_calls": [call("weather", OSLO, index="0", id="x"),
                                                         call("weather", ROME, index="1", id="y")]})],
    "without the object around a function": [chunk({"tool_calls": [
        {"index": 0, "id": "x", "name": "weather", "arguments": OSLO},
        {"index": 1, "id": "y", "name": "weather", "arguments": ROME}]})],
}  # fmt: skip


@pytest.mark.parametrize("chunks", PARALLEL.values(), ids=PARALLEL)
@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
async def test_parallel_calls_are_told_apart(served: Served, endpoint: Endpoint, chunks: list[bytes], finish: str):
    endpoint.script(Stream(*chunks, finish=finish))
    completed = await ask(served, caller_skills=[WEATHER])
    assert completed.finish_reason == pb.FINISH_REASON_SKILL_CALLS
    calls = completed.messages[-1].skill_calls
    assert [(each.name, json.loads(each.arguments_json)) for each in calls] == [
        ("weather", {"city": "Oslo"}),
        ("weather", {"city": "Rome"}),
    ]


async def test_a_call_in_the_older_form_of_openai_is_read(served: Served, endpoint: Endpoint):
    endpoint.script(
        Stream(chunk({"function_call": {"name": "weather", "arguments": '{"city": '}}),
               chunk({"function_call": {"arguments": '"Oslo"}'}}), finish="function_call")
    )  # fmt: skip
    [made] = (await ask(served, caller_skills=[WEATHER])).messages[-1].skill_calls
    assert (made.name, made.arguments_json) == ("weather", OSLO)


ARGUMENTS = {
    "null": ("null", {}),
    "white space": (" \n", {}),
    "an empty list": ([], {}),
    "an empty text in JSON": ('""', {}),
    "encoded twice": (json.dumps(OSLO), {"city": "Oslo"}),
    "a line break in a string": ('{"city": "Os\nlo"}', {"city": "Os\nlo"}),
    "an empty object first": ("{}" + OSLO, {"city": "Oslo"}),
    "an empty object last": (OSLO + " {}", {"city": "Oslo"}),
    "an object in pieces": ({"city": "Oslo"}, {"city": "Oslo"}),
}


@pytest.mark.parametrize(("written", "meant"), ARGUMENTS.values(), ids=ARGUMENTS)
async def test_arguments_that_can_mean_but_one_thing_are_read(
    served: Served, endpoint: Endpoint, written: Any, meant: dict[str, Any]
):
    endpoint.script(Stream(chunk({"tool_calls": [call("weather", written, index=0, id="x")]}), finish="tool_calls"))
    [made] = (await ask(served, caller_skills=[WEATHER])).messages[-1].skill_calls
    assert json.loads(made.arguments_json) == meant


@pytest.mark.parametrize("name", [" weather ", "functions.weather", "default_api:weather"])
async def test_a_skill_with_a_namespace_is_found(served: Served, endpoint: Endpoint, name: str):
    endpoint.script(Stream(chunk({"tool_calls": [call(name, OSLO, index=0, id="x")]}), finish="tool_calls"))
    [made] = (await ask(served, caller_skills=[WEATHER])).messages[-1].skill_calls
    assert (made.name, made.arguments_json) == ("weather", OSLO)


@pytest.mark.parametrize("empty", [{}, call("", ""), call("", "{}"), {"extra_content": {"x": 1}}])
async def test_an_empty_call_is_none(served: Served, endpoint: Endpoint, empty: dict[str, Any]):
    endpoint.script(Stream("Hello", chunk({"tool_calls": [{"index": 0, **empty}]})))
    completed = await ask(served, caller_skills=[WEATHER])
    assert (completed.messages[-1].content, list(completed.messages[-1].skill_calls)) == ("Hello", [])
    assert len(endpoint.calls) == 1


# 2. Fields of another type cost nothing.

LENIENT = {
    "parts": [chunk({"content": [{"type": "text", "text": "Hel"}]}), chunk({"content": "lo"})],
    "a single part": [chunk({"content": {"type": "text", "text": "Hello"}})],
    "parts that are strings": [chunk({"content": ["Hel", "lo"]})],
    "thinking parts": [chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]}),
                       chunk({"content": [{"type": "text", "text": "Hello"}]})],
    "reasoning that is an object": [chunk({"reasoning": {"text": "Hm."}}), chunk({"content": "Hello"})],
    "a delta that is a string": [chunk("Hello")],
    "a choice that is no list": [event({"choices": {"index": 0, "delta": {"content": "Hello"}}})],
    "a message instead of a delta": [event({"choices": [{"index": 0, "message": {"content": "Hello"}}]})],
    "an empty delta beside a message": [event({"choices": [{"index": 0, "delta": {"content": ""},
                                                            "message": {"content": "Hello"}}]})],
    "the whole message at the end": [chunk({"content": "Hello"}),
                                     event({"choices": [{"index": 0, "message": {"content": "Hello"}}]})],
    "text of the older form": [event({"choices": [{"index": 0, "text": "Hello"}]})],
    "a part of Gemini that is a thought": [chunk({"content": [{"text": "Hm.", "thought": True}, {"text": "Hello"}]})],
    "text that is an object": [chunk({"content": [{"type": "text", "text": {"value": "Hello"}}]})],
    "a list of deltas": [chunk(["Hel", {"content": "lo"}])],
    "a number with thousands of digits": [b'data: {"usage": {"prompt_tokens": ' + b"9" * 5000 + b"}}\n\n",
                                          chunk({"content": "Hello"})],
    "an index that is text": [event({"choices": [{"index": "0", "delta": {"content": "Hello"}}]})],
    "counts of another type": [event({"choices": [], "usage": {"prompt_tokens": "11", "completion_tokens": 7.0,
                                                              "total_tokens": None}}), chunk({"content": "Hello"})],
    "a model name that is no text": [event({"model": ["m"], "choices": []}), chunk({"content": "Hello"})],
    "not a number": [b'data: {"choices": [{"index": 0, "delta": {"content": "Hello"}, "logprobs": NaN}]}\n\n'],
    "empty finish reasons": [chunk({"content": "Hel"}, ""), chunk({"content": "lo"}, "")],
    "null everywhere": [event({"model": None, "choices": None, "usage": None, "error": None}),
                        chunk({"content": "Hello", "tool_calls": None, "function_call": None})],
    "no blank lines": [chunk({"content": "Hel"})[:-1], chunk({"content": "lo"})[:-1]],
}  # fmt: skip


@pytest.mark.parametrize("chunks", LENIENT.values(), ids=LENIENT)
async def test_fields_of_another_type_are_read(served: Served, endpoint: Endpoint, chunks: list[bytes]):
    endpoint.script(Stream(*chunks))
    completed = await ask(served)
    assert (completed.messages[-1].content, completed.finish_reason) == ("Hello", pb.FINISH_REASON_STOP)
    assert len(endpoint.calls) == 1


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (['"\\ud83d"', '"\\ude00"'], "😀"),
        (['"a\\ud83d"', '"\\ude00b"', '"c"'], "a😀bc"),
        (['"\\ud83d"', '"x"'], "\ufffdx"),
        (['"\\ude00"', '"x"'], "\ufffdx"),
        ([b'"\xed\xa0\xbd"', b'"\xed\xb8\x80"'], "😀"),
        ([b'"a\xc3"', '"b"'], "a\ufffdb"),
    ],
)
async def test_halves_of_a_character_in_two_pieces_are_joined(
    served: Served, endpoint: Endpoint, pieces: list[str | bytes], text: str
):
    written = (piece.encode() if isinstance(piece, str) else piece for piece in pieces)
    chunks = [b'data: {"choices": [{"index": 0, "delta": {"content": %b}}]}\n\n' % piece for piece in written]
    endpoint.script(Stream(*chunks))
    assert (await ask(served)).messages[-1].content == text


@pytest.mark.parametrize("served", [{"first_token_timeout": 1.5, "token_timeout": 1.5}], indirect=True)
@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_a_model_that_sends_only_reasoning_does_not_time_out(served: Served, endpoint: Endpoint, name: str):
    async def think(received: Call) -> None:
        for _ in range(20):
            await received.send(chunk({name: "hm "}))
            await asyncio.sleep(0.1)  # the pace of the model, not a synchronisation

    endpoint.script(Stream(think, "Hello"))
    assert (await ask(served)).messages[-1].content == "Hello"
    assert len(endpoint.calls) == 1


COMPLETION = {
    "id": "c", "object": "chat.completion", "model": "m-1", "usage": USAGE,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
}  # fmt: skip


async def test_a_whole_completion_instead_of_a_stream_is_a_reply(served: Served, endpoint: Endpoint):
    endpoint.script(Document(json.dumps(COMPLETION).encode()), Document(json.dumps(COMPLETION, indent=1).encode()))
    for _ in range(2):
        completed = await ask(served)
        assert (completed.messages[-1].content, completed.finish_reason) == ("Hello", pb.FINISH_REASON_STOP)
        assert (completed.usage.total_tokens, completed.chat_model) == (18, "m-1")


async def test_a_complete_reply_without_a_finish_reason_is_stored(served: Served, endpoint: Endpoint):
    endpoint.script(Stream("Hel", "lo", finish=None))
    completed = await ask(served)
    assert (completed.messages[-1].content, completed.finish_reason) == ("Hello", pb.FINISH_REASON_UNSPECIFIED)


FINISHED = chunk({}, "stop")


async def never_end(_: Call) -> None:
    await asyncio.Event().wait()


ENDINGS = {
    "an error": [event({"error": {"message": "No usage.", "code": 500}})],
    "a reset": [RESET],
    "silence": [never_end],
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("last", [[chunk({"content": "lo"}), FINISHED], [chunk({"content": "lo"}, "stop")]])
async def test_a_finished_reply_counts_whatever_follows(
    served: Served, endpoint: Endpoint, last: list[bytes], ending: list[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("palaver_server.llm.openai.END_TIMEOUT", 0.2)
    endpoint.script(Stream("Hel", *last, *ending, finish=None))
    completed = await ask(served)
    assert (completed.messages[-1].content, completed.finish_reason) == ("Hello", pb.FINISH_REASON_STOP)
    assert len(endpoint.calls) == 1


@pytest.mark.parametrize("served", [{"first_token_timeout": 5, "token_timeout": 0.2}], indirect=True)
async def test_a_finished_reply_is_not_lost_to_the_time_limit_of_a_token(
    served: Served, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("palaver_server.llm.openai.END_TIMEOUT", 1)
    endpoint.script(Stream("Hello", FINISHED, never_end, finish=None))
    assert (await ask(served)).messages[-1].content == "Hello"


async def test_a_reason_with_every_piece_does_not_finish_a_reply(
    served: Served, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("palaver_server.llm.openai.END_TIMEOUT", 0.2)
    pieces = [chunk({"content": "Hel"}, "stop"), chunk({"content": "lo"}, "stop")]
    endpoint.script(Stream(*pieces, event({"error": {"code": 500}}), finish=None))
    assert (await failure_of(ask(served))).reason == "MODEL_UNAVAILABLE"

    async def pause(_: Call) -> None:
        await asyncio.sleep(0.5)  # the pace of the model, not a synchronisation

    endpoint.script(Stream(*pieces, pause, " world"))
    assert (await ask(served)).messages[-1].content == "Hello world"


@pytest.mark.parametrize(("encoding", "bits"), [("gzip", 31), ("deflate", 15)])
async def test_a_compressed_stream_is_read_although_none_was_asked_for(
    served: Served, endpoint: Endpoint, encoding: str, bits: int
):
    squeeze = zlib.compressobj(wbits=bits)
    text = chunk({"content": "Hel"}) + chunk({"content": "lo"}) + chunk({}, "stop") + b"data: [DONE]\n\n"
    endpoint.script(Document(squeeze.compress(text) + squeeze.flush(), headers={"Content-Encoding": encoding}))
    assert (await ask(served)).messages[-1].content == "Hello"


# 3. Errors are read in any form. (tests/llm/test_endpoint_errors.py has the forms and the meanings.)

ERRORS = {
    "an error with the status 200": (
        Document(b'{"error": {"code": 400, "message": "the request exceeds the available context size"}}'),
        "CONTEXT_LENGTH_EXCEEDED", "available context size",
    ),
    "an error as the first event": (
        Stream(event({"error": {"message": "Bad things.", "type": "BadRequestError", "code": 400}}), finish=None),
        "MODEL_REJECTED_REQUEST", "Bad things.",
    ),
    "vLLM's error as an event": (
        Stream(event({"object": "error", "message": "Bad things.", "type": "BadRequestError", "code": 400})),
        "MODEL_REJECTED_REQUEST", "Bad things.",
    ),
    "an error in a choice": (
        Stream(event({"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error",
                                   "error": {"message": "Bad things.", "code": 400}}]}), finish=None),
        "MODEL_REJECTED_REQUEST", "Bad things.",
    ),
    "llama.cpp's line with an error": (
        Stream(b'error: {"code": 400, "message": "Bad things."}\n\n', finish=None),
        "MODEL_REJECTED_REQUEST", "Bad things.",
    ),
    "an error as a line without a field": (
        Stream(b": waiting\n\n", b'{"error": {"code": 400, "message": "Bad things."}}\n\n', finish=None),
        "MODEL_REJECTED_REQUEST", "Bad things.",
    ),
    "a list of errors as an event": (
        Stream(event({"errors": [{"message": "Bad things.", "code": 400}]}), finish=None),
        "MODEL_REJECTED_REQUEST", "Bad things.",
    ),
    "a code and a message as an event": (
        Stream(event({"code": 400, "msg": "Bad things."}), finish=None),
        "MODEL_REJECTED_REQUEST", "Bad things.",
    ),
    "an error in an array": (
        Refusal(400, body=b'[{"error": {"code": 400, "message": "Bad things.", "status": "INVALID_ARGUMENT"}}]'),
        "MODEL_REJECTED_REQUEST", "Bad things.",
    ),
    "details of FastAPI": (
        Refusal(422, body=b'{"detail": [{"loc": ["body", "messages"], "msg": "Bad things."}]}'),
        "MODEL_REJECTED_REQUEST", "body.messages: Bad things.",
    ),
    "no money": (Refusal(402, "Insufficient Balance"), "MODEL_QUOTA_EXHAUSTED", "quota"),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "reason", "words"), ERRORS.values(), ids=ERRORS)
async def test_a_permanent_error_is_not_retried_and_its_text_reaches_the_caller(
    served: Served, endpoint: Endpoint, answer: Any, reason: str, words: str
):
    endpoint.script(answer)
    failure = await failure_of(ask(served))
    assert failure.reason == reason
    assert words in failure.text
    assert len(endpoint.calls) == 1


# 4. A parameter that is refused only in form is sent in another form, which is remembered.


def unsupported(parameter: str, words: str = "is not supported with this model.") -> Refusal:
    return Refusal(400, f"Unsupported parameter: '{parameter}' {words}", param=parameter, code="unsupported_parameter")


QUIRKS = {
    "max_completion_tokens": (
        Unless("max_tokens", unsupported("max_tokens", "is not supported. Use 'max_completion_tokens' instead.")),
        {"max_tokens": 7}, {"temperature": 0.5, "max_completion_tokens": 7},
    ),
    "max_tokens": (
        Unless("max_completion_tokens", Refusal(422, "Extra inputs are not permitted: max_completion_tokens")),
        {"max_tokens": 7, "is_reasoning_model": True}, {"max_tokens": 7},
    ),
    "no stream_options": (
        Unless("stream_options", Refusal(422, body=b'{"message": {"detail": [{"type": "extra_forbidden", "loc": '
                                                   b'["body", "stream_options"], "msg": "Extra inputs"}]}}')),
        {}, {"temperature": 0.5, "max_tokens": 100},
    ),
    "no temperature": (
        Unless("temperature", Refusal(400, "Unsupported value: 'temperature' does not support 0.5. Only 1 is.",
                                      param="temperature"), value=0.5),
        {}, {"max_tokens": 100},
    ),
    "max_completion_tokens, in other words": (
        Unless("max_tokens", Refusal(400, "max_tokens has been replaced by max_completion_tokens")),
        {"max_tokens": 7}, {"temperature": 0.5, "max_completion_tokens": 7},
    ),
    "no stream_options, in other words": (
        Unless("stream_options", Refusal(400, "Unrecognized request argument supplied: stream_options")),
        {}, {"temperature": 0.5, "max_tokens": 100},
    ),
    "no temperature, in other words": (
        Unless("temperature", Refusal(400, "O-series models don't support Temperature=0.5."), value=0.5),
        {}, {"max_tokens": 100},
    ),
    "no max_tokens, in other words": (
        Unless("max_tokens", Refusal(400, "max_tokens is too large: this model supports at most 50")),
        {}, {"temperature": 0.5},
    ),
    "no max_tokens": (Unless("max_tokens", Refusal(400, "unknown field: max_tokens")), {}, {"temperature": 0.5}),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "fields", "sent"), QUIRKS.values(), ids=QUIRKS)
async def test_a_refused_form_is_replaced_and_remembered_for_the_model(
    served: Served, endpoint: Endpoint, answer: Unless, fields: dict[str, Any], sent: dict[str, Any], caplog
):
    endpoint.script(*[answer] * 5)
    for _ in range(2):
        assert (await ask(served, **fields)).messages[-1].content == "Hello"
    assert len(endpoint.calls) == 3  # the second turn sends the accepted form at once
    last = endpoint.calls[-1].body
    assert {
        name: last.get(name) for name in ("temperature", "max_tokens", "max_completion_tokens") if name in last
    } == sent
    assert caplog.text.count("this is remembered") == 1
    await ask(served, chat_model="another", **fields)
    assert len(endpoint.calls) == 5  # another model may be another server


async def test_a_conversation_that_is_too_long_teaches_nothing(served: Served, endpoint: Endpoint):
    words = "'max_tokens' is too large: 100. This model's maximum context length is 4096 tokens"
    endpoint.script(Refusal(400, words, param="max_tokens"), Stream("Hello"))
    assert (await failure_of(ask(served))).reason == "CONTEXT_LENGTH_EXCEEDED"
    await ask(served)
    assert [call.body.get("max_tokens") for call in endpoint.calls] == [100, 100]


def test_every_row_of_the_table_has_a_test():
    tested = {name.partition(",")[0] for name in QUIRKS} | {f"{kind} {name}" for kind, name in MADE_UP.items()}
    tested |= {"instructions from the user", "text beside calls", "the skills of the history"}
    tested |= {f"no {name}" for name in quirks.STATE_FIELDS}
    assert tested == {quirk.name for quirk in quirks.QUIRKS}


@pytest.mark.parametrize("parameter", ["temperature", "top_p", "max_tokens"])
async def test_a_value_of_the_caller_is_never_left_out(served: Served, endpoint: Endpoint, parameter: str):
    answer = Unless(parameter, Refusal(400, f"{parameter} is not supported", param=parameter))
    endpoint.script(*[Unless("max_completion_tokens", unsupported("max_completion_tokens"), answer)] * 4)
    failure = await failure_of(ask(served, **{parameter: 1}))
    assert failure.reason == "MODEL_REJECTED_REQUEST"
    assert "is not supported" in failure.text
    names = {"max_tokens", "max_completion_tokens"} if parameter == "max_tokens" else {parameter}
    assert all(names & received.body.keys() for received in endpoint.calls)


@pytest.mark.parametrize("served", [{"max_tokens_cap": 50}], indirect=True)
async def test_a_cap_of_the_operator_is_never_left_out(served: Served, endpoint: Endpoint):
    answer = Unless("max_tokens", Refusal(400, "max_tokens is not supported"))
    endpoint.script(*[Unless("max_completion_tokens", unsupported("max_completion_tokens"), answer)] * 4)
    assert (await failure_of(ask(served))).reason == "MODEL_REJECTED_REQUEST"


async def test_several_refusals_of_one_request_are_all_remembered(served: Served, endpoint: Endpoint):
    temperature = Refusal(400, "Unsupported value: 'temperature' does not support 0.5", param="temperature")
    inner = Unless("temperature", temperature)
    answer = Unless("max_tokens", unsupported("max_tokens", "Use 'max_completion_tokens' instead."), inner)
    endpoint.script(*[answer] * 4)
    for _ in range(2):
        await ask(served)
    assert len(endpoint.calls) == 4
    assert "temperature" not in endpoint.calls[-1].body
    assert endpoint.calls[-1].body["max_completion_tokens"] == 100


@dataclass(frozen=True)
class UnlessSaid:
    """Refuses a request whose messages contain a text."""

    text: str
    refusal: str

    async def play(self, received: Call) -> None:
        is_refused = self.text in json.dumps(received.body["messages"])
        await (Refusal(400, self.refusal) if is_refused else Stream("Hello")).play(received)


@pytest.mark.parametrize(
    "refusal",
    [
        "System role not supported",
        "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
        "Developer instruction is not enabled for models/gemma",
        "Only user, assistant and tool roles are supported!",
    ],
)
async def test_instructions_are_the_users_words_for_a_model_that_knows_none(
    served: Served, endpoint: Endpoint, refusal: str
):
    await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="b", instructions="Be brief."))
    endpoint.script(*[UnlessSaid('"system"', refusal)] * 3)
    for _ in range(2):
        await served.stub.PostUserQueryUnary(pb.PostUserQueryRequest(id="b", user_message="Hi"), timeout=30)
    assert len(endpoint.calls) == 3
    assert endpoint.calls[-1].body["messages"][0] == {"role": "user", "content": "Be brief.\n\nHi"}


@pytest.mark.parametrize("name", quirks.STATE_FIELDS)
async def test_the_state_of_one_model_does_not_make_another_one_fail(tmp_path: Path, endpoint: Endpoint, name: str):
    async with (
        SkillHost(weather=lambda _: content("Rain"), schema="") as host,
        server_with_assistant(tmp_path, endpoint.url, skill_hosts=(host.target,)) as served,
    ):
        signed = call("weather", "{}", index=0, id="x", **{key: {"x": 1} for key in CALL_STATE_FIELDS})
        thought = {"reasoning": "Hm."} if name == "reasoning_content" else {"reasoning_details": DETAILS}
        endpoint.script(
            Stream(chunk(thought), chunk({"tool_calls": [signed]}), finish="tool_calls"),
            *[UnlessSaid(name, f"'messages.1' : property '{name}' is unsupported")] * 2,
        )
        assert (await ask(served)).messages[-1].content == "Hello"
        assert len(endpoint.calls) == 3


@pytest.mark.parametrize(
    "refusal",
    [
        "Anthropic expects the `tools=` param to be passed in. Pass `modify_params=True` to add one.",
        "Requests which include `tool_use` or `tool_result` blocks must define `tools`.",
        "Bedrock doesn't support tool calling without `tools=` param specified.",
        "The toolConfig field must be defined when using toolUse and toolResult content blocks.",
    ],
)
async def test_skills_of_earlier_turns_are_declared_to_an_endpoint_that_insists(
    served: Served, endpoint: Endpoint, refusal: str
):
    endpoint.script(skill_calls(("weather", OSLO)), Refusal(400, refusal), Stream("Hello"), Stream("Hello"))
    await ask(served, caller_skills=[WEATHER])
    await ask(served)
    await ask(served)
    assert ["tools" in received.body for received in endpoint.calls] == [True, False, True, True]
    assert [tool["function"]["name"] for tool in endpoint.calls[-1].body["tools"]] == ["weather"]


@pytest.mark.parametrize(
    "refusal",
    [
        "messages.2.content: Input should be a valid string",
        "Invalid value for 'content': expected a string, got null.",
        "messages[1]: missing field `content` at line 1 column 240",
        "invalid type: null, expected a string for content",
    ],
)
async def test_calls_are_sent_with_text_to_an_endpoint_that_insists(served: Served, endpoint: Endpoint, refusal: str):
    endpoint.script(skill_calls(("weather", OSLO)), Refusal(422, refusal), Stream("Hello"), Stream("Hello"))
    await ask(served, caller_skills=[WEATHER])
    await ask(served, caller_skills=[WEATHER])
    await ask(served, caller_skills=[WEATHER])
    texts = [message["content"] for received in endpoint.calls for message in received.body["messages"]
             if message.get("tool_calls")]  # fmt: skip
    assert texts == [None, "(no text)", "(no text)"]


async def test_a_refusal_that_no_other_form_would_mend_is_asked_once(served: Served, endpoint: Endpoint):
    endpoint.script(Refusal(400, "Missing content for tools: unknown parameter reasoning_content"))
    assert (await failure_of(ask(served))).reason == "MODEL_REJECTED_REQUEST"
    assert len(endpoint.calls) == 1


# 5. Every provider accepts the history that is sent.


async def test_no_stored_conversation_makes_later_turns_fail(served: Served, endpoint: Endpoint):
    endpoint.script(
        Stream(finish="length", usage=None),  # a blank reply
        skill_calls(("weather", OSLO), ("weather", ROME)),  # calls that the caller leaves open
        Stream("Never mind, then."),
        skill_calls(("nothing_like_this", "{}")),  # a call of no skill
        Stream("Sorry."),
        Stream("   "),
        skill_calls(("weather", OSLO), text="Let me see."),
    )
    await ask(served)
    await ask(served, caller_skills=[WEATHER])
    for _ in range(3):
        await ask(served, "\n", caller_skills=[WEATHER, CLOCK])
    waiting = await ask(served, caller_skills=[WEATHER])
    [made] = waiting.messages[-1].skill_calls
    for size in (0, 1, 2, 3, 4, 5, 100):
        results = [assistant_pb2.SkillResult(id=made.id, content="Rain")]
        window = pb.History(max_messages=size)
        await ask(served, "", caller_skills=[WEATHER], skill_results=results, history=window)
        endpoint.script(skill_calls(("weather", OSLO), text="Let me see."))
        waiting = await ask(served, caller_skills=[WEATHER], history=window)
        [made] = waiting.messages[-1].skill_calls
    for received in endpoint.calls:
        assert_every_provider_accepts(received.body)


# 6. An endpoint gets back the state that it wants back.

SIGNED = {"google": {"thought_signature": "c2ln"}}


async def test_reasoning_and_signatures_are_given_back_within_the_turn(tmp_path: Path, endpoint: Endpoint):
    async with (
        SkillHost(weather=lambda _: content("Rain"), schema="") as host,
        server_with_assistant(tmp_path, endpoint.url, skill_hosts=(host.target,)) as served,
    ):
        signed = call("weather", "{}", index=0, id="x", extra_content=SIGNED)
        plain = call("weather", "{}", index=1, id="y", provider_specific_fields={"thought_signature": "c2ln"})
        endpoint.script(
            Stream(chunk({"reasoning_content": "I need "}), chunk({"reasoning_content": "the weather."}),
                   chunk({"tool_calls": [signed, plain]}), finish="tool_calls"),
            Stream("It rains."),
        )  # fmt: skip
        completed = await ask(served)
        assert "I need" not in str(completed)
        [asking] = [message for message in endpoint.calls[1].body["messages"] if message.get("tool_calls")]
        assert asking["reasoning_content"] == "I need the weather."
        assert [each.get("extra_content") for each in asking["tool_calls"]] == [SIGNED, None]
        assert asking["tool_calls"][1]["provider_specific_fields"] == {"thought_signature": "c2ln"}


async def test_a_signature_is_given_back_by_another_server_once_the_caller_has_the_results(
    replicas: Replicas, endpoint: Endpoint
):
    endpoint.script(
        Stream(chunk({"reasoning_content": "Hm."}), chunk({"tool_calls": [
            call("weather", OSLO, index=0, id="x", extra_content=SIGNED)]}), finish="stop"),
    )  # fmt: skip
    async with replicas.first() as one:
        waiting = await ask(one, caller_skills=[WEATHER])
    results = [assistant_pb2.SkillResult(id=waiting.messages[-1].skill_calls[0].id, content="Rain")]
    async with replicas.another() as other:
        await ask(other, "", caller_skills=[WEATHER], skill_results=results)
    [asking] = [message for message in endpoint.calls[1].body["messages"] if message.get("tool_calls")]
    assert asking["tool_calls"][0]["extra_content"] == SIGNED
    assert "reasoning_content" not in asking  # reasoning is never stored


DETAILS = [
    {"type": "reasoning.text", "text": "Rain, ", "signature": None, "index": 0},
    {"type": "reasoning.text", "text": "perhaps.", "index": 0},
    {"type": "reasoning.text", "signature": "c2ln", "index": 0},
    {"type": "reasoning.encrypted", "data": "b25l", "id": "x", "index": 1},
    {"type": "reasoning.encrypted", "data": "dHdv", "id": "y", "index": 1},
]
"""The reasoning details of OpenRouter in pieces."""


async def test_reasoning_details_are_given_back_whole_also_by_another_server(replicas: Replicas, endpoint: Endpoint):
    pieces = [chunk({"content": "", "reasoning": "…", "reasoning_details": [detail]}) for detail in DETAILS]
    asked = chunk({"tool_calls": [call("weather", OSLO, index=0, id="x")]})
    endpoint.script(Stream(*pieces, asked, finish="tool_calls"))
    async with replicas.first() as one:
        waiting = await ask(one, caller_skills=[WEATHER])
    results = [assistant_pb2.SkillResult(id=waiting.messages[-1].skill_calls[0].id, content="Rain")]
    async with replicas.another() as other:
        await ask(other, "", caller_skills=[WEATHER], skill_results=results)
    [asking] = [message for message in endpoint.calls[1].body["messages"] if message.get("tool_calls")]
    assert asking["reasoning_details"] == [
        {"type": "reasoning.text", "text": "Rain, perhaps.", "signature": "c2ln", "index": 0},
        *DETAILS[3:],
    ]
    assert "reasoning_content" not in asking


MADE_UP = {"empty": "reasoning_content", "dummy": "thought_signature"}


@pytest.mark.parametrize("name", MADE_UP.values())
async def test_state_that_is_missing_is_made_up_for_an_endpoint_that_insists(
    served: Served, endpoint: Endpoint, name: str
):
    endpoint.script(skill_calls(("weather", OSLO)))
    waiting = await ask(served, caller_skills=[WEATHER])
    results = [assistant_pb2.SkillResult(id=waiting.messages[-1].skill_calls[0].id, content="Rain")]
    endpoint.script(Refusal(400, f"Function call is missing a {name} in the message."), Stream("It rains."))
    completed = await ask(served, "", caller_skills=[WEATHER], skill_results=results)
    assert completed.messages[-1].content == "It rains."
    assert name in json.dumps(endpoint.calls[-1].body)


# 7. A reply that was cut off calls no skills, whatever its calls look like.


@pytest.mark.parametrize("arguments", ['{"city": "Os', OSLO, ""])
@pytest.mark.parametrize(
    ("finish", "reason"),
    [("length", pb.FINISH_REASON_LENGTH), ("content_filter", pb.FINISH_REASON_CONTENT_FILTER)],
)
async def test_a_reply_that_is_cut_off_calls_nothing(
    tmp_path: Path, endpoint: Endpoint, arguments: str, finish: str, reason: int
):
    async with (
        SkillHost(weather=lambda _: content("Rain"), schema="") as host,
        server_with_assistant(tmp_path, endpoint.url, skill_hosts=(host.target,)) as served,
    ):
        cut_off = call("weather", arguments, index=0, id="x")
        endpoint.script(Stream("Let me see.", chunk({"tool_calls": [cut_off]}), finish=finish))
        completed = await ask(served)
        assert completed.finish_reason == reason
        assert [message.content for message in completed.messages] == ["Hello", "Let me see."]
        assert (host.requests, len(endpoint.calls)) == ([], 1)
        assert_every_provider_accepts(endpoint.calls[0].body)
