"""The conversion of errors to `google.rpc.Status`. The table in this module alone decides the code of an error."""

from __future__ import annotations

import logging
import secrets

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from palaver_server.domain.errors import FieldError, PalaverError, RetryableError
from palaver_server.domain.redaction import redacted

logger = logging.getLogger(__name__)

DOMAIN = "palaver.v1"

MAX_TEXT_BYTES = 1000
"""The maximum size of a status text. It is sent in a trailer, and clients refuse trailers of more than about 8 KiB."""

MAX_VIOLATIONS = 20

CODES = {
    "INVALID_FIELD": code_pb2.INVALID_ARGUMENT,
    "REQUEST_ID_REUSED": code_pb2.INVALID_ARGUMENT,
    "MODEL_REJECTED_REQUEST": code_pb2.INVALID_ARGUMENT,
    "MODEL_NOT_FOUND": code_pb2.INVALID_ARGUMENT,
    "MODEL_CONTENT_FILTERED": code_pb2.INVALID_ARGUMENT,
    "ASSISTANT_NOT_FOUND": code_pb2.NOT_FOUND,
    "TURN_NOT_FOUND": code_pb2.NOT_FOUND,
    "ASSISTANT_EXISTS": code_pb2.ALREADY_EXISTS,
    "ASSISTANT_BUSY": code_pb2.ABORTED,
    "CONCURRENT_WRITE": code_pb2.ABORTED,
    "CONNECTION_NOT_CONFIGURED": code_pb2.FAILED_PRECONDITION,
    "CONTEXT_LENGTH_EXCEEDED": code_pb2.FAILED_PRECONDITION,
    "CONVERSATION_FULL": code_pb2.FAILED_PRECONDITION,
    "MODEL_QUOTA_EXHAUSTED": code_pb2.FAILED_PRECONDITION,
    "MODEL_CREDENTIALS_REJECTED": code_pb2.FAILED_PRECONDITION,
    "STORE_CREDENTIALS_REJECTED": code_pb2.FAILED_PRECONDITION,
    "MODEL_RATE_LIMITED": code_pb2.RESOURCE_EXHAUSTED,
    "TOO_MANY_TURNS": code_pb2.RESOURCE_EXHAUSTED,
    "STORE_FULL": code_pb2.RESOURCE_EXHAUSTED,
    "TURN_TOO_LARGE": code_pb2.RESOURCE_EXHAUSTED,
    "MODEL_UNAVAILABLE": code_pb2.UNAVAILABLE,
    "MODEL_STREAM_BROKEN": code_pb2.UNAVAILABLE,
    "STORE_UNAVAILABLE": code_pb2.UNAVAILABLE,
    "SHUTTING_DOWN": code_pb2.UNAVAILABLE,
    "MODEL_TIMEOUT": code_pb2.DEADLINE_EXCEEDED,
    "TURN_CANCELLED": code_pb2.CANCELLED,
    "STORE_CORRUPT": code_pb2.DATA_LOSS,
    "INTERNAL": code_pb2.INTERNAL,
    "UNAUTHENTICATED": code_pb2.UNAUTHENTICATED,
    "PERMISSION_DENIED": code_pb2.PERMISSION_DENIED,
    "QUOTA_EXCEEDED": code_pb2.RESOURCE_EXHAUSTED,
}


def status_name(error: BaseException | None) -> str:
    """Returns the name of the gRPC code for the outcome of a call or of a turn. None stands for its success."""
    if error is None:
        return "OK"
    if isinstance(error, PalaverError):
        return str(code_pb2.Code.Name(CODES[error.reason]))
    return "INTERNAL" if isinstance(error, Exception) else "CANCELLED"


def status_of(error: Exception) -> status_pb2.Status:
    """Returns the status for an error.

    An unexpected error is logged with an incident id. The caller receives only the id, because the text of the error
    may contain anything.
    """
    if isinstance(error, PalaverError):
        return _status(error.reason, str(error), *_details(error))
    incident = secrets.token_hex(6)
    logger.error("internal error; incident %s", incident, exc_info=error)
    return _status("INTERNAL", f"internal error; incident {incident}")


def _details(error: PalaverError) -> list[Message]:
    details: list[Message] = []
    if isinstance(error, FieldError):
        bad_request = error_details_pb2.BadRequest()
        for violation in error.violations[:MAX_VIOLATIONS]:
            bad_request.field_violations.add(field=violation.field, description=_told(violation.description))
        details.append(bad_request)
    if isinstance(error, RetryableError):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_delay * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return details


def _status(reason: str, text: str, *details: Message) -> status_pb2.Status:
    status = status_pb2.Status(code=CODES[reason], message=_told(text))
    for detail in (error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN), *details):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _told(text: str) -> str:
    """Returns a text as callers may read it: short, and without secrets."""
    # Cut a first time before the search for secrets, which takes its time, and behind where a secret could be cut.
    text = redacted(text[: 4 * MAX_TEXT_BYTES])
    encoded = text.encode()
    if len(encoded) <= MAX_TEXT_BYTES:
        return text
    return encoded[: MAX_TEXT_BYTES - 3].decode(errors="ignore") + "…"
