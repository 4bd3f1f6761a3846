"""Servers that share a store run one turn at a time for each assistant, even if one of them dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from palaver.v1 import assistant_service_pb2 as pb
from tests.support import table_proxy as faults
from tests.support.azurite import Account
from tests.support.calls import contents, create_assistant, query, read_rest
from tests.support.endpoint import Call, Endpoint, Refusal, Stream
from tests.support.palaver_server import Replicas, Served, palaver_server, server_with_assistant
from tests.support.server_process import server_process
from tests.support.statuses import failure_of
from tests.support.table_proxy import Exchange, TableProxy


@pytest.fixture
async def one(replicas: Replicas) -> AsyncIterator[Served]:
    async with replicas.first() as running:
        yield running


@pytest.fixture
async def other(replicas: Replicas) -> AsyncIterator[Served]:
    async with replicas.another() as running:
        yield running


CANCELLED_OR_OVERTAKEN = [
    (grpc.StatusCode.CANCELLED, "TURN_CANCELLED"),
    # Its server notices only that another turn was stored.
    (grpc.StatusCode.ABORTED, "CONCURRENT_WRITE"),
]


async def test_a_turn_waits_for_a_turn_on_another_server(one: Served, other: Served, endpoint: Endpoint):
    gate = asyncio.Event()
    endpoint.script(Stream("first", gate), Stream("second"))
    running = one.stub.PostUserQuery(query("q1"))
    await running.read()
    failure = await failure_of(other.stub.PostUserQueryUnary(query("q2"), timeout=4))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, "ASSISTANT_BUSY")
    assert failure.retry_delay is not None
    assert failure.retry_delay > 0
    waiting = asyncio.ensure_future(other.stub.PostUserQueryUnary(query("q2")))
    await one.stub.GetAssistant(pb.GetAssistantRequest(id="a"))
    gate.set()
    await read_rest(running)
    await waiting
    assert await contents(one) == ["q1", "first", "q2", "second"]
    assert len(endpoint.calls) == 2
    assert [message["content"] for message in endpoint.calls[1].body["messages"]] == ["q1", "first", "q2"]


async def test_a_turn_that_runs_on_another_server_is_replayed_once_it_is_stored(
    one: Served, other: Served, endpoint: Endpoint
):
    gate = asyncio.Event()
    endpoint.script(Stream("Hello ", gate, "you"))
    running = one.stub.PostUserQuery(query(request_id="r"))
    await running.read()
    await endpoint.call()
    again = other.stub.PostUserQuery(query(request_id="r"))
    asleep = asyncio.ensure_future(again.read())
    await failure_of(other.stub.PostUserQueryUnary(query("something else"), timeout=0.3))
    gate.set()
    [*_, completed] = await read_rest(running)
    assert (await asleep).started.replayed
    assert (await read_rest(again))[-1].completed == completed.completed
    assert len(endpoint.calls) == 1


class TestCancelling:
    """Cancelling a turn that runs on another server."""

    CANCEL = pb.CancelTurnRequest(id="a", request_id="r")

    @pytest.mark.parametrize("seconds", [1, 600], ids=["noticed when it is renewed", "noticed when it is stored"])
    async def test_a_cancelled_turn_ends_and_is_not_stored(
        self, replicas: Replicas, other: Served, endpoint: Endpoint, seconds: int
    ):
        gate = asyncio.Event()
        async with replicas.first(lease_duration=seconds) as one:
            endpoint.script(Stream("first", gate))
            running = one.stub.PostUserQuery(query(request_id="r"))
            await running.read()
            upstream = await endpoint.call()
            await other.stub.CancelTurn(self.CANCEL)
            # Other turns need not wait.
            await other.stub.PostUserQueryUnary(query("Now me"), timeout=5)
            if seconds == 1:
                await upstream.closed.wait()
            gate.set()
            failure = await failure_of(read_rest(running))
            assert (failure.code, failure.reason) in CANCELLED_OR_OVERTAKEN
            assert await contents(one) == ["Now me", "Hello, world"]

    async def test_the_callers_get_turn_cancelled(self, replicas: Replicas, other: Served, endpoint: Endpoint):
        async with replicas.first(lease_duration=1) as one:
            endpoint.script(Stream("first", asyncio.Event()))
            running = one.stub.PostUserQuery(query(request_id="r"))
            await running.read()
            await endpoint.call()
            await other.stub.CancelTurn(self.CANCEL)
            failure = await failure_of(read_rest(running))
            assert (failure.code, failure.reason) == (grpc.StatusCode.CANCELLED, "TURN_CANCELLED")
            assert await contents(one) == []
            # With the same request id, it can run again.
            response = await other.stub.PostUserQueryUnary(query(request_id="r"), timeout=5)
            assert [message.content for message in response.completed.messages] == ["Hello", "Hello, world"]

    async def test_callers_that_wait_for_it_on_this_server_get_turn_cancelled(
        self, one: Served, other: Served, endpoint: Endpoint
    ):
        endpoint.script(Stream("first", gate := asyncio.Event()))
        running = one.stub.PostUserQuery(query(request_id="r"))
        await running.read()
        await endpoint.call()
        again = asyncio.ensure_future(failure_of(other.stub.PostUserQueryUnary(query(request_id="r"))))
        await failure_of(other.stub.PostUserQueryUnary(query("something else"), timeout=0.3))
        await other.stub.CancelTurn(self.CANCEL)
        assert (await again).reason == "TURN_CANCELLED"
        gate.set()
        assert (await failure_of(read_rest(running))).reason == "TURN_CANCELLED"
        assert await contents(one) == []

    async def test_other_turns_are_not_cancelled(self, one: Served, other: Served, endpoint: Endpoint):
        endpoint.script(Stream("first", gate := asyncio.Event()))
        running = one.stub.PostUserQuery(query("q1", request_id="mine"))
        await running.read()
        assert (await failure_of(other.stub.CancelTurn(self.CANCEL))).reason == "TURN_NOT_FOUND"
        gate.set()
        await read_rest(running)
        assert (await failure_of(other.stub.CancelTurn(pb.CancelTurnRequest(id="a", request_id="mine")))).reason == (
            "TURN_NOT_FOUND"
        )
        assert await contents(one) == ["q1", "first"]


async def test_callers_that_leave_at_any_moment_do_not_block_others(one: Served, other: Served, endpoint: Endpoint):
    async def never_answer_hello(call: Call) -> None:
        if call.body["messages"][-1]["content"] == "Hello":
            await asyncio.Event().wait()
        await call.send(call.chunk({"content": "Hello, world"}))

    endpoint.default = Stream(never_answer_hello)
    for steps in range(0, 120, 4):
        call = one.stub.PostUserQuery(query())
        for _ in range(steps):
            await asyncio.sleep(0)  # a step of the servers, which share this loop
        call.cancel()
        await other.stub.PostUserQueryUnary(query("Now me"), timeout=5)
    assert await contents(one) == ["Now me", "Hello, world"] * 30


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_a_turn_that_is_not_stored_does_not_block_others(
    one: Served, other: Served, endpoint: Endpoint, how: str
):
    if how == "cancelled":
        endpoint.script(Stream("Hello ", asyncio.Event()))
        call = one.stub.PostUserQuery(query())
        await call.read()
        upstream = await endpoint.call()
        call.cancel()
        await upstream.closed.wait()
    else:
        endpoint.script(Refusal(400))
        await failure_of(one.stub.PostUserQueryUnary(query()))
    # Far less than the 15 seconds after which the lease expires.
    await other.stub.PostUserQueryUnary(query("Now me"), timeout=5)
    assert await contents(one) == ["Now me", "Hello, world"]


async def test_servers_take_turns_and_none_starves(one: Served, other: Served, endpoint: Endpoint):
    async def post_all(served: Served, name: str) -> None:
        await asyncio.gather(*(served.stub.PostUserQueryUnary(query(f"{name}{number}")) for number in range(15)))

    await asyncio.gather(post_all(one, "x"), post_all(other, "y"))
    found = await contents(one)
    assert sorted(found[::2]) == sorted(f"{name}{number}" for name in "xy" for number in range(15))
    assert found[1::2] == ["Hello, world"] * 30
    assert len(endpoint.calls) == 30
    for number, call in enumerate(endpoint.calls):
        assert [message["content"] for message in call.body["messages"]] == found[: 2 * number + 1]


async def test_a_server_that_is_killed_blocks_its_assistant_no_longer_than_the_lease(
    tmp_path: Path, endpoint: Endpoint
):
    async with (
        server_process(tmp_path, endpoint.url, PALAVER_LEASE_DURATION="1") as one,
        server_process(tmp_path, endpoint.url) as other,
    ):
        await create_assistant(one)
        endpoint.script(Stream("never ", asyncio.Event()))
        lost = one.stub.PostUserQuery(query(request_id="r"))
        await lost.read()
        await lost.read()
        one.process.kill()
        with pytest.raises(grpc.aio.AioRpcError):
            await read_rest(lost)
        response = await other.stub.PostUserQueryUnary(query(request_id="r"), timeout=10)
        assert [message.content for message in response.completed.messages] == ["Hello", "Hello, world"]
        assert response.completed.assistant.total_messages == 2


class TestRenewing:
    """Faults between the server and Azure Table Storage. SQLite loses no responses."""

    async def test_a_long_turn_keeps_its_lease(self, tmp_path: Path, account: Account, endpoint: Endpoint):
        gate, renewed_often = asyncio.Event(), asyncio.Event()
        renewals: list[Exchange] = []

        async def count(exchange: Exchange) -> bytes | None:
            response = await exchange.forward()
            if is_lease(exchange):
                renewals.append(exchange)
                if len(renewals) == 6:  # more than the time of a lease
                    renewed_often.set()
            return response

        async with TableProxy(account) as proxy:
            here, there = proxy.connection_string, account.connection_string
            async with (
                palaver_server(tmp_path, endpoint.url, {"AzureWebJobsStorage": here}, lease_duration=1) as one,
                palaver_server(tmp_path, endpoint.url, {"AzureWebJobsStorage": there}) as other,
            ):
                await create_assistant(one)
                proxy.fault = count
                endpoint.script(Stream("first", gate))
                running = one.stub.PostUserQuery(query("q1"))
                await endpoint.call()
                waiting = asyncio.ensure_future(other.stub.PostUserQueryUnary(query("q2")))
                await renewed_often.wait()
                assert len(endpoint.calls) == 1
                gate.set()
                await read_rest(running)
                await waiting
                assert (await contents(one))[::2] == ["q1", "q2"]

    @pytest.mark.parametrize("fault", [faults.drop_answer, faults.fail_after, faults.drop_request, faults.fail_before])
    async def test_a_failed_renewal_does_not_fail_the_turn(
        self, tmp_path: Path, account: Account, endpoint: Endpoint, fault: faults.Fault
    ):
        gate, went_wrong = asyncio.Event(), asyncio.Event()

        async def spoil(exchange: Exchange) -> bytes | None:
            if is_lease(exchange) and endpoint.calls:
                response = await fault(exchange)
                went_wrong.set()
                return response
            return await exchange.forward()

        async with TableProxy(account) as proxy:
            variables = {"AzureWebJobsStorage": proxy.connection_string}
            async with server_with_assistant(tmp_path, endpoint.url, variables, lease_duration=1) as served:
                proxy.fault = spoil
                endpoint.script(Stream("first", gate))
                running = served.stub.PostUserQuery(query("q1"))
                await went_wrong.wait()
                gate.set()
                await read_rest(running)
                assert await contents(served) == ["q1", "first"]

    @pytest.mark.parametrize("fault", [faults.drop_answer, faults.fail_after, faults.drop_request, faults.fail_before])
    async def test_failing_once_to_take_the_lease_does_not_fail_the_turn(
        self, tmp_path: Path, account: Account, endpoint: Endpoint, fault: faults.Fault
    ):
        async with TableProxy(account) as proxy:
            variables = {"AzureWebJobsStorage": proxy.connection_string}
            async with server_with_assistant(tmp_path, endpoint.url, variables) as served:
                proxy.fault = faults.once(fault, is_lease)
                await served.stub.PostUserQueryUnary(query("q1"))
                assert await contents(served) == ["q1", "Hello, world"]

    async def test_a_turn_that_loses_its_lease_stops_at_once(
        self, tmp_path: Path, account: Account, endpoint: Endpoint
    ):
        lost = asyncio.Event()

        async def lose(exchange: Exchange) -> bytes | None:
            if is_lease(exchange) and endpoint.calls and not lost.is_set():
                lost.set()
                async with palaver_server(
                    tmp_path, endpoint.url, {"AzureWebJobsStorage": account.connection_string}
                ) as s:
                    await create_assistant(s, instructions="New", if_exists=pb.IF_EXISTS_RESET)
            return await exchange.forward()

        async with TableProxy(account) as proxy:
            variables = {"AzureWebJobsStorage": proxy.connection_string}
            async with server_with_assistant(tmp_path, endpoint.url, variables, lease_duration=1) as served:
                proxy.fault = lose
                endpoint.script(Stream("never ends", asyncio.Event()))
                failure = await failure_of(served.stub.PostUserQueryUnary(query("q1")))
                assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, "CONCURRENT_WRITE")
                await endpoint.calls[0].closed.wait()
                assert await contents(served) == ["New"]


def is_lease(exchange: Exchange) -> bool:
    return exchange.method == "PATCH" and b"LeaseUntil" in exchange.request
