"""Turns over a socket: the events, the requests to the endpoint, and the stored messages."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from palaver.v1 import assistant_pb2
from palaver.v1 import assistant_service_pb2 as pb
from palaver_server.llm.history import EARLIER
from tests.support.calls import contents, create_assistant, messages_of, query, query_with_id, read_rest
from tests.support.endpoint import Endpoint, Stream, UnlessRenamed
from tests.support.palaver_server import Served, palaver_server, server_with_assistant
from tests.support.statuses import failure_of


async def test_a_turn_streams_started_then_text_then_completed(served: Served, endpoint: Endpoint):
    first, second = asyncio.Event(), asyncio.Event()
    endpoint.script(Stream("Hel", first, "lo ", second, "you"))
    call = served.stub.PostUserQuery(query())
    started = await call.read()
    assert started.WhichOneof("event") == "started"
    assert len(started.started.request_id) == 32
    assert not started.started.replayed
    # Each piece arrives before the model has written the next one.
    assert (await call.read()).text_delta.text == "Hel"
    first.set()
    assert (await call.read()).text_delta.text == "lo "
    assert await contents(served) == ["Be brief."]
    second.set()
    assert (await call.read()).text_delta.text == "you"
    end = await call.read()
    assert end.sequence == 5
    completed = end.completed
    assert completed.finish_reason == pb.FINISH_REASON_STOP
    assert completed.chat_model == "gpt-3.5-turbo-2026"
    assert completed.usage == pb.Usage(
        prompt_tokens=11, completion_tokens=7, total_tokens=18, cached_tokens=4, reasoning_tokens=3, model_calls=1
    )
    assert (completed.assistant.total_messages, completed.assistant.total_tokens) == (3, 18)
    assert [(m.index, m.role, m.content, m.request_id) for m in completed.messages] == [
        (2, assistant_pb2.ROLE_USER, "Hello", started.started.request_id),
        (3, assistant_pb2.ROLE_ASSISTANT, "Hello you", started.started.request_id),
    ]
    assert await call.read() is grpc.aio.EOF
    listed = await served.stub.ListMessages(pb.ListMessagesRequest(id="a"))
    assert list(listed.messages[1:]) == list(completed.messages)
    assert (await served.stub.GetAssistant(pb.GetAssistantRequest(id="a"))).assistant == completed.assistant


async def test_the_unary_call_returns_the_completed_event(served: Served):
    response = await served.stub.PostUserQueryUnary(query())
    assert [message.content for message in response.completed.messages] == ["Hello", "Hello, world"]
    assert response.completed.usage.total_tokens == 18


DEFAULTS = {"temperature": 0.5, "max_tokens": 100}


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({}, DEFAULTS),
        ({"temperature": 0}, DEFAULTS | {"temperature": 0}),
        ({"top_p": 0.3}, {"top_p": 0.3, "max_tokens": 100}),
        ({"top_p": 0.3, "temperature": 1.5}, {"top_p": 0.3, "temperature": 1.5, "max_tokens": 100}),
        ({"max_tokens": 7}, DEFAULTS | {"max_tokens": 7}),
        ({"is_reasoning_model": True}, {}),
        ({"is_reasoning_model": True, "temperature": 1, "top_p": 0.1}, {}),
        ({"is_reasoning_model": True, "max_tokens": 7}, {"max_completion_tokens": 7}),
    ],
)
async def test_the_parameters_in_effect_are_sent_and_reported(
    served: Served, endpoint: Endpoint, fields: dict[str, Any], sent: dict[str, Any]
):
    call = served.stub.PostUserQuery(query(chat_model="gpt-x", **fields))
    started = (await call.read()).started
    body = (await endpoint.call()).body
    parameters = {k: v for k, v in body.items() if k not in ("model", "messages", "stream", "stream_options")}
    assert parameters == sent
    assert body["model"] == started.chat_model == "gpt-x"
    assert started.ai_connection_name == "OPENAI"
    reported = {
        name: getattr(started, name) for name in ("temperature", "top_p", "max_tokens") if started.HasField(name)
    }
    assert reported == {name.replace("completion_", ""): value for name, value in sent.items()}
    call.cancel()


async def test_the_operator_changes_the_defaults_and_caps_the_tokens(tmp_path: Path, endpoint: Endpoint):
    settings = {
        "default_chat_model": "gpt-y",
        "default_temperature": 1.0,
        "default_max_tokens": 500,
        "max_tokens_cap": 300,
    }
    async with server_with_assistant(tmp_path, endpoint.url, **settings) as served:
        for fields, limit in (
            ({}, {"max_tokens": 300}),
            ({"max_tokens": 200}, {"max_tokens": 200}),
            ({"is_reasoning_model": True}, {"max_completion_tokens": 300}),
        ):
            await served.stub.PostUserQueryUnary(query(**fields))
            assert endpoint.calls[-1].body.items() >= limit.items()
        assert endpoint.calls[0].body["model"] == "gpt-y"
        assert endpoint.calls[0].body["temperature"] == 1.0


async def test_an_endpoint_that_refuses_max_tokens_gets_max_completion_tokens(served: Served, endpoint: Endpoint):
    endpoint.script(*[UnlessRenamed(Stream("Hi"))] * 3)
    for _ in range(2):
        response = await served.stub.PostUserQueryUnary(query(max_tokens=9))
        assert response.completed.messages[-1].content == "Hi"
    # The second turn already knows.
    assert ["max_tokens" in call.body for call in endpoint.calls] == [True, False, False]
    assert endpoint.calls[-1].body["max_completion_tokens"] == 9


async def test_the_prompt_has_the_instructions_the_history_and_the_new_message(served: Served, endpoint: Endpoint):
    endpoint.script(Stream("one"), Stream("two"), Stream("three"))
    for number in range(3):
        await served.stub.PostUserQueryUnary(query(f"question {number}"))
    assert endpoint.calls[-1].body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "question 0"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "question 1"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "question 2"},
    ]


@pytest.mark.parametrize(
    ("max_messages", "history"),
    [
        (0, []),
        (1, [EARLIER, "a1"]),
        (2, ["q1", "a1"]),
        (3, [EARLIER, "a0", "q1", "a1"]),
        (65_535, ["q0", "a0", "q1", "a1"]),
    ],
)
async def test_the_history_window_always_keeps_the_instructions(
    served: Served, endpoint: Endpoint, max_messages: int, history: list[str]
):
    endpoint.script(Stream("a0"), Stream("a1"))
    for number in range(2):
        await served.stub.PostUserQueryUnary(query(f"q{number}"))
    await served.stub.PostUserQueryUnary(query("new", history=pb.History(max_messages=max_messages)))
    sent = [message["content"] for message in endpoint.calls[-1].body["messages"]]
    assert sent == ["Be brief.", *history, "new"]


async def test_the_operator_sets_the_default_window(tmp_path: Path, endpoint: Endpoint):
    async with server_with_assistant(tmp_path, endpoint.url, history_messages=2, instructions="Be brief.") as served:
        for number in range(3):
            await served.stub.PostUserQueryUnary(query(f"q{number}"))
    sent = [message["content"] for message in endpoint.calls[-1].body["messages"]]
    assert sent == ["Be brief.", "q1", "Hello, world", "q2"]


async def test_no_caller_gets_more_messages_than_the_operator_allows(tmp_path: Path, endpoint: Endpoint):
    async with server_with_assistant(tmp_path, endpoint.url, history_messages=2, history_messages_cap=4) as served:
        for number in range(4):
            await served.stub.PostUserQueryUnary(query(f"q{number}"))
        await served.stub.PostUserQueryUnary(query("new", history=pb.History(max_messages=65_535)))
    sent = [message["content"] for message in endpoint.calls[-1].body["messages"]]
    assert sent == ["q2", "Hello, world", "q3", "Hello, world", "new"]


@pytest.mark.parametrize(
    ("history_bytes", "history"),
    [
        (100, ["q1" + "é" * 9, "a1", "q2" + "é" * 9, "a2"]),
        (44, ["q1" + "é" * 9, "a1", "q2" + "é" * 9, "a2"]),
        (43, [EARLIER, "a1", "q2" + "é" * 9, "a2"]),
        (22, ["q2" + "é" * 9, "a2"]),
        (1, [EARLIER, "a2"]),
    ],
)
async def test_older_messages_are_left_out_if_the_history_is_too_large(
    tmp_path: Path, endpoint: Endpoint, variables: dict[str, str], history_bytes: int, history: list[str]
):
    endpoint.script(Stream("a0" + "x" * 100), Stream("a1"), Stream("a2"))
    async with server_with_assistant(
        tmp_path, endpoint.url, variables, history_bytes=history_bytes, instructions="Be brief."
    ) as served:
        for number in range(3):
            await served.stub.PostUserQueryUnary(query(f"q{number}" + "é" * 9))
        await served.stub.PostUserQueryUnary(query("new"))
        assert len(await messages_of(served)) == 9
    sent = [message["content"] for message in endpoint.calls[-1].body["messages"]]
    assert sent == ["Be brief.", *history, "new"]


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", pb.FINISH_REASON_STOP),
        ("length", pb.FINISH_REASON_LENGTH),
        ("something new", pb.FINISH_REASON_UNSPECIFIED),
    ],
)
async def test_the_finish_reason_is_that_of_the_endpoint(
    served: Served, endpoint: Endpoint, finish: str, reason: pb.FinishReason
):
    endpoint.script(Stream("cut", finish=finish))
    completed = (await served.stub.PostUserQueryUnary(query())).completed
    assert completed.finish_reason == reason
    assert completed.messages[-1].content == "cut"


async def test_a_reply_without_usage_or_text_is_stored(served: Served, endpoint: Endpoint):
    endpoint.script(Stream(usage=None))
    completed = (await served.stub.PostUserQueryUnary(query())).completed
    assert completed.messages[-1].content == ""
    assert completed.usage == pb.Usage(model_calls=1)


async def test_text_of_every_unicode_plane_is_streamed_and_stored_unchanged(served: Served, endpoint: Endpoint):
    text = "\x00 é 界 \u202eright to left 😀 e\u0301 \U0010ffff \ufeff\r\n"
    endpoint.script(Stream(text))
    completed = (await served.stub.PostUserQueryUnary(query(text))).completed
    assert [message.content for message in completed.messages] == [text, text]
    assert endpoint.calls[0].body["messages"][-1]["content"] == text
    assert await contents(served) == ["Be brief.", text, text]


async def test_an_ai_connection_is_chosen_by_name_with_a_fallback(tmp_path: Path):
    async with Endpoint() as fallback, Endpoint() as azure:
        environment = {"Sweden__Endpoint": azure.url.removesuffix("/v1"), "Sweden__Key": "azure-key"}
        async with server_with_assistant(tmp_path, fallback.url, environment, ai_connections=("Sweden",)) as served:
            for name, used in (("Sweden", "Sweden"), ("", "OPENAI"), ("Elsewhere", "OPENAI")):
                call = served.stub.PostUserQuery(query(ai_connection_name=name))
                assert (await call.read()).started.ai_connection_name == used
                await read_rest(call)
        [call] = azure.calls
        assert call.path == "/openai/v1/chat/completions"
        assert call.headers["authorization"] == "bearer azure-key"
        assert len(fallback.calls) == 2


async def test_turns_of_one_assistant_run_one_at_a_time_in_order(served: Served, endpoint: Endpoint):
    gate = asyncio.Event()
    endpoint.script(Stream("first", gate))
    running = served.stub.PostUserQuery(query("q0"))
    await running.read()
    waiting = []
    for number in range(1, 4):
        waiting.append(served.stub.PostUserQuery(query(f"q{number}")))
        # The server accepts the calls of a connection in order: when this call returns, the turn is queued.
        await served.stub.GetAssistant(pb.GetAssistantRequest(id="a"))
    assert len(endpoint.calls) == 1
    gate.set()
    for call in (running, *waiting):
        await read_rest(call)
    assert (await contents(served))[1::2] == ["q0", "q1", "q2", "q3"]


async def test_spellings_of_a_collection_share_one_queue(served: Served, endpoint: Endpoint):
    gate = asyncio.Event()
    endpoint.script(Stream("first", gate))
    running = served.stub.PostUserQuery(query("q0"))
    await running.read()
    await endpoint.call(1)
    waiting = served.stub.PostUserQuery(query("q1", collection_name="CHATSTATE"))
    await served.stub.GetAssistant(pb.GetAssistantRequest(id="a"))
    assert len(endpoint.calls) == 1
    gate.set()
    await read_rest(running)
    await read_rest(waiting)
    assert (await contents(served))[1::2] == ["q0", "q1"]


async def test_turns_of_different_assistants_run_concurrently(served: Served, endpoint: Endpoint):
    await create_assistant(served, "b")
    gate = asyncio.Event()
    endpoint.script(Stream("first", gate))
    running = served.stub.PostUserQuery(query())
    await running.read()
    await served.stub.PostUserQueryUnary(query(id="b"))
    assert await contents(served, "b") == ["Hello", "Hello, world"]
    assert await contents(served) == ["Be brief."]
    gate.set()
    await read_rest(running)
    assert await contents(served) == ["Be brief.", "Hello", "first"]


async def test_a_full_queue_and_a_short_deadline_are_busy_before_any_model_call(tmp_path: Path, endpoint: Endpoint):
    gate = asyncio.Event()
    endpoint.script(Stream("first", gate))
    async with server_with_assistant(tmp_path, endpoint.url, queue_limit=1) as served:
        running = served.stub.PostUserQuery(query())
        await running.read()
        # One of them waits until shortly before its deadline. Meanwhile, the queue is full for the other one.
        failures = await asyncio.gather(
            *(failure_of(served.stub.PostUserQueryUnary(query(), timeout=2)) for _ in range(2))
        )
        for failure in failures:
            assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, "ASSISTANT_BUSY")
            assert failure.retry_delay is not None
        full, late = sorted(failures, key=lambda failure: "too long" in failure.text)
        assert "already waiting for this assistant" in full.text
        assert "took too long" in late.text
        gate.set()
        await read_rest(running)
    assert len(endpoint.calls) == 1


async def test_turns_that_their_callers_abandoned_count_for_their_address(tmp_path: Path, endpoint: Endpoint):
    gate = asyncio.Event()
    endpoint.script(Stream(gate), Stream(gate))
    async with palaver_server(tmp_path, endpoint.url, max_address_turns=2) as served:
        for name in ("a", "b", "c"):
            await create_assistant(served, name)
        requests = [query_with_id(id=name, on_disconnect=pb.ON_DISCONNECT_CONTINUE) for name in ("a", "b")]
        for request in requests:
            call = served.stub.PostUserQuery(request)
            await call.read()
            call.cancel()
        failure = await failure_of(served.stub.PostUserQueryUnary(query(id="c")))
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_TURNS")
        assert "2 turns of callers at this address (PALAVER_MAX_ADDRESS_TURNS)" in failure.text
        assert failure.retry_delay is not None
        gate.set()
        for request in requests:
            await served.stub.PostUserQueryUnary(request)
        await served.stub.PostUserQueryUnary(query(id="c"))


async def test_too_many_turns_are_refused(tmp_path: Path, endpoint: Endpoint):
    gate = asyncio.Event()
    endpoint.script(Stream("first", gate))
    async with palaver_server(tmp_path, endpoint.url, max_turns=1) as served:
        for name in ("a", "b"):
            await create_assistant(served, name)
        running = served.stub.PostUserQuery(query())
        await running.read()
        request = query(id="b")
        failure = await failure_of(served.stub.PostUserQueryUnary(request))
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_TURNS")
        assert failure.retry_delay is not None
        gate.set()
        await read_rest(running)
        await served.stub.PostUserQueryUnary(request)


async def test_the_connection_to_the_endpoint_is_reused(served: Served, endpoint: Endpoint):
    for _ in range(5):
        await served.stub.PostUserQueryUnary(query())
        assert endpoint.connections == 1
    assert len(endpoint.calls) == 5


async def test_a_turn_of_an_assistant_that_was_reset_meanwhile_is_refused(served: Served, endpoint: Endpoint):
    gate = asyncio.Event()
    endpoint.script(Stream("first", gate))
    call = served.stub.PostUserQuery(query())
    await call.read()
    await create_assistant(served, instructions="Anew.", if_exists=pb.IF_EXISTS_RESET)
    gate.set()
    failure = await failure_of(read_rest(call))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, "CONCURRENT_WRITE")
    assert await contents(served) == ["Anew."]
