"""Callers that send slowly or don't read can't fill the server, and don't harm those at other addresses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from palaver.v1 import assistant_service_pb2 as pb
from palaver_server.transports import grpc as transport
from palaver_server.transports import transfers
from tests.support.palaver_server import Served, server_with_assistant
from tests.support.statuses import Failure, failure_of

LIST = "/palaver.v1.AssistantService/ListMessages"
GET = pb.GetAssistantRequest(id="a")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """A server with an assistant whose messages take almost a mebibyte."""
    async with server_with_assistant(tmp_path, offline_model=True, instructions="é" * 450_000) as running:
        yield running


def assert_is_slow_transfer(failure: Failure) -> None:
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert failure.retry_delay is not None


@pytest.fixture
async def lazy(served: Served) -> AsyncIterator[grpc.aio.Channel]:
    """A channel that takes no more of a response than its caller reads."""
    options = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
    async with grpc.aio.insecure_channel(served.target, options) as channel:
        yield channel


class TestResponses:
    async def unread(self, lazy: grpc.aio.Channel, count: int) -> list[grpc.aio.UnaryStreamCall[bytes, bytes]]:
        """Lists the messages a number of times, and reads none of the responses."""
        calls = []
        for _ in range(count):
            # On the wire, a unary call is a stream with one response. Only of a stream can a client leave it unread.
            call = lazy.unary_stream(LIST)(pb.ListMessagesRequest(id="a").SerializeToString())
            await call.initial_metadata()
            calls.append(call)
        return calls

    async def test_responses_beyond_the_limit_are_refused_until_the_earlier_ones_are_read(
        self, served: Served, lazy: grpc.aio.Channel
    ):
        calls = await self.unread(lazy, 40)
        failure = await failure_of(served.stub.ListMessages(pb.ListMessagesRequest(id="a")))
        assert_is_slow_transfer(failure)
        assert "this address has yet to read" in failure.text
        assert (await served.stub.GetAssistant(GET)).assistant.id == "a"
        codes = [await self.read(call) for call in calls]
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert codes == sorted(codes, key=lambda code: code is not grpc.StatusCode.OK)
        assert (await served.stub.ListMessages(pb.ListMessagesRequest(id="a"))).messages[0].content == "é" * 450_000

    async def read(self, call: grpc.aio.UnaryStreamCall[bytes, bytes]) -> grpc.StatusCode:
        """Reads a response and returns the status of its call."""
        with suppress(grpc.aio.AioRpcError):
            assert len(await call.read()) > 900_000
            assert await call.read() is grpc.aio.EOF
        return await call.code()

    async def test_a_caller_that_leaves_makes_room(self, served: Served, lazy: grpc.aio.Channel):
        for call in await self.unread(lazy, 40):
            call.cancel()
        # The server sees soon that they are gone.
        while (failure := await self.listing(served)) is not None:
            assert failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def listing(self, served: Served) -> grpc.aio.AioRpcError | None:
        """Lists the messages and returns the error of the call, if it has one."""
        try:
            await served.stub.ListMessages(pb.ListMessagesRequest(id="a"))
        except grpc.aio.AioRpcError as error:
            return error
        return None

    async def test_all_callers_together_have_a_limit_too(
        self, served: Served, lazy: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(transfers, "MAX_UNREAD_BYTES", 16_000_000)
        calls = await self.unread(lazy, 40)
        failure = await failure_of(served.stub.ListMessages(pb.ListMessagesRequest(id="a")))
        assert_is_slow_transfer(failure)
        assert "callers have yet to read" in failure.text
        assert not all(call.done() for call in calls)

    async def test_a_response_larger_than_all_limits_is_sent_when_nothing_else_waits(
        self, served: Served, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(transfers, "MAX_UNREAD_BYTES", 100_000)
        monkeypatch.setattr(transfers, "MAX_ADDRESS_UNREAD_BYTES", 100_000)
        assert (await served.stub.ListMessages(pb.ListMessagesRequest(id="a"))).messages[0].content == "é" * 450_000


class TestRequests:
    async def test_metadata_that_is_no_text_is_not_logged(self, served: Served, caplog: pytest.LogCaptureFixture):
        # No client of gRPC sends such metadata. This is how gRPC logs it.
        transport.GRPC_LOGGER.error("Invalid encoding on %s", b"Bearer secret-\xff")
        transport.GRPC_LOGGER.error("something else")
        assert "secret" not in caplog.text
        assert "something else" in caplog.text

    async def test_metadata_beyond_the_limit_is_refused(self, served: Served):
        assert (await served.stub.GetAssistant(GET, metadata=(("x-note", "x" * 15_000),))).assistant.id == "a"
        for metadata in ((("x-note", "x" * 17_000),), tuple((f"x-{n}", "x" * 100) for n in range(120))):
            failure = await failure_of(served.stub.GetAssistant(GET, metadata=metadata))
            assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED

    def begin(self, served: Served) -> grpc.aio.StreamUnaryCall[bytes, bytes]:
        """Begins a call whose request never arrives."""

        async def nothing() -> AsyncIterator[bytes]:
            await asyncio.Event().wait()
            yield b""

        return served.channel.stream_unary("/palaver.v1.AssistantService/GetAssistant")(nothing())

    async def test_a_request_that_does_not_arrive_is_ended(self, served: Served, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(transfers, "RECEIVE_TIMEOUT", 0.05)
        failure = await failure_of(self.begin(served))
        assert_is_slow_transfer(failure)
        assert "0.05 seconds" in failure.text

    @pytest.mark.parametrize("limit", ["MAX_ADDRESS_RECEIVING", "MAX_RECEIVING"])
    async def test_of_too_many_requests_those_that_arrive_longest_are_ended(
        self, served: Served, monkeypatch: pytest.MonkeyPatch, limit: str
    ):
        monkeypatch.setattr(transfers, limit, 5)
        waiting = [asyncio.ensure_future(failure_of(self.begin(served))) for _ in range(8)]
        for failed in asyncio.as_completed(waiting):
            assert_is_slow_transfer(await failed)
            if sum(call.done() for call in waiting) >= 3:
                break
        for _ in range(20):
            assert (await served.stub.GetAssistant(GET)).assistant.id == "a"
        # At most one more was ended, for the first of these calls.
        going_on = [call for call in waiting if not call.done()]
        assert len(going_on) >= 4
        for call in going_on:
            call.cancel()
        await asyncio.wait(waiting)

    async def test_a_call_without_a_request_is_invalid(self, served: Served):
        async def nothing() -> AsyncIterator[bytes]:
            for item in ():
                yield item

        call = served.channel.stream_unary("/palaver.v1.AssistantService/GetAssistant")(nothing())
        failure = await failure_of(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
