"""Errors as gRPC statuses. This table is the only place that decides a status."""

from __future__ import annotations

import logging
import secrets

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from palaver_server.errors import InvalidFields, PalaverError, RetryableError

logger = logging.getLogger(__name__)

DOMAIN = "palaver.v1"
MAX_TEXT_BYTES = 1000
"""A status text travels in a trailer; clients refuse a response whose trailers have more than about 8 KiB."""

MAX_VIOLATIONS = 20

CODES = {
    "INVALID_FIELD": grpc.StatusCode.INVALID_ARGUMENT,
    "REQUEST_ID_REUSED": grpc.StatusCode.INVALID_ARGUMENT,
    "MODEL_REJECTED_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
    "MODEL_NOT_FOUND": grpc.StatusCode.INVALID_ARGUMENT,
    "MODEL_CONTENT_FILTERED": grpc.StatusCode.INVALID_ARGUMENT,
    "ASSISTANT_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "TURN_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "ASSISTANT_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "ASSISTANT_BUSY": grpc.StatusCode.ABORTED,
    "CONCURRENT_WRITE": grpc.StatusCode.ABORTED,
    "CONNECTION_NOT_CONFIGURED": grpc.StatusCode.FAILED_PRECONDITION,
    "CONTEXT_LENGTH_EXCEEDED": grpc.StatusCode.FAILED_PRECONDITION,
    "CONVERSATION_FULL": grpc.StatusCode.FAILED_PRECONDITION,
    "MODEL_QUOTA_EXHAUSTED": grpc.StatusCode.FAILED_PRECONDITION,
    "MODEL_CREDENTIALS_REJECTED": grpc.StatusCode.FAILED_PRECONDITION,
    "STORE_CREDENTIALS_REJECTED": grpc.StatusCode.FAILED_PRECONDITION,
    "MODEL_RATE_LIMITED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "TOO_MANY_TURNS": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "STORE_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "TURN_TOO_LARGE": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "MODEL_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "MODEL_STREAM_BROKEN": grpc.StatusCode.UNAVAILABLE,
    "STORE_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "SHUTTING_DOWN": grpc.StatusCode.UNAVAILABLE,
    "MODEL_TIMEOUT": grpc.StatusCode.DEADLINE_EXCEEDED,
    "TURN_CANCELLED": grpc.StatusCode.CANCELLED,
    "STORE_CORRUPT": grpc.StatusCode.DATA_LOSS,
    "INTERNAL": grpc.StatusCode.INTERNAL,
}


def status_of(error: Exception) -> grpc.Status:
    """Makes the status that tells a caller of an error.

    An error that is none of ours may hold anything, so the caller gets an incident id and the log the rest.
    """
    if isinstance(error, PalaverError):
        return _status(error.reason, str(error), *_details(error))
    incident = secrets.token_hex(6)
    logger.error("internal error; incident %s", incident, exc_info=error)
    return _status("INTERNAL", f"internal error; incident {incident}")


def _details(error: PalaverError) -> list[Message]:
    details: list[Message] = []
    if isinstance(error, InvalidFields):
        bad_request = error_details_pb2.BadRequest()
        for violation in error.violations[:MAX_VIOLATIONS]:
            bad_request.field_violations.add(field=violation.field, description=violation.description)
        details.append(bad_request)
    if isinstance(error, RetryableError):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_delay * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return details


def _status(reason: str, text: str, *details: Message) -> grpc.Status:
    status = status_pb2.Status(code=CODES[reason].value[0], message=_shorten(text))
    for detail in (error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN), *details):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return rpc_status.to_status(status)


def _shorten(text: str) -> str:
    encoded = text.encode()
    if len(encoded) <= MAX_TEXT_BYTES:
        return text
    return encoded[: MAX_TEXT_BYTES - 3].decode(errors="ignore") + "…"
