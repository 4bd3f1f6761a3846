"""Each status raises its exception, with all details. No error of gRPC reaches the caller."""

from __future__ import annotations

import pickle

import grpc
import pytest

import palaver
from palaver.v1 import assistant_service_pb2
from tests.support import replies
from tests.support.refusals import refusal
from tests.support.scripted_server import HANG, Failure

CLASSES = {
    grpc.StatusCode.INVALID_ARGUMENT: palaver.InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: palaver.NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: palaver.AlreadyExistsError,
    grpc.StatusCode.ABORTED: palaver.AbortedError,
    grpc.StatusCode.FAILED_PRECONDITION: palaver.FailedPreconditionError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: palaver.ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: palaver.UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: palaver.DeadlineExceededError,
    grpc.StatusCode.CANCELLED: palaver.CanceledError,
    grpc.StatusCode.DATA_LOSS: palaver.DataLossError,
    grpc.StatusCode.INTERNAL: palaver.InternalError,
    grpc.StatusCode.UNIMPLEMENTED: palaver.UnimplementedError,
    grpc.StatusCode.UNAUTHENTICATED: palaver.UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: palaver.PermissionDeniedError,
    grpc.StatusCode.UNKNOWN: palaver.PalaverError,
    grpc.StatusCode.OUT_OF_RANGE: palaver.PalaverError,
}


def test_the_table_covers_every_status():
    assert set(CLASSES) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize("status", CLASSES, ids=lambda status: status.name)
async def test_each_status_raises_its_exception_with_all_details(driver, server, status):
    failure = refusal(
        status,
        "SOME_REASON",
        "that went wrong",
        violations={"id": "must not be empty", "history.max_messages": "must be at most 65,535"},
        retry_delay=2.5,
        other_details=(replies.assistant(),),  # details of an unknown type are ignored
    )
    server.script("DeleteAssistant", failure)
    server.script("PostUserQuery", [replies.started(), failure])
    for call in (driver.call("delete_assistant", "support"), driver.post("support", "Hello!")):
        with pytest.raises(palaver.PalaverError) as caught:
            await call
        error = caught.value
        assert type(error) is CLASSES[status]
        assert error.status is status
        assert error.message == "that went wrong"
        assert error.reason == "SOME_REASON"
        assert error.field_violations == (
            palaver.FieldViolation("id", "must not be empty"),
            palaver.FieldViolation("history.max_messages", "must be at most 65,535"),
        )
        assert error.retry_delay == 2.5
        assert str(error) == f"that went wrong ({status.name}, SOME_REASON)"
        assert isinstance(error.__cause__, grpc.RpcError)


async def test_an_error_without_details(driver, server):
    server.script("DeleteAssistant", Failure(grpc.StatusCode.NOT_FOUND, "no such thing"))
    with pytest.raises(palaver.NotFoundError) as caught:
        await driver.call("delete_assistant", "support")
    error = caught.value
    assert (error.reason, error.field_violations, error.retry_delay) == ("", (), None)
    assert str(error) == "no such thing (NOT_FOUND)"


async def test_a_reason_of_another_domain_is_ignored(driver, server):
    server.script("DeleteAssistant", refusal(grpc.StatusCode.ABORTED, "BUSY", domain="proxy.example"))
    with pytest.raises(palaver.AbortedError) as caught:
        await driver.call("delete_assistant", "support")
    assert caught.value.reason == ""


@pytest.mark.parametrize("trailer", [b"\xff\xff", b"\x08\x05\x12\x05other"], ids=["unreadable", "contradictory"])
async def test_unreadable_details_do_not_hide_the_status(driver, server, trailer):
    class Broken(Failure):
        def end(self, context):
            context.set_trailing_metadata((("grpc-status-details-bin", trailer),))
            context.abort(self.status, self.message)

    server.script("DeleteAssistant", Broken(grpc.StatusCode.UNAVAILABLE, "no upstream"))
    with pytest.raises(palaver.UnavailableError, match="no upstream") as caught:
        await driver.call("delete_assistant", "support")
    assert caught.value.reason == ""


async def test_an_unreachable_server_is_unavailable(connect):
    driver = await connect("127.0.0.1:1", reconnect_timeout=0.5)
    for call in (driver.call("delete_assistant", "support"), driver.post("support", "Hello!")):
        with pytest.raises(palaver.UnavailableError) as caught:
            await call
        assert caught.value.reason == ""


async def test_a_deadline_ends_calls_and_replies(driver, server):
    server.script("DeleteAssistant", HANG)
    server.script("PostUserQuery", [replies.started(), HANG])
    for call in (driver.call("delete_assistant", "a", timeout=0.2), driver.post("a", "Hello!", timeout=0.2)):
        with pytest.raises(palaver.DeadlineExceededError):
            await call
    for call in server.calls:
        assert call.abandoned.wait(30)


@pytest.mark.parametrize(
    ("method", "rpc"),
    [
        ("create_assistant", "CreateAssistant"),
        ("get_assistant", "GetAssistant"),
        ("delete_assistant", "DeleteAssistant"),
        ("post_user_query_unary", "PostUserQueryUnary"),
    ],
)
async def test_an_unparsable_response_is_an_error(driver, server, method, rpc):
    server.script(rpc, b"\xff\xff\xff")
    arguments = ["support", "Hello!"] if method == "post_user_query_unary" else ["support"]
    with pytest.raises(palaver.InternalError):
        await driver.call(method, *arguments)


@pytest.mark.parametrize(
    ("method", "rpc"),
    [
        ("create_assistant", "CreateAssistant"),
        ("get_assistant", "GetAssistant"),
        ("post_user_query_unary", "PostUserQueryUnary"),
    ],
)
async def test_an_incomplete_response_is_an_error(driver, server, method, rpc):
    server.script(rpc, b"")
    arguments = ["support", "Hello!"] if method == "post_user_query_unary" else ["support"]
    with pytest.raises(palaver.InternalError, match="can't be understood"):
        await driver.call(method, *arguments)


async def test_a_time_out_of_range_is_an_error(driver, server):
    assistant = replies.assistant()
    assistant.create_time.seconds = 2**60
    server.script("GetAssistant", assistant_service_pb2.GetAssistantResponse(assistant=assistant))
    with pytest.raises(palaver.InternalError, match="out of range"):
        await driver.call("get_assistant", "support")


def test_errors_can_be_pickled():
    error = palaver.InvalidArgumentError(
        "bad", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", (palaver.FieldViolation("id", "empty"),), 1.5
    )
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is palaver.InvalidArgumentError
    assert vars(copy) == vars(error)
    assert str(copy) == "bad (INVALID_ARGUMENT, INVALID_FIELD)"
