"""Callers that leave, in every way and at every stage of a turn, with every store."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub
from palaver_server.transports import grpc as transport
from tests.support import table_proxy
from tests.support.azurite import Azurite
from tests.support.caller_process import caller_process
from tests.support.calls import contents, create_assistant, query, read_rest, text_of
from tests.support.cutting_proxy import CuttingProxy
from tests.support.endpoint import Endpoint, Stream, fire_hose
from tests.support.palaver_server import Served, palaver_server
from tests.support.statuses import failure_of
from tests.support.table_proxy import Exchange, TableProxy

SOON = 5
"""Seconds. Everything of a caller that left must be gone long before its lease expires, after 15 seconds."""

CANCEL, CONTINUE = pb.ON_DISCONNECT_CANCEL, pb.ON_DISCONNECT_CONTINUE


@dataclass(frozen=True)
class Commit:
    """A commit that a test delays."""

    begun: Callable[[], Awaitable[Any]]
    release: Callable[[], None]


@dataclass(frozen=True)
class SharedStore:
    """A store that servers share, and whose commits a test can delay."""

    serve: Callable[..., AbstractAsyncContextManager[Served]]
    hold_commit: Callable[[Served], AbstractAsyncContextManager[Commit]]


@asynccontextmanager
async def sqlite(_request: pytest.FixtureRequest, folder: Path, endpoint: Endpoint) -> AsyncIterator[SharedStore]:
    connections = {"storage_connections": ("AzureWebJobsStorage", "Other")}
    variables = {"Other": f"sqlite:{folder / 'other.db'}"}

    @asynccontextmanager
    async def hold_commit(served: Served) -> AsyncIterator[Commit]:
        async def begun() -> None:
            await endpoint.calls[0].finished.wait()
            # A turn does not report that it waits for the lock. Instead, a whole turn with another database runs here.
            # It starts when only the commit of the first turn is left, and takes the same steps in the same event loop.
            key = {"id": "b", "chat_storage_connection_setting": "Other"}
            await served.stub.CreateAssistant(pb.CreateAssistantRequest(**key))
            await served.stub.PostUserQueryUnary(pb.PostUserQueryRequest(user_message="Hello", **key))

        with closing(sqlite3.connect(folder / "palaver.db", isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield Commit(begun, connection.rollback)

    yield SharedStore(
        lambda **settings: palaver_server(folder, endpoint.url, variables, **connections, **settings), hold_commit
    )


@asynccontextmanager
async def azure_tables(request: pytest.FixtureRequest, folder: Path, endpoint: Endpoint) -> AsyncIterator[SharedStore]:
    azurite: Azurite = request.getfixturevalue("azurite")
    async with TableProxy(azurite.account()) as proxy:
        variables = {"AzureWebJobsStorage": proxy.connection_string}

        @asynccontextmanager
        async def hold_commit(served: Served) -> AsyncIterator[Commit]:
            held, released = asyncio.Event(), asyncio.Event()

            async def hold(exchange: Exchange) -> bytes | None:
                held.set()
                await released.wait()
                return None  # lost, so that only a turn that still runs retries

            proxy.fault = table_proxy.once(hold, lambda exchange: exchange.is_commit)
            yield Commit(held.wait, released.set)

        yield SharedStore(lambda **settings: palaver_server(folder, endpoint.url, variables, **settings), hold_commit)


STORES = {"sqlite": sqlite, "azure_tables": azure_tables}


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path, endpoint: Endpoint) -> AsyncIterator[SharedStore]:
    async with STORES[request.param](request, tmp_path, endpoint) as running:
        yield running


@pytest.fixture
async def served(store: SharedStore, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    # A frozen caller is noticed after one second instead of 80.
    options = {"grpc.keepalive_time_ms": 500, "grpc.keepalive_timeout_ms": 500, "grpc.http2.ping_timeout_ms": 500}
    monkeypatch.setattr(transport, "CHANNEL_OPTIONS", tuple((dict(transport.CHANNEL_OPTIONS) | options).items()))
    async with store.serve(max_turns=2) as running:
        for name in ("a", "b"):
            await create_assistant(running, name)
        yield running


@dataclass(frozen=True)
class Caller:
    """A caller that has posted a query and is going to leave."""

    wait_for: Callable[[str], Awaitable[None]]
    """Waits for an event, by its name."""
    leave: Callable[[], Awaitable[None]]
    """Leaves, and returns when the server can know."""


async def read_until(call: Any, name: str) -> None:
    while (await call.read()).WhichOneof("event") != name:
        pass


@asynccontextmanager
async def cancels(served: Served, request: pb.PostUserQueryRequest) -> AsyncIterator[Caller]:
    call = served.stub.PostUserQuery(request)
    await served.stub.GetAssistant(pb.GetAssistantRequest(id="a"))

    async def leave() -> None:
        call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED

    yield Caller(lambda name: read_until(call, name), leave)


@asynccontextmanager
async def disconnects(served: Served, request: pb.PostUserQueryRequest) -> AsyncIterator[Caller]:
    async with grpc.aio.insecure_channel(served.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = AssistantServiceStub(channel)
        call = stub.PostUserQuery(request)
        await stub.GetAssistant(pb.GetAssistantRequest(id="a"))
        yield Caller(lambda name: read_until(call, name), channel.close)


@asynccontextmanager
async def hits_its_deadline(served: Served, request: pb.PostUserQueryRequest) -> AsyncIterator[Caller]:
    call = served.stub.PostUserQuery(request, timeout=1)
    await served.stub.GetAssistant(pb.GetAssistantRequest(id="a"))

    async def leave() -> None:
        failure = await failure_of(read_rest(call))
        if failure.code is grpc.StatusCode.ABORTED:  # from the queue, which ends before the deadline
            assert failure.reason == "ASSISTANT_BUSY"
            assert failure.retry_delay is not None
        else:
            assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED

    yield Caller(lambda name: read_until(call, name), leave)


@asynccontextmanager
async def dies(served: Served, request: pb.PostUserQueryRequest) -> AsyncIterator[Caller]:
    async with caller_process(served.target, request) as caller:
        await caller.wait_for("posted")

        async def leave() -> None:
            caller.process.kill()
            await caller.process.wait()  # then its connections are closed

        yield Caller(caller.wait_for, leave)


@asynccontextmanager
async def freezes(served: Served, request: pb.PostUserQueryRequest) -> AsyncIterator[Caller]:
    async with CuttingProxy(served.target) as proxy, caller_process(proxy.address, request) as caller:
        await caller.wait_for("posted")

        async def leave() -> None:
            caller.process.send_signal(signal.SIGSTOP)
            await asyncio.wait_for(proxy.ended.wait(), SOON)  # the server has closed the connection

        yield Caller(caller.wait_for, leave)


WAYS = [cancels, disconnects, hits_its_deadline, dies, freezes]
Way = Callable[[Served, pb.PostUserQueryRequest], AbstractAsyncContextManager[Caller]]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request: pytest.FixtureRequest) -> Way:
    return request.param


@pytest.fixture(params=["CANCEL", "CONTINUE"])
def on_disconnect(request: pytest.FixtureRequest) -> int:
    return {"CANCEL": CANCEL, "CONTINUE": CONTINUE}[request.param]


async def leave(served: Served, caller: Caller) -> None:
    await caller.leave()
    # A round trip: afterwards, the server knows that the caller has left.
    await health_pb2_grpc.HealthStub(served.channel).Check(health_pb2.HealthCheckRequest())


async def wait_until_one_turn_is_left(served: Served) -> None:
    """Waits until the server accepts another turn besides the running one."""
    while await served.stub.PostUserQueryUnary(query(id="b")).code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        pass


async def assert_next_turn_works(served: Served, *before: str) -> None:
    completed = (await served.stub.PostUserQueryUnary(query("Next"), timeout=SOON)).completed
    assert [message.content for message in completed.messages] == ["Next", "Hello, world"]
    assert await contents(served) == [*before, "Next", "Hello, world"]


STAGES: dict[str, Callable[[asyncio.Event], Stream]] = {
    "before the head": lambda gate: Stream(gate, "Hello", ", world"),
    "before the first piece": lambda gate: Stream(b": hi\n\n", gate, "Hello", ", world"),
    "in the middle": lambda gate: Stream("Hello", gate, ", world"),
}


class TestEveryWayAtEveryStage:
    async def test_in_the_queue(self, served: Served, endpoint: Endpoint, way: Way, on_disconnect: int):
        gate = asyncio.Event()
        endpoint.script(Stream("first", gate))
        running = served.stub.PostUserQuery(query("First"))
        await running.read()
        await endpoint.call()
        async with way(served, query(on_disconnect=on_disconnect)) as caller:
            assert (await failure_of(served.stub.PostUserQueryUnary(query(id="b")))).reason == "TOO_MANY_TURNS"
            await leave(served, caller)
            if on_disconnect == CANCEL:
                await wait_until_one_turn_is_left(served)
            gate.set()
            await read_rest(running)
            stored = ["Hello", "Hello, world"] if on_disconnect == CONTINUE else []
            await assert_next_turn_works(served, "First", "first", *stored)
        assert len(endpoint.calls) == 3  # the first, the next, and either one of `b` or the one that continued

    @pytest.mark.parametrize("stage", STAGES)
    async def test_at_the_model(self, served: Served, endpoint: Endpoint, way: Way, stage: str, on_disconnect: int):
        gate = asyncio.Event()
        endpoint.script(STAGES[stage](gate))
        async with way(served, query(request_id="r", on_disconnect=on_disconnect)) as caller:
            upstream = await endpoint.call()
            await caller.wait_for("text_delta" if stage == "in the middle" else "started")
            await leave(served, caller)
            if on_disconnect == CONTINUE:
                gate.set()
                await assert_next_turn_works(served, "Hello", "Hello, world")
            else:
                await asyncio.wait_for(upstream.closed.wait(), SOON)
                await assert_next_turn_works(served)
        assert len(endpoint.calls) == 2

    async def test_while_it_is_stored(
        self, served: Served, endpoint: Endpoint, store: SharedStore, way: Way, on_disconnect: int
    ):
        gate = asyncio.Event()
        endpoint.script(STAGES["in the middle"](gate))
        async with way(served, query(request_id="r", on_disconnect=on_disconnect)) as caller:
            await caller.wait_for("text_delta")
            async with store.hold_commit(served) as commit:
                gate.set()
                await commit.begun()
                await leave(served, caller)
                commit.release()
            await assert_next_turn_works(served, "Hello", "Hello, world")
        asked = len(endpoint.calls)
        again = await read_rest(served.stub.PostUserQuery(query(request_id="r")))
        assert again[0].started.replayed
        assert text_of(again) == "Hello, world"
        assert len(endpoint.calls) == asked


def narrow_channel(target: str) -> grpc.aio.Channel:
    """Returns a channel that buffers 64 KiB for a caller that does not read. Other channels grow to megabytes."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]
    return grpc.aio.insecure_channel(target, options)


