"""The exceptions of the library.

    PalaverError
     ├─ InvalidArgumentError      INVALID_ARGUMENT     the request is invalid; see `field_violations`
     ├─ NotFoundError             NOT_FOUND            the assistant does not exist, or the turn is not running
     ├─ AlreadyExistsError        ALREADY_EXISTS       the assistant exists already
     ├─ AbortedError              ABORTED              the call conflicted with another turn of the assistant
     ├─ FailedPreconditionError   FAILED_PRECONDITION  something must be changed before this can succeed
     ├─ ResourceExhaustedError    RESOURCE_EXHAUSTED   a limit of the server, the store or the model endpoint
     ├─ UnavailableError          UNAVAILABLE          the server, the store or the model endpoint can't be reached
     ├─ DeadlineExceededError     DEADLINE_EXCEEDED    the call reached its `timeout`, or the model was too slow
     ├─ CanceledError             CANCELLED            the call was canceled, or `cancel_turn` ended the turn
     ├─ DataLossError             DATA_LOSS            stored data is damaged
     ├─ InternalError             INTERNAL             the server failed, or its response can't be understood
     ├─ UnimplementedError        UNIMPLEMENTED        the server does not support the request
     ├─ UnauthenticatedError      UNAUTHENTICATED      the token is missing or wrong, or its function failed
     └─ PermissionDeniedError     PERMISSION_DENIED    the token does not allow this

A status without its own class (`UNKNOWN`, `OUT_OF_RANGE`) is a plain `PalaverError`. Arguments that can't be sent raise
`TypeError` or `ValueError` before any call. Canceling an asyncio task raises `asyncio.CancelledError`, as usual.
"""

from __future__ import annotations

from typing import NamedTuple

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

_DOMAIN = "palaver.v1"


class FieldViolation(NamedTuple):
    """One invalid field of a request.

    Attributes:
        field: The path of the field in the contract's request, such as "history.max_messages".
        description: What is wrong with the field and what is allowed.
    """

    field: str
    description: str


class PalaverError(Exception):
    """A call failed. This is the base class of all errors of the library.

    Attributes:
        message: A description for people to read. The wording may change; programs should check `reason` or the class.
        status: The gRPC status.
        reason: The exact reason: the name of a value of the contract's `ErrorReason` without its prefix, such as
            "ASSISTANT_NOT_FOUND". Empty if the error does not come from a Palaver server, for instance because the
            server can't be reached. Newer servers may send reasons that you don't know: fall back to the class then.
        field_violations: All invalid fields.
        retry_delay: The number of seconds after which the same request may succeed, or None if the server did not say.
    """

    def __init__(
        self,
        message: str,
        status: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        field_violations: tuple[FieldViolation, ...] = (),
        retry_delay: float | None = None,
    ) -> None:
        # All values are arguments of the base class, so that the exception can be pickled.
        super().__init__(message, status, reason, field_violations, retry_delay)
        self.message = message
        self.status = status
        self.reason = reason
        self.field_violations = field_violations
        self.retry_delay = retry_delay

    def __str__(self) -> str:
        return f"{self.message} ({', '.join(filter(None, (self.status.name, self.reason)))})"


class InvalidArgumentError(PalaverError):
    """The request is invalid; sending it again does not help. `field_violations` lists the invalid fields."""


class NotFoundError(PalaverError):
    """The assistant does not exist, or the turn is not running."""


class AlreadyExistsError(PalaverError):
    """The assistant exists already."""


class AbortedError(PalaverError):
    """The call conflicted with another turn of the assistant. Nothing was stored; try again after `retry_delay`."""


class FailedPreconditionError(PalaverError):
    """Something must be changed first: the server's settings, an account, or the length of the conversation."""


class ResourceExhaustedError(PalaverError):
    """A limit of the server, the store or the model endpoint was reached."""


class UnavailableError(PalaverError):
    """The server, its store or the model endpoint failed or can't be reached. Trying again may help."""


class DeadlineExceededError(PalaverError):
    """The call reached its `timeout`, or the model took longer than the server's settings allow."""


class CanceledError(PalaverError):
    """The program canceled the call, or `cancel_turn` ended the turn."""


class DataLossError(PalaverError):
    """Stored data is damaged. An operator must restore it."""


class InternalError(PalaverError):
    """The server failed, or its response can't be understood."""


class UnimplementedError(PalaverError):
    """The server does not support the request."""


class UnauthenticatedError(PalaverError):
    """The token is missing or wrong, or the client's token function failed: then its exception is `__cause__`."""


class PermissionDeniedError(PalaverError):
    """The token does not allow this call."""


_CLASS_BY_STATUS: dict[grpc.StatusCode, type[PalaverError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.ABORTED: AbortedError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CanceledError,
    grpc.StatusCode.DATA_LOSS: DataLossError,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
}


def from_rpc_error(error: grpc.RpcError) -> PalaverError:
    """Converts an error of gRPC, synchronous or asynchronous, including its details."""
    status = error.code()
    message = error.details() or "the call failed without a message"
    return _CLASS_BY_STATUS.get(status, PalaverError)(message, status, *_unpack_details(error))


def _unpack_details(error: grpc.RpcError) -> tuple[str, tuple[FieldViolation, ...], float | None]:
    """Returns the reason, the field violations and the retry delay of an error."""
    reason = ""
    violations: tuple[FieldViolation, ...] = ()
    retry_delay: float | None = None
    try:
        rich = rpc_status.from_call(error)  # type: ignore[arg-type]  # an error has all that it needs
        for detail in rich.details if rich else ():
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo.FromString(detail.value)
                reason = info.reason if info.domain == _DOMAIN else ""
            elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                bad_request = error_details_pb2.BadRequest.FromString(detail.value)
                violations = tuple(FieldViolation(v.field, v.description) for v in bad_request.field_violations)
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
                retry_delay = delay.seconds + delay.nanos / 1e9
    except (DecodeError, ValueError):
        # A proxy has tampered with the status, so none of its details can be trusted.
        return "", (), None
    return reason, violations, retry_delay


def malformed_response(problem: str) -> InternalError:
    """Returns the error for a response that breaks the contract."""
    return InternalError(f"the server's response can't be understood: {problem}", grpc.StatusCode.INTERNAL)


def call_canceled() -> CanceledError:
    """Returns the error for a call that the program itself has canceled."""
    return CanceledError("the call was canceled", grpc.StatusCode.CANCELLED)


def deadline_exceeded() -> DeadlineExceededError:
    """Returns the error for a call whose timeout expired before it was sent."""
    return DeadlineExceededError("the timeout of the call expired", grpc.StatusCode.DEADLINE_EXCEEDED)


def token_failed(error: Exception) -> UnauthenticatedError:
    """Returns the error for a call that was not sent because the token function failed."""
    description = str(error) or type(error).__name__
    return UnauthenticatedError(f"the token function failed: {description}", grpc.StatusCode.UNAUTHENTICATED)


def reply_restarted() -> UnavailableError:
    """Returns the error for reading only the text of a reply that restarts: delivered text can't be taken back."""
    return UnavailableError(
        "the connection broke, and the turn ran again with a different reply", grpc.StatusCode.UNAVAILABLE
    )
