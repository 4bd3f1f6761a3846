"""The errors that a caller can receive, as exceptions without gRPC.

    PalaverError
     ├─ FieldError              the request itself
     │   ├─ InvalidFields
     │   └─ PermissionDenied
     ├─ Unauthenticated         the caller
     │   └─ IssuerUnavailable
     ├─ QuotaExceeded
     ├─ AssistantNotFound       the assistant
     ├─ AssistantExists
     ├─ AssistantBusy
     ├─ RequestIdReused         the turn
     ├─ TurnNotFound
     ├─ TurnCancelled
     ├─ TurnTooLarge
     ├─ TooManyTurns            the server
     ├─ SlowTransfers
     ├─ ConnectionNotConfigured
     ├─ ShuttingDown
     ├─ ModelError              the model's endpoint
     │   ├─ ModelRejectedRequest
     │   ├─ ModelNotFound
     │   ├─ ModelContentFiltered
     │   ├─ ContextLengthExceeded
     │   ├─ ModelCredentialsRejected
     │   ├─ ModelQuotaExhausted
     │   ├─ ModelRateLimited
     │   ├─ ModelUnavailable
     │   ├─ ModelStreamBroken
     │   └─ ModelTimeout
     └─ StoreError              the store
         ├─ ConcurrentWrite
         ├─ ConversationFull
         ├─ StoreFull
         ├─ StoreCredentialsRejected
         ├─ StoreUnavailable
         └─ StoreCorrupt

`reason` is the name of the contract's `ErrorReason` without its prefix. Callers read the text of an exception, so it
contains no secret and no address of an endpoint. `api.statuses` maps each reason to a gRPC status.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from palaver_server.domain.limits import MAX_MESSAGES

DEFAULT_RETRY_DELAY = 1.0
"""Seconds to wait before a retry if neither the endpoint nor the store named a time."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """An invalid field: its path in the request, and a description of what is wrong and what is allowed.

    The path is empty if the request as a whole is meant.
    """

    field: str
    description: str

    def __str__(self) -> str:
        return f"{self.field}: {self.description}" if self.field else self.description


class PalaverError(Exception):
    """The base class of all errors that a caller can receive."""

    reason: ClassVar[str]
    log_text: str
    """The text for the log, which quotes neither the request nor an endpoint: both may quote a message."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.log_text = message


class RetryableError(PalaverError):
    """An error that is worth retrying."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """The seconds to wait before a retry, as the endpoint or the store named them, or None."""

    @property
    def retry_delay(self) -> float:
        """The seconds that the caller should wait before a retry."""
        return DEFAULT_RETRY_DELAY if self.retry_after is None else self.retry_after


class FieldError(PalaverError):
    """Fields of the request are the reason for the error, which names all of them."""

    def __init__(self, *violations: FieldViolation) -> None:
        super().__init__("; ".join(map(str, violations)))
        self.violations = violations
        self.log_text = ", ".join(violation.field or "the request" for violation in violations)


class InvalidFields(FieldError):
    """Fields of the request are invalid."""

    reason = "INVALID_FIELD"


class PermissionDenied(FieldError):
    """The caller has no right to do what it asks for."""

    reason = "PERMISSION_DENIED"


class Unauthenticated(PalaverError):
    """The request has no valid credentials."""

    reason = "UNAUTHENTICATED"


class IssuerUnavailable(RetryableError, Unauthenticated):
    """The token can't be checked at the moment, because the keys of its issuer can't be fetched."""


class QuotaExceeded(RetryableError):
    """The caller runs as many turns as its limits allow."""

    reason = "QUOTA_EXCEEDED"


class AssistantNotFound(PalaverError):
    """The collection has no assistant with this id."""

    reason = "ASSISTANT_NOT_FOUND"

    def __init__(self, assistant_id: str, collection: str) -> None:
        super().__init__(f'there is no assistant "{assistant_id}" in the collection "{collection}"')


class AssistantExists(PalaverError):
    """The collection already has an assistant with this id."""

    reason = "ASSISTANT_EXISTS"

    def __init__(self, assistant_id: str, collection: str) -> None:
        super().__init__(
            f'the assistant "{assistant_id}" already exists in the collection "{collection}"; '
            "set if_exists to keep or reset it"
        )


class AssistantBusy(RetryableError):
    """Other turns of the assistant are ahead of this one, and the wait has timed out or the queue is full."""

    reason = "ASSISTANT_BUSY"


class TooManyTurns(RetryableError):
    """The server is running as many turns as its settings allow."""

    reason = "TOO_MANY_TURNS"


class SlowTransfers(RetryableError):
    """Peers send requests or read responses so slowly that the server can't hold more of them."""

    reason = "QUOTA_EXCEEDED"