class TestNotReading:
    """A caller that stops reading has not left. It delays its turn up to the time limit of the turn or its deadline."""

    @pytest.mark.parametrize("stage", ["in the queue", *STAGES])
    @pytest.mark.parametrize("limit", ["of the turn", "of the caller"])
    async def test_a_long_reply_is_held_back_and_ended(
        self, store: SharedStore, endpoint: Endpoint, stage: str, limit: str
    ):
        gate = asyncio.Event()
        settings, timeout = ({"turn_timeout": 1}, None) if limit == "of the turn" else ({}, 1)
        before = [Stream("first", gate)] if stage == "in the queue" else []
        items = (gate,) if stage == "in the queue" else STAGES[stage](gate).items
        endpoint.script(*before, Stream(*items, fire_hose))
        async with store.serve(**settings) as served, narrow_channel(served.target) as channel:
            await create_assistant(served)
            running = [served.stub.PostUserQuery(query("First")) for _ in before]
            for call in running:
                await call.read()
            stub = AssistantServiceStub(channel)
            call = stub.PostUserQuery(query(), timeout=timeout)
            await stub.GetAssistant(pb.GetAssistantRequest(id="a"))
            if stage == "in the middle":
                await read_until(call, "text_delta")
            gate.set()
            for first in running:
                await read_rest(first)
            upstream = await endpoint.call(1 + len(before))
            await asyncio.wait_for(upstream.closed.wait(), SOON)
            # The next turn does not wait for the caller to read.
            await assert_next_turn_works(served, *(["First", "first"] if before else []))
            failure = await failure_of(read_rest(call))
            assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
            # Without backpressure, the reply would have become TURN_TOO_LARGE by now.
            assert failure.reason == ("MODEL_TIMEOUT" if limit == "of the turn" else "")

    async def test_while_it_is_stored(self, served: Served, endpoint: Endpoint, store: SharedStore):
        gate = asyncio.Event()
        endpoint.script(STAGES["in the middle"](gate))
        call = served.stub.PostUserQuery(query())
        await read_until(call, "text_delta")
        async with store.hold_commit(served) as commit:
            gate.set()
            await commit.begun()
            commit.release()
        await assert_next_turn_works(served, "Hello", "Hello, world")
        assert (await read_rest(call))[-1].completed.assistant.total_messages == 2


