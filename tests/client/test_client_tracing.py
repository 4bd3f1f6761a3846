"""OpenTelemetry's instrumentation of gRPC, which programs switch on for all of their channels."""

from __future__ import annotations

import asyncio
import gc
import queue
from collections.abc import Iterator

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, GrpcInstrumentorClient
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

import palaver
from palaver.v1 import assistant_service_pb2
from tests.support import replies
from tests.support.scripted_server import HANG, Call, Failure, ScriptedServer

BREAK = Failure(grpc.StatusCode.UNAVAILABLE, "Socket closed")
COMPLETED = assistant_service_pb2.PostUserQueryUnaryResponse(completed=replies.turn_completed())


class Spans(SpanProcessor):
    """The spans of a program whose channels are instrumented."""

    def __init__(self) -> None:
        self.ended: queue.Queue[ReadableSpan] = queue.Queue()
        self.provider = TracerProvider()
        self.provider.add_span_processor(self)
        self.tracer = self.provider.get_tracer("test")

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.put(span)


@pytest.fixture
def spans(monkeypatch) -> Iterator[Spans]:
    spans = Spans()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: spans.provider)  # the global one can be set only once
    instrumentors = [GrpcInstrumentorClient(), GrpcAioInstrumentorClient()]
    for instrumentor in instrumentors:
        instrumentor.instrument()
    yield spans
    for instrumentor in instrumentors:
        instrumentor.uninstrument()


def trace_ids(calls: list[Call]) -> list[int]:
    """Returns the id of the trace that each call belongs to."""
    return [int(str(call.metadata["traceparent"]).split("-")[1], 16) for call in calls]


@pytest.fixture
def server(server: ScriptedServer) -> ScriptedServer:
    server.script("GetAssistant", assistant_service_pb2.GetAssistantResponse(assistant=replies.assistant()))
    server.script("PostUserQueryUnary", BREAK, COMPLETED)
    server.script("PostUserQuery", [replies.started(), replies.delta("Hi"), BREAK], replies.turn("Hi ", "there"))
    return server


@pytest.mark.parametrize("token", ["s3cret", lambda: "s3cret"], ids=["token", "token function"])
async def test_calls_and_turns_that_are_posted_again_belong_to_the_trace_of_the_caller(spans, connect, server, token):
    driver = await connect(server.target, token=token)
    with spans.tracer.start_as_current_span("caller") as caller:
        await driver.call("get_assistant", "support")
        await driver.call("post_user_query_unary", "support", "Hello!")
        await driver.post("support", "Hello!")
    assert trace_ids(server.calls) == [caller.get_span_context().trace_id] * 5
    assert [call.metadata["authorization"] for call in server.calls] == ["Bearer s3cret"] * 5


@pytest.mark.parametrize("token", [None, lambda: "s3cret"], ids=["no token", "token function"])
async def test_a_reply_belongs_to_the_trace_in_which_it_was_created(spans, connect, server, token):
    driver = await connect(server.target, token=token)
    with spans.tracer.start_as_current_span("caller") as caller:
        reply = driver.client.post_user_query("support", "Hello!")
    with spans.tracer.start_as_current_span("reader"):
        await driver.read(reply)
    assert trace_ids(server.calls) == [caller.get_span_context().trace_id] * 2


def test_the_span_of_a_call_is_current_only_within_it(spans, server):
    with palaver.Client(server.target) as client, spans.tracer.start_as_current_span("caller") as caller:
        for _ in client.post_user_query("support", "Hello!"):
            assert trace.get_current_span() is caller
        assert trace.get_current_span() is caller


async def test_each_post_of_a_turn_has_a_span_with_its_outcome(spans, connect, server):
    driver = await connect(server.target)
    with spans.tracer.start_as_current_span("caller") as caller:
        await driver.post("support", "Hello!")
    ended = [await asyncio.to_thread(spans.ended.get, timeout=30) for _ in range(3)]
    posts = [span for span in ended if span.parent == caller.get_span_context()]
    assert {span.name for span in posts} == {"/palaver.v1.AssistantService/PostUserQuery"}
    assert [span.attributes["rpc.grpc.status_code"] for span in posts] == [14, 0]


async def test_dropping_a_reply_ends_its_call(spans, connect, server):
    server.script("PostUserQuery", [replies.started(), HANG])
    driver = await connect(server.target)
    await driver.next(driver.client.post_user_query("support", "Hello!"))
    gc.collect()
    assert await asyncio.to_thread(server.calls[0].abandoned.wait, 30)


async def test_canceling_the_task_of_a_unary_call_ends_the_call(spans, server):
    server.script("PostUserQueryUnary", HANG)
    async with palaver.AsyncClient(server.target) as client:
        task = asyncio.ensure_future(client.post_user_query_unary("support", "Hello!"))
        [call] = await asyncio.to_thread(server.wait_for_calls, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(call.abandoned.wait, 30)


async def test_canceling_a_reply_ends_its_call_at_once(spans, connect, server):
    server.script("PostUserQuery", [replies.started(), HANG])
    driver = await connect(server.target)
    with spans.tracer.start_as_current_span("caller"):
        reply = driver.client.post_user_query("support", "Hello!")
        assert isinstance(await driver.next(reply), palaver.TurnStarted)
        waiting = asyncio.create_task(driver.next(reply))
        [call] = await asyncio.to_thread(server.wait_for_calls, 1)
        reply.cancel()
        with pytest.raises(palaver.CanceledError):
            await waiting
    assert await asyncio.to_thread(call.abandoned.wait, 30)
