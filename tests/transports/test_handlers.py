"""The guarded chain: every failure within it reaches the caller as the error table says, and in no other way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest

from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub
from palaver_server.api.service import SERVICE, AssistantApi, Call
from palaver_server.domain.errors import AssistantBusy, FieldViolation, InvalidFields
from palaver_server.domain.turns import Caller
from palaver_server.engine.chat import ChatEngine
from palaver_server.transports.grpc import listener
from palaver_server.transports.handlers import Interceptor, assistant_service
from tests.support.chat_engine import chat_engine
from tests.support.endpoint import Endpoint
from tests.support.statuses import Failure, failure_of

SECRET = "sk-secret-in-the-exception"


class RecordingEngine(ChatEngine):
    """An engine that remembers its callers."""

    callers: list[Caller]

    async def get_assistant(self, caller, key):
        self.callers.append(caller)
        return await super().get_assistant(caller, key)

    def post(self, caller, query, time_remaining=None):
        self.callers.append(caller)
        return super().post(caller, query, time_remaining)


@pytest.fixture
async def engine(tmp_path: Path, endpoint: Endpoint) -> AsyncIterator[RecordingEngine]:
    async with chat_engine(tmp_path, endpoint, kind=RecordingEngine) as running:
        running.callers = []
        yield running


@asynccontextmanager
async def serving(engine: ChatEngine, *interceptors: Interceptor) -> AsyncIterator[AssistantServiceStub]:
    async with (
        listener([assistant_service(AssistantApi(engine))], "127.0.0.1:0", interceptors=interceptors) as listening,
        grpc.aio.insecure_channel(f"127.0.0.1:{listening.port}") as channel,
    ):
        yield AssistantServiceStub(channel)


def failing_at_the_start(error: Exception) -> Interceptor:
    @asynccontextmanager
    async def interceptor(_call: Call) -> AsyncIterator[None]:
        raise error
        yield

    return interceptor


def failing_at_the_end(error: Exception) -> Interceptor:
    @asynccontextmanager
    async def interceptor(_call: Call) -> AsyncIterator[None]:
        yield
        raise error

    return interceptor


def failing_before_it_is_entered(error: Exception) -> Interceptor:
    def interceptor(_call: Call):
        raise error

    return interceptor


async def failures(stub: AssistantServiceStub) -> Sequence[Failure]:
    """Makes a unary and a streaming call, both of which must fail."""
    await stub.CreateAssistant(pb.CreateAssistantRequest(id="a"))

    async def stream() -> None:
        async for _ in stub.PostUserQuery(pb.PostUserQueryRequest(id="a", user_message="Hello")):
            pass

    return await failure_of(stub.GetAssistant(pb.GetAssistantRequest(id="a"))), await failure_of(stream())


def except_creating(interceptor: Interceptor) -> Interceptor:
    @asynccontextmanager
    async def chosen(call: Call) -> AsyncIterator[None]:
        if call.method.endswith("/CreateAssistant"):
            yield
        else:
            async with interceptor(call):
                yield

    return chosen


FAILING = [failing_at_the_start, failing_at_the_end, failing_before_it_is_entered]


@pytest.mark.parametrize("failing", FAILING)
async def test_an_unexpected_exception_of_an_interceptor_is_internal_and_does_not_reveal_its_text(
    engine: RecordingEngine, failing: Callable[[Exception], Interceptor]
):
    async with serving(engine, except_creating(failing(RuntimeError(SECRET)))) as stub:
        for failure in await failures(stub):
            assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
            assert failure.text.startswith("internal error; incident ")
            assert SECRET not in failure.text


@pytest.mark.parametrize("failing", FAILING)
async def test_an_error_of_an_interceptor_has_the_status_and_the_details_of_the_table(
    engine: RecordingEngine, failing: Callable[[Exception], Interceptor]
):
    async with serving(engine, except_creating(failing(AssistantBusy("not now", retry_after=7)))) as stub:
        for failure in await failures(stub):
            assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, "ASSISTANT_BUSY")
            assert (failure.text, failure.retry_delay) == ("not now", 7)
    async with serving(engine, failing(InvalidFields(FieldViolation("token", "is missing")))) as stub:
        failure = await failure_of(stub.GetAssistant(pb.GetAssistantRequest(id="a")))
        assert (failure.reason, failure.violations) == ("INVALID_FIELD", {"token": "is missing"})


async def test_an_inner_interceptor_fails_inside_the_outer_ones(engine: RecordingEngine):
    seen: list[str] = []

    @asynccontextmanager
    async def outer(call: Call) -> AsyncIterator[None]:
        try:
            yield
        except RuntimeError as error:
            seen.append(f"{call.method.rpartition('/')[2]}: {error}")
            raise

    async with serving(engine, outer, except_creating(failing_at_the_start(RuntimeError(SECRET)))) as stub:
        for failure in await failures(stub):
            assert failure.reason == "INTERNAL"
    assert seen == [f"GetAssistant: {SECRET}", f"PostUserQuery: {SECRET}"]


async def test_a_call_whose_error_an_interceptor_suppresses_still_fails(engine: RecordingEngine):
    @asynccontextmanager
    async def suppressing(_call: Call) -> AsyncIterator[None]:
        with suppress(Exception):
            yield

    async with serving(engine, suppressing, failing_at_the_start(RuntimeError(SECRET))) as stub:
        query = pb.PostUserQueryRequest(id="a", user_message="Hello")
        for call in (stub.GetAssistant(pb.GetAssistantRequest(id="a")), stub.PostUserQuery(query).read()):
            failure = await failure_of(call)
            assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
            assert SECRET not in failure.text


class BrokenEngine(RecordingEngine):
    """An engine that fails with an exception of gRPC's own."""

    def post(self, caller, query, time_remaining=None):
        raise grpc.aio.UsageError(SECRET)


