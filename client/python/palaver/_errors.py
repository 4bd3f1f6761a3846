"""What can go wrong, as exceptions.

    PalaverError
     ├─ InvalidArgumentError      INVALID_ARGUMENT     the request is wrong; `field_violations` says where
     ├─ NotFoundError             NOT_FOUND            there is no such assistant, or no such running turn
     ├─ AlreadyExistsError        ALREADY_EXISTS       the assistant exists
     ├─ AbortedError              ABORTED              another turn of the assistant is in the way
     ├─ FailedPreconditionError   FAILED_PRECONDITION  somebody must change something before this can succeed
     ├─ ResourceExhaustedError    RESOURCE_EXHAUSTED   a limit of the server, the store or the model's endpoint
     ├─ UnavailableError          UNAVAILABLE          the server, the store or the model's endpoint can't be reached
     ├─ DeadlineExceededError     DEADLINE_EXCEEDED    the `timeout` of the call passed, or the model was too slow
     ├─ CanceledError             CANCELLED            the call was canceled, or the turn ended by `cancel_turn`
     ├─ DataLossError             DATA_LOSS            what is stored is damaged
     ├─ InternalError             INTERNAL             the server failed, or its reply can't be understood
     ├─ UnimplementedError        UNIMPLEMENTED        the server does not have what the request asks for
     ├─ UnauthenticatedError      UNAUTHENTICATED      the token is missing or wrong
     └─ PermissionDeniedError     PERMISSION_DENIED    the token does not allow this

A status without a class of its own (`UNKNOWN`, `OUT_OF_RANGE`) is a plain `PalaverError`. Arguments that can't be sent
at all raise `TypeError` or `ValueError`, before any call. The cancellation of an asyncio task is no error of this tree:
it stays `asyncio.CancelledError`.
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
        field: Its path in the contract's request, for instance "history.max_messages".
        description: What is wrong with it and what is allowed.
    """

    field: str
    description: str


class PalaverError(Exception):
    """A call failed. This is the base of all errors of the library.

    Attributes:
        message: What happened, for people to read. The wording may change; go by `reason` and the class.
        status: The gRPC status.
        reason: The exact reason: the name of a value of the contract's `ErrorReason` without its prefix, for instance
            "ASSISTANT_NOT_FOUND". Empty when the error does not come from a Palaver server, for instance because there
            is none. Expect reasons that you do not know, and go by the class then.
        field_violations: The invalid fields, all of them.
        retry_delay: After how many seconds the same request may succeed; None where the server gives no such hint.
    """

    def __init__(
        self,
        message: str,
        status: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        field_violations: tuple[FieldViolation, ...] = (),
        retry_delay: float | None = None,
    ) -> None:
        # All of them are args of the exception, which makes it survive pickling between processes.
        super().__init__(message, status, reason, field_violations, retry_delay)
        self.message = message
        self.status = status
        self.reason = reason
        self.field_violations = field_violations
        self.retry_delay = retry_delay

    def __str__(self) -> str:
        return f"{self.message} ({', '.join(filter(None, (self.status.name, self.reason)))})"


class InvalidArgumentError(PalaverError):
    """The request is wrong; sending it again is of no use. `field_violations` names the bad fields."""


class NotFoundError(PalaverError):
    """There is no such assistant, or no such running turn."""


class AlreadyExistsError(PalaverError):
    """The assistant exists already."""


class AbortedError(PalaverError):
    """Another turn of the assistant was in the way. Nothing is stored; try again after `retry_delay`."""


class FailedPreconditionError(PalaverError):
    """Somebody must change something first: the server's settings, an account, or the length of the conversation."""


class ResourceExhaustedError(PalaverError):
    """A limit was reached: of the server, of the store or of the model's endpoint."""


class UnavailableError(PalaverError):
    """The server, its store or the model's endpoint can't be reached or failed. Trying again may help."""


class DeadlineExceededError(PalaverError):
    """The `timeout` of the call passed, or the model took longer than the server's settings allow."""


class CanceledError(PalaverError):
    """The call was canceled by the program itself, or the turn was ended by `cancel_turn`."""


class DataLossError(PalaverError):
    """What is stored is damaged. An operator must restore it."""


class InternalError(PalaverError):
    """The server failed, or what it sent can't be understood."""


class UnimplementedError(PalaverError):
    """The server does not have what the request asks for."""


class UnauthenticatedError(PalaverError):
    """The token is missing or wrong."""


class PermissionDeniedError(PalaverError):
    """The token does not allow this call."""


_CLASSES: dict[grpc.StatusCode, type[PalaverError]] = {
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
    """Returns the exception for an error of gRPC's, synchronous or asynchronous, with the details that came with it."""
    status = error.code()
    message = error.details() or "the call failed without a message"
    return _CLASSES.get(status, PalaverError)(message, status, *_read_details(error))


def _read_details(error: grpc.RpcError) -> tuple[str, tuple[FieldViolation, ...], float | None]:
    """Returns reason, field violations and retry delay."""
    reason = ""
    violations: tuple[FieldViolation, ...] = ()
    retry_delay: float | None = None
    try:
        rich = rpc_status.from_call(error)  # type: ignore[arg-type]  # it needs no more than an error has
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
        # Something between us and the server has changed the status: its code is right, its details are not ours.
        return "", (), None
    return reason, violations, retry_delay


def malformed(what: str) -> InternalError:
    """Returns the exception for a reply that breaks the contract: `what` says in which way."""
    return InternalError(f"the server's reply can't be understood: {what}", grpc.StatusCode.INTERNAL)


def canceled() -> CanceledError:
    """Returns the exception for whoever goes on reading a reply that the program itself has canceled."""
    return CanceledError("the call was canceled", grpc.StatusCode.CANCELLED)


def begun_anew() -> UnavailableError:
    """Returns the exception for whoever reads the text alone, which can't be taken back."""
    return UnavailableError(
        "the connection broke, and the turn had to run anew with another reply", grpc.StatusCode.UNAVAILABLE
    )
