"""What an endpoint streams is held in bounded size, and has a status, whatever it is."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from palaver.v1 import assistant_service_pb2 as pb
from palaver_server.domain.limits import MAX_CHAT_MODEL_CHARACTERS
from tests.support.calls import query
from tests.support.endpoint import Call, Endpoint, Stream
from tests.support.palaver_server import Served, server_with_assistant
from tests.support.skill_host import SkillHost, content
from tests.support.statuses import failure_of

QUERY = query()
HALF = "\ud800"


def flood(*chunks: Callable[[int], dict[str, Any]]) -> Callable[[Call], Awaitable[None]]:
    """Returns an item of a stream that sends chunks without end, made of a number each."""

    async def play(call: Call) -> None:
        for number in itertools.count():
            await call.send(b"".join(call.chunk(make(1_000 * number + k)) for k in range(1_000) for make in chunks))

    return play


def calls(**fields: Any) -> dict[str, Any]:
    return {"tool_calls": [fields]}


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        (lambda n: calls(index=n, id=f"c{n}", function={"name": "f", "arguments": ""}), "skill calls"),
        (lambda n: {"tool_calls": [{}] * 2_000}, "skill calls"),
        (
            lambda n: {"tool_calls": [{"index": "x", "function": {"name": f"f{n}-{k}"}} for k in range(2_000)]},
            "skill calls",
        ),
        (lambda n: calls(index=10**30 + n, function={"name": f"f{n}", "arguments": "{}"}), "skill calls"),
        (lambda n: {"reasoning": "hm " * 200}, "reasoning"),
        (lambda n: {"reasoning": {"text": "hm " * 200}}, "reasoning"),
        (lambda n: calls(index=0, id="c", function={"name": "f", "arguments": "xxxxxx}"}), "max_tokens"),
        (lambda n: calls(index=0, id=f"c{n}", function={"arguments": "xxxxxx}" * 20}), "max_tokens"),
    ],
)
async def test_a_reply_without_end_is_too_large(
    served: Served, endpoint: Endpoint, chunk: Callable[[int], dict[str, Any]], words: str
):
    endpoint.script(Stream(flood(chunk)))
    failure = await failure_of(served.stub.PostUserQueryUnary(QUERY))
    assert failure.reason == "TURN_TOO_LARGE"
    assert words in failure.text
    await asyncio.wait_for(endpoint.calls[0].finished.wait(), 5)


async def test_what_follows_the_finish_reason_without_end_is_given_up(served: Served, endpoint: Endpoint):
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    endpoint.script(Stream("Hi", lambda call: call.send(call.chunk(**end)), flood(lambda n: {})))
    completed = (await served.stub.PostUserQueryUnary(QUERY)).completed
    assert completed.messages[-1].content == "Hi"
    await asyncio.wait_for(endpoint.calls[0].finished.wait(), 5)


@pytest.mark.parametrize(
    "chunk",
    [
        lambda n: calls(index=0, id="c", function={"name": "f" * 1000}),
        lambda n: calls(index=n, id=f"c{n}", function={"name": "", "arguments": ""}),
        lambda n: calls(index=0, id="c" * 1000 + str(n), function={"arguments": ""}),
        lambda n: calls(index=0, id="c", function={"name": "f"}, extra_content={"state": "x" * 1000}),
        lambda n: {"reasoning_details": [{"signature": "x" * 1000}]},
    ],
)
async def test_what_is_no_progress_is_not_held(
    tmp_path: Path, endpoint: Endpoint, chunk: Callable[[int], dict[str, Any]]
):
    async with server_with_assistant(tmp_path, endpoint.url, turn_timeout=1) as served:
        endpoint.script(Stream(flood(chunk)))
        failure = await failure_of(served.stub.PostUserQueryUnary(QUERY))
        assert failure.reason in ("MODEL_TIMEOUT", "TURN_TOO_LARGE")


@pytest.mark.parametrize("model", ["m" * 3_900_000, "ä" * 300, "\U0001f600" * 300])
async def test_a_long_name_of_the_model_is_cut(served: Served, endpoint: Endpoint, model: str):
    endpoint.script(Stream(lambda call: call.send(call.chunk({"content": "Hi"}, model=model)), usage=None, finish=None))
    completed = (await served.stub.PostUserQueryUnary(QUERY)).completed
    assert completed.chat_model == model[:MAX_CHAT_MODEL_CHARACTERS]
    assert (await served.stub.PostUserQueryUnary(QUERY)).completed.messages[-1].content == "Hello, world"


@pytest.mark.parametrize(
    ("delta", "fields"),
    [
        ({"content": HALF}, {}),
        ({"refusal": HALF}, {}),
        ({"reasoning": HALF, "content": "Hi"}, {}),
        ({"content": "Hi"}, {"model": HALF}),
        ({"content": "Hi"}, {"model": {"type": HALF}}),
        ({"content": "Hi"}, {"id": HALF, "object": HALF}),
        (calls(index=0, id=HALF, function={"name": HALF, "arguments": HALF}), {}),
        (calls(index=0, id="c", function={"name": "f", "arguments": {HALF: HALF}}), {}),
        (calls(index=HALF, id="c", type=HALF, function={"name": ["f"], "arguments": [HALF]}), {}),
    ],
)
async def test_half_a_character_is_replaced(
    served: Served, endpoint: Endpoint, delta: dict[str, Any], fields: dict[str, Any]
):
    endpoint.script(Stream(lambda call: call.send(call.chunk(delta, **fields)), usage=None))
    completed = (await served.stub.PostUserQueryUnary(QUERY)).completed
    messages = [message.content for message in completed.messages]
    listed = (await served.stub.ListMessages(pb.ListMessagesRequest(id="a"))).messages
    assert [message.content for message in listed[1:]] == messages


def nested(depth: int) -> Any:
    value: Any = "x"
    for number in range(depth):
        value = [value] if number % 2 else {"text": value}
    return value


@pytest.mark.parametrize(
    "chunk",
    [
        lambda value: {"choices": [{"delta": {"content": value}}]},
        lambda value: {"choices": [{"delta": {"reasoning": value}}]},
        lambda value: {"choices": [{"delta": calls(index=value, id=value, function={"arguments": value})}]},
        lambda value: {"choices": [{"delta": calls(id="c", function={"name": "f"}, extra_content=value)}]},
        lambda value: {"choices": [{"delta": {"reasoning_details": [value, {"text": value, "signature": value}]}}]},
        lambda value: {"choices": [{"text": value, "finish_reason": value}], "model": value},
        lambda value: {"choices": [], "usage": {"prompt_tokens": value, "prompt_tokens_details": value}},
        lambda value: {"choices": value},
        lambda value: {"error": value},
        lambda value: {"error": {"message": json.dumps(value)}},
        lambda value: {"detail": [{"loc": value, "msg": value}]},
        lambda value: {"error": {"headers": value, "retry_after": value, "code": value, "param": value}},
    ],
)
async def test_a_deep_value_has_a_status(served: Served, endpoint: Endpoint, chunk: Callable[[Any], Any]):
    for depth in (100, 300, 400, 450, 480, 900):
        value = json.dumps(nested(depth)).encode()
        data = b"data: " + json.dumps(chunk("@")).encode().replace(b'"@"', value) + b"\n\n"
        endpoint.script(Stream("Hi", data))
        with suppress(grpc.aio.AioRpcError):
            await served.stub.PostUserQueryUnary(QUERY)
            continue
        endpoint.script(Stream("Hi", data))
        failed = await failure_of(served.stub.PostUserQueryUnary(QUERY))
        assert failed.reason in ("MODEL_STREAM_BROKEN", "MODEL_REJECTED_REQUEST")


@pytest.mark.parametrize("state", [json.loads("1e999"), float("nan"), HALF, {HALF: 1}, "x" * 100_000])
async def test_a_state_that_can_not_be_sent_back_is_left_out(tmp_path: Path, endpoint: Endpoint, state: Any):
    call = calls(index=0, id="c", function={"name": "add", "arguments": '{"task": "x"}'}, extra_content=state)
    async with (
        SkillHost(add=lambda _: content("added")) as host,
        server_with_assistant(tmp_path, endpoint.url, skill_hosts=(host.target,)) as served,
    ):
        endpoint.script(Stream(lambda received: received.send(received.chunk(call)), finish="tool_calls"))
        completed = (await served.stub.PostUserQueryUnary(QUERY)).completed
        assert completed.messages[-1].content == "Hello, world"
        assert "extra_content" not in json.dumps(endpoint.calls[-1].body)
        assert (await served.stub.PostUserQueryUnary(QUERY)).completed.messages[-1].content == "Hello, world"


@pytest.mark.parametrize("arguments", ["{}" * 40_000, "{}\n" * 40_000, '{"a":1}' * 40_000, "{" * 40_000])
async def test_repeated_arguments_are_given_up_soon(tmp_path: Path, endpoint: Endpoint, arguments: str):
    call = calls(index=0, id="c", function={"name": "add", "arguments": arguments})
    async with (
        SkillHost(add=lambda _: content("added")) as host,
        server_with_assistant(tmp_path, endpoint.url, skill_hosts=(host.target,)) as served,
    ):
        endpoint.script(Stream(lambda received: received.send(received.chunk(call)), finish="tool_calls"))
        completed = (await served.stub.PostUserQueryUnary(QUERY)).completed
        assert "not the JSON text of an object" in completed.messages[2].content
        assert host.requests == []
