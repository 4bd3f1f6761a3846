"""What can go wrong, as exceptions that know nothing of gRPC.

    PalaverError
     ├─ InvalidFields           the request itself
     ├─ AssistantNotFound       the assistant
     ├─ AssistantExists
     ├─ AssistantBusy
     ├─ RequestIdReused         the turn
     ├─ TurnNotFound
     ├─ TurnCancelled
     ├─ TurnTooLarge
     ├─ TooManyTurns            the server
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

`reason` is the name of the contract's `ErrorReason` without its prefix. The text of an exception is shown to callers:
it names no secret and no endpoint. `rpc.status` alone decides which gRPC status a reason becomes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

DEFAULT_RETRY_DELAY = 1.0
"""Seconds that a caller is told to wait where the endpoint or the store did not say."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One invalid field: its path in the request, and what is wrong and what is allowed."""

    field: str
    description: str


class PalaverError(Exception):
    """The root of all errors that a caller is told about."""

    reason: ClassVar[str]


class RetryableError(PalaverError):
    """An error that may be gone when the caller tries again."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds to wait as the endpoint or the store said; None where it did not."""

    @property
    def retry_delay(self) -> float:
        """Seconds that the caller should wait."""
        return DEFAULT_RETRY_DELAY if self.retry_after is None else self.retry_after


class InvalidFields(PalaverError):
    """Fields of the request are invalid; all of them are named at once."""

    reason = "INVALID_FIELD"

    def __init__(self, *violations: FieldViolation) -> None:
        super().__init__("; ".join(f"{violation.field}: {violation.description}" for violation in violations))
        self.violations = violations


class AssistantNotFound(PalaverError):
    """There is no assistant with this id in this collection."""

    reason = "ASSISTANT_NOT_FOUND"

    def __init__(self, assistant_id: str, collection: str) -> None:
        super().__init__(f'there is no assistant "{assistant_id}" in the collection "{collection}"')


class AssistantExists(PalaverError):
    """There is an assistant with this id in this collection already."""

    reason = "ASSISTANT_EXISTS"

    def __init__(self, assistant_id: str, collection: str) -> None:
        super().__init__(
            f'the assistant "{assistant_id}" exists already in the collection "{collection}"; '
            "set if_exists to keep or to reset it"
        )


class AssistantBusy(RetryableError):
    """Other turns of the assistant are before this one, and the wait is over or the queue full."""

    reason = "ASSISTANT_BUSY"


class TooManyTurns(RetryableError):
    """The server runs as many turns as its settings allow."""

    reason = "TOO_MANY_TURNS"


class ConnectionNotConfigured(PalaverError):
    """The server offers no connection of this name."""

    reason = "CONNECTION_NOT_CONFIGURED"


class ShuttingDown(RetryableError):
    """The server takes no more work."""

    reason = "SHUTTING_DOWN"


class RequestIdReused(PalaverError):
    """Another request has had this `request_id`."""

    reason = "REQUEST_ID_REUSED"


class TurnNotFound(PalaverError):
    """No such turn is running."""

    reason = "TURN_NOT_FOUND"


class TurnCancelled(PalaverError):
    """Somebody has ended the turn."""

    reason = "TURN_CANCELLED"


class TurnTooLarge(PalaverError):
    """The turn is larger than can be stored at once."""

    reason = "TURN_TOO_LARGE"


class ModelError(PalaverError):
    """The endpoint of the model refused or failed."""


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
    """The account behind the credentials has used up its quota."""

    reason = "MODEL_QUOTA_EXHAUSTED"


class ModelRateLimited(RetryableError, ModelError):
    """The endpoint limits the rate of calls."""

    reason = "MODEL_RATE_LIMITED"


class ModelUnavailable(RetryableError, ModelError):
    """The endpoint could not be reached, or failed before its reply began."""

    reason = "MODEL_UNAVAILABLE"


class ModelStreamBroken(RetryableError, ModelError):
    """The endpoint broke its reply off, or sent what can't be understood."""

    reason = "MODEL_STREAM_BROKEN"


class ModelTimeout(ModelError):
    """The endpoint took longer than the settings allow."""

    reason = "MODEL_TIMEOUT"


class StoreError(PalaverError):
    """The store refused or failed."""


class ConcurrentWrite(RetryableError, StoreError):
    """Somebody else wrote to the conversation since it was read."""

    reason = "CONCURRENT_WRITE"


class ConversationFull(StoreError):
    """The conversation holds as many messages as it can."""

    reason = "CONVERSATION_FULL"


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
    """What is stored is damaged."""

    reason = "STORE_CORRUPT"