class TestManyCallers:
    async def test_the_turn_queued_behind_a_caller_that_leaves_runs_next(self, store: SharedStore, endpoint: Endpoint):
        gate = asyncio.Event()
        endpoint.script(Stream("first", gate))
        async with store.serve() as served:
            await create_assistant(served)
            running = served.stub.PostUserQuery(query("First"))
            await running.read()
            leaving = served.stub.PostUserQuery(query())
            staying = served.stub.PostUserQuery(query("Second"))
            await served.stub.GetAssistant(pb.GetAssistantRequest(id="a"))
            leaving.cancel()
            gate.set()
            for call in (running, staying):
                await read_rest(call)
            assert await contents(served) == ["First", "first", "Second", "Hello, world"]
            assert len(endpoint.calls) == 2

    async def test_the_turn_is_cancelled_when_its_last_caller_leaves(self, served: Served, endpoint: Endpoint):
        endpoint.script(Stream("Hello ", asyncio.Event()))
        first, second = (served.stub.PostUserQuery(query(request_id="r")) for _ in range(2))
        for call in (first, second):
            await call.read()
            await call.read()
        first.cancel()
        upstream = await endpoint.call()
        assert not upstream.closed.is_set()
        second.cancel()
        await asyncio.wait_for(upstream.closed.wait(), SOON)
        await assert_next_turn_works(served)

    async def test_a_turn_continues_without_callers_if_any_of_them_asked_for_it(
        self, served: Served, endpoint: Endpoint
    ):
        gate = asyncio.Event()
        endpoint.script(Stream("Hello ", gate, "you"))
        first = served.stub.PostUserQuery(query(request_id="r"))
        second = served.stub.PostUserQuery(query(request_id="r", on_disconnect=CONTINUE))
        for call in (first, second):
            await call.read()
            await call.read()
            call.cancel()
        assert (await first.code(), await second.code()) == (grpc.StatusCode.CANCELLED, grpc.StatusCode.CANCELLED)
        gate.set()
        again = await read_rest(served.stub.PostUserQuery(query(request_id="r")))
        assert text_of(again) == "Hello you"
        assert len(endpoint.calls) == 1
        assert await contents(served) == ["Hello", "Hello you"]
