"""Replaying, joining and cancelling turns by their `request_id`, with every store, over a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from palaver.v1 import assistant_service_pb2 as pb
from tests.support import table_proxy as faults
from tests.support.azurite import Account
from tests.support.calls import contents, create_assistant, read_rest, text_of
from tests.support.calls import query_with_id as query
from tests.support.endpoint import Endpoint, Refusal, Stream
from tests.support.palaver_server import Replicas, Served, server_with_assistant
from tests.support.statuses import failure_of
from tests.support.table_proxy import TableProxy


@pytest.fixture
async def served(replicas: Replicas) -> AsyncIterator[Served]:
    async with replicas.first(instructions="Be brief.") as running:
        yield running


class TestStoredTurns:
    async def test_a_stored_turn_is_replayed_without_a_model_call(self, served: Served, endpoint: Endpoint):
        endpoint.script(Stream("Hel", "lo ", "you", finish="length"))
        first = await read_rest(served.stub.PostUserQuery(query(max_tokens=7)))
        again = await read_rest(served.stub.PostUserQuery(query(max_tokens=7)))
        assert len(endpoint.calls) == 1
        assert [event.sequence for event in again] == [1, 2, 3]
        assert not first[0].started.replayed
        assert again[0].started.replayed
        again[0].started.replayed = False
        assert again[0].started == first[0].started
        assert text_of(again) == text_of(first) == "Hello you"
        assert again[-1].completed == first[-1].completed
        assert again[-1].completed.finish_reason == pb.FINISH_REASON_LENGTH
        assert again[-1].completed.usage.reasoning_tokens == 3
        assert await contents(served) == ["Be brief.", "Hello", "Hello you"]

    async def test_a_replay_reports_the_present_state_of_the_assistant(self, served: Served):
        await read_rest(served.stub.PostUserQuery(query()))
        newer = await served.stub.PostUserQueryUnary(query("And then?", "r2"))
        again = await served.stub.PostUserQueryUnary(query())
        assert again.completed.assistant == newer.completed.assistant
        assert [message.content for message in again.completed.messages] == ["Hello", "Hello, world"]

    async def test_another_server_replays_a_stored_turn(self, served: Served, endpoint: Endpoint, replicas: Replicas):
        first = await served.stub.PostUserQueryUnary(query())
        async with replicas.another() as other:
            assert await other.stub.PostUserQueryUnary(query()) == first
        assert len(endpoint.calls) == 1

    async def test_a_caller_that_missed_the_end_gets_it_with_the_request_id_from_started(
        self, served: Served, endpoint: Endpoint
    ):
        gate = asyncio.Event()
        endpoint.script(Stream("Hello ", gate, "you"))
        call = served.stub.PostUserQuery(query(request_id="", on_disconnect=pb.ON_DISCONNECT_CONTINUE))
        name = (await call.read()).started.request_id
        await call.read()
        call.cancel()
        gate.set()
        again = await read_rest(served.stub.PostUserQuery(query(request_id=name)))
        assert text_of(again) == "Hello you"
        assert len(endpoint.calls) == 1

    @pytest.mark.parametrize("other", [{"user_message": "Bye"}, {"temperature": 0.0}, {"history": pb.History()}])
    async def test_another_request_with_the_same_id_is_refused(
        self, served: Served, endpoint: Endpoint, other: dict[str, Any]
    ):
        await served.stub.PostUserQueryUnary(query())
        failure = await failure_of(served.stub.PostUserQueryUnary(query(**other)))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
        assert "request_id" in failure.text
        assert len(endpoint.calls) == 1
        assert await contents(served) == ["Be brief.", "Hello", "Hello, world"]

    async def test_on_disconnect_is_not_part_of_the_request(self, served: Served, endpoint: Endpoint):
        await served.stub.PostUserQueryUnary(query())
        await served.stub.PostUserQueryUnary(query(on_disconnect=pb.ON_DISCONNECT_CONTINUE))
        assert len(endpoint.calls) == 1

    async def test_a_request_id_belongs_to_one_assistant(self, served: Served, endpoint: Endpoint):
        await create_assistant(served, "b")
        await served.stub.PostUserQueryUnary(query())
        await served.stub.PostUserQueryUnary(pb.PostUserQueryRequest(id="b", user_message="Bye", request_id="r"))
        assert len(endpoint.calls) == 2

    async def test_a_reset_frees_the_request_ids(self, served: Served, endpoint: Endpoint):
        await served.stub.PostUserQueryUnary(query())
        await create_assistant(served, if_exists=pb.IF_EXISTS_RESET)
        await served.stub.PostUserQueryUnary(query("Bye"))
        assert len(endpoint.calls) == 2

    async def test_a_failed_turn_runs_again(self, served: Served, endpoint: Endpoint):
        endpoint.script(Refusal(400, "not today"))
        assert (await failure_of(served.stub.PostUserQueryUnary(query()))).reason == "MODEL_REJECTED_REQUEST"
        await served.stub.PostUserQueryUnary(query())
        assert await contents(served) == ["Be brief.", "Hello", "Hello, world"]

    async def test_a_replay_does_not_wait_for_the_running_turn(self, served: Served, endpoint: Endpoint):
        await served.stub.PostUserQueryUnary(query())
        gate = asyncio.Event()
        endpoint.script(Stream("slow", gate))
        running = served.stub.PostUserQuery(query("Next", "r2"))
        await running.read()
        assert text_of(await read_rest(served.stub.PostUserQuery(query()))) == "Hello, world"
        gate.set()
        await read_rest(running)

    async def test_an_assistant_that_does_not_exist_is_not_found(self, served: Served):
        request = pb.PostUserQueryRequest(id="nobody", user_message="Hello", request_id="r")
        assert (await failure_of(served.stub.PostUserQueryUnary(request))).reason == "ASSISTANT_NOT_FOUND"


class TestRunningTurns:
    async def test_posting_again_joins_the_running_turn_from_its_first_event(self, served: Served, endpoint: Endpoint):
        gate = asyncio.Event()
        endpoint.script(Stream("Hello ", gate, "you"))
        first = served.stub.PostUserQuery(query())
        await first.read()
        await first.read()
        second = served.stub.PostUserQuery(query())
        started, piece = await second.read(), await second.read()
        assert started.started.request_id == "r"
        assert piece.text_delta.text == "Hello "
        unary = asyncio.ensure_future(served.stub.PostUserQueryUnary(query()))
        gate.set()
        one, other = (await read_rest(first))[-1], (await read_rest(second))[-1]
        assert one.completed == other.completed == (await unary).completed
        assert len(endpoint.calls) == 1
        assert await contents(served) == ["Be brief.", "Hello", "Hello you"]

    async def test_another_request_with_the_id_of_a_running_turn_is_refused(self, served: Served, endpoint: Endpoint):
        gate = asyncio.Event()
        endpoint.script(Stream("Hello ", gate, "you"))
        first = served.stub.PostUserQuery(query())
        await first.read()
        failure = await failure_of(served.stub.PostUserQueryUnary(query("Bye")))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
        gate.set()
        assert text_of(await read_rest(first)) == "Hello you"

    async def test_a_queued_turn_can_be_joined(self, served: Served, endpoint: Endpoint):
        gate = asyncio.Event()
        endpoint.script(Stream("first", gate))
        running = served.stub.PostUserQuery(query("First", "r1"))
        await running.read()
        waiting = [asyncio.ensure_future(read_rest(served.stub.PostUserQuery(query("Second", "r2")))) for _ in range(3)]
        await served.stub.GetAssistant(pb.GetAssistantRequest(id="a"))
        gate.set()
        await read_rest(running)
        assert {text_of(await call) for call in waiting} == {"Hello, world"}
        assert len(endpoint.calls) == 2

    async def test_simultaneous_requests_with_one_id_are_one_turn(self, served: Served, endpoint: Endpoint):
        results = await asyncio.gather(*(served.stub.PostUserQueryUnary(query()) for _ in range(10)))
        assert len(endpoint.calls) == 1
        assert all(result == results[0] for result in results)


class TestCancelling:
    @pytest.mark.parametrize("on_disconnect", [pb.ON_DISCONNECT_CANCEL, pb.ON_DISCONNECT_CONTINUE])
    async def test_cancelling_ends_the_turn_for_all_its_callers(
        self, served: Served, endpoint: Endpoint, on_disconnect: Any
    ):
        endpoint.script(Stream("Hello ", asyncio.Event()))
        calls = [served.stub.PostUserQuery(query(on_disconnect=on_disconnect)) for _ in range(2)]
        for call in calls:
            await call.read()
        upstream = await endpoint.call()
        await served.stub.CancelTurn(pb.CancelTurnRequest(id="a", request_id="r"))
        for call in calls:
            failure = await failure_of(read_rest(call))
            assert (failure.code, failure.reason) == (grpc.StatusCode.CANCELLED, "TURN_CANCELLED")
        await upstream.closed.wait()
        assert await contents(served) == ["Be brief."]
        await served.stub.PostUserQueryUnary(query())
        assert await contents(served) == ["Be brief.", "Hello", "Hello, world"]

    async def test_cancelling_ends_a_queued_turn(self, served: Served, endpoint: Endpoint):
        gate = asyncio.Event()
        endpoint.script(Stream("first", gate))
        running = served.stub.PostUserQuery(query("First", "r1"))
        await running.read()
        waiting = asyncio.ensure_future(failure_of(read_rest(served.stub.PostUserQuery(query("Second", "r2")))))
        await served.stub.GetAssistant(pb.GetAssistantRequest(id="a"))
        await served.stub.CancelTurn(pb.CancelTurnRequest(id="a", request_id="r2"))
        assert (await waiting).reason == "TURN_CANCELLED"
        gate.set()
        await read_rest(running)
        assert await contents(served) == ["Be brief.", "First", "first"]

    async def test_cancelling_ends_a_turn_without_callers(self, served: Served, endpoint: Endpoint):
        endpoint.script(Stream("Hello ", asyncio.Event()))
        call = served.stub.PostUserQuery(query(on_disconnect=pb.ON_DISCONNECT_CONTINUE))
        await call.read()
        await call.read()
        call.cancel()
        upstream = await endpoint.call()
        await served.stub.CancelTurn(pb.CancelTurnRequest(id="a", request_id="r"))
        await upstream.closed.wait()
        assert await contents(served) == ["Be brief."]

    async def test_only_a_running_turn_can_be_cancelled(self, served: Served):
        await served.stub.PostUserQueryUnary(query())
        for fields in ({"request_id": "r"}, {"request_id": "r2"}, {"request_id": "r", "collection_name": "Other"}):
            failure = await failure_of(served.stub.CancelTurn(pb.CancelTurnRequest(id="a", **fields)))
            assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "TURN_NOT_FOUND")

    async def test_an_unknown_connection_is_reported(self, served: Served):
        request = pb.CancelTurnRequest(id="a", request_id="r", chat_storage_connection_setting="No")
        assert (await failure_of(served.stub.CancelTurn(request))).reason == "CONNECTION_NOT_CONFIGURED"


class TestRoundTrips:
    async def test_a_replay_from_azure_begins_after_two_round_trips(
        self, tmp_path: Path, account: Account, endpoint: Endpoint
    ):
        async with TableProxy(account) as proxy:
            variables = {"AzureWebJobsStorage": proxy.connection_string}
            async with server_with_assistant(tmp_path, endpoint.url, variables) as served:
                await served.stub.PostUserQueryUnary(query())
                proxy.exchanges.clear()
                arrived: list[asyncio.Event] = []

                async def second_pair(exchange: faults.Exchange) -> bytes | None:
                    """Answers the second and the third request only when both have arrived."""
                    arrived.append(asyncio.Event())
                    if len(arrived) == 3:
                        arrived[1].set()
                    elif len(arrived) == 2:
                        await arrived[1].wait()
                    return await exchange.forward()

                proxy.fault = faults.always(second_pair, lambda exchange: not exchange.is_probe)
                await served.stub.PostUserQueryUnary(query())
                assert len([exchange for exchange in proxy.exchanges if not exchange.is_probe]) == 3
        assert len(endpoint.calls) == 1

    async def test_a_turn_whose_outcome_was_lost_is_not_paid_for_twice(
        self, tmp_path: Path, account: Account, endpoint: Endpoint
    ):
        async with TableProxy(account) as proxy:
            variables = {"AzureWebJobsStorage": proxy.connection_string}
            async with server_with_assistant(tmp_path, endpoint.url, variables) as served:
                # The store has the turn, but no longer answers.
                proxy.fault = faults.lost_from(lambda exchange: exchange.is_commit)
                failure = await failure_of(served.stub.PostUserQueryUnary(query()))
                assert failure.reason == "STORE_UNAVAILABLE"
                proxy.fault = faults.none
                await served.stub.PostUserQueryUnary(query())
        assert len(endpoint.calls) == 1