async def test_an_error_of_another_grpc_call_is_not_taken_for_a_caller_that_left(engine: RecordingEngine):
    engine.__class__ = BrokenEngine
    async with serving(engine) as stub:
        query = pb.PostUserQueryRequest(id="a", user_message="Hello")
        failure = await failure_of(stub.PostUserQuery(query).read())
        assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert SECRET not in failure.text


async def test_an_interceptor_comes_before_the_parser_and_sees_what_it_raises(engine: RecordingEngine):
    seen: list[str] = []

    @asynccontextmanager
    async def witness(call: Call) -> AsyncIterator[None]:
        seen.append(call.method)
        try:
            yield
        except InvalidFields as error:
            seen.append(str(error))
            raise

    async with (
        listener([assistant_service(AssistantApi(engine))], "127.0.0.1:0", interceptors=[witness]) as listening,
        grpc.aio.insecure_channel(f"127.0.0.1:{listening.port}") as channel,
    ):
        method = f"/{SERVICE.full_name}/GetAssistant"
        failure = await failure_of(channel.unary_unary(method)(b"\xff\xff"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert seen[0] == method
    assert "not a valid message" in seen[1]


async def test_an_interceptor_identifies_the_caller_from_the_metadata_of_the_call(engine: RecordingEngine):
    calls: list[Call] = []

    @asynccontextmanager
    async def authenticator(call: Call) -> AsyncIterator[None]:
        calls.append(call)
        call.caller = Caller(str(call.metadata["x-caller"]))
        yield

    async with serving(engine, authenticator) as stub:
        metadata = (("x-caller", "checkout"),)
        await stub.CreateAssistant(pb.CreateAssistantRequest(id="a"), metadata=metadata)
        await stub.GetAssistant(pb.GetAssistantRequest(id="a"), metadata=metadata, timeout=20)
        query = pb.PostUserQueryRequest(id="a", user_message="Hello")
        assert [event async for event in stub.PostUserQuery(query, metadata=metadata)][-1].HasField("completed")
    assert engine.callers == [Caller("checkout")] * 2
    assert all(call.peer.startswith("ipv4:127.0.0.1:") for call in calls)
    assert [call.time_remaining is None for call in calls] == [True, False, True]


async def test_a_caller_without_an_authenticator_is_anonymous(engine: RecordingEngine):
    async with serving(engine) as stub:
        await stub.CreateAssistant(pb.CreateAssistantRequest(id="a"))
        await stub.GetAssistant(pb.GetAssistantRequest(id="a"))
    assert engine.callers == [Caller("")]


async def test_every_method_of_the_contract_is_served(engine: RecordingEngine):
    async with (
        listener([assistant_service(AssistantApi(engine))], "127.0.0.1:0") as listening,
        grpc.aio.insecure_channel(f"127.0.0.1:{listening.port}") as channel,
    ):
        for method in SERVICE.methods:
            path = f"/{SERVICE.full_name}/{method.name}"
            if method.server_streaming:
                failure = await failure_of(channel.unary_stream(path)(b"").read())
            else:
                failure = await failure_of(channel.unary_unary(path)(b""))
            assert (failure.reason, "id" in failure.violations) == ("INVALID_FIELD", True), method.name