class ConnectionNotConfigured(PalaverError):
    """The server has no connection with this name."""

    reason = "CONNECTION_NOT_CONFIGURED"


class ShuttingDown(RetryableError):
    """The server is stopping and accepts no more turns."""

    reason = "SHUTTING_DOWN"


class RequestIdReused(PalaverError):
    """The `request_id` was already used by a different request."""

    reason = "REQUEST_ID_REUSED"


class TurnNotFound(PalaverError):
    """The turn is not running."""

    reason = "TURN_NOT_FOUND"


class TurnCancelled(PalaverError):
    """The turn was cancelled."""

    reason = "TURN_CANCELLED"


class TurnTooLarge(PalaverError):
    """The turn exceeds the limits of what can be stored."""

    reason = "TURN_TOO_LARGE"


class ModelError(PalaverError):
    """The endpoint of the model refused the call or failed."""


class ModelRejectedRequest(ModelError):
    """The endpoint refused the request."""

    reason = "MODEL_REJECTED_REQUEST"


class ModelNotFound(ModelError):
    """The endpoint does not know the model."""

    reason = "MODEL_NOT_FOUND"


class ModelContentFiltered(ModelError):
    """The endpoint's content filter refused the prompt."""

    reason = "MODEL_CONTENT_FILTERED"


class ContextLengthExceeded(ModelError):
    """The prompt is longer than the model's context."""

    reason = "CONTEXT_LENGTH_EXCEEDED"


class ModelCredentialsRejected(ModelError):
    """The endpoint refused the server's credentials."""

    reason = "MODEL_CREDENTIALS_REJECTED"


class ModelQuotaExhausted(ModelError):
    """The account that the credentials belong to has used up its quota."""

    reason = "MODEL_QUOTA_EXHAUSTED"


class ModelRateLimited(RetryableError, ModelError):
    """The endpoint throttles calls."""

    reason = "MODEL_RATE_LIMITED"


class ModelUnavailable(RetryableError, ModelError):
    """The endpoint could not be reached, or failed before it began its reply."""

    reason = "MODEL_UNAVAILABLE"


class ModelStreamBroken(RetryableError, ModelError):
    """The endpoint ended its reply early, or sent data that can't be parsed."""

    reason = "MODEL_STREAM_BROKEN"


class ModelTimeout(ModelError):
    """The endpoint took longer than the settings allow."""

    reason = "MODEL_TIMEOUT"


class StoreError(PalaverError):
    """The store refused the call or failed."""


class ConcurrentWrite(RetryableError, StoreError):
    """Another writer changed the conversation after it was read."""

    reason = "CONCURRENT_WRITE"


class ConversationFull(StoreError):
    """The conversation has as many messages as it can hold."""

    reason = "CONVERSATION_FULL"

    def __init__(self) -> None:
        super().__init__(f"a conversation holds at most {MAX_MESSAGES:,} messages")


class StoreFull(StoreError):
    """The store has no space left."""

    reason = "STORE_FULL"


class StoreCredentialsRejected(StoreError):
    """The store refused the server's credentials."""

    reason = "STORE_CREDENTIALS_REJECTED"


class StoreUnavailable(RetryableError, StoreError):
    """The store could not be reached, or failed."""

    reason = "STORE_UNAVAILABLE"


class StoreCorrupt(StoreError):
    """Stored data is damaged."""

    reason = "STORE_CORRUPT"
