"""Calls to Azure Table Storage: their time limits, the errors of their failures, and which failures are retried."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
)
from azure.core.pipeline import PipelineResponse

from palaver_server.domain.errors import StoreCredentialsRejected, StoreError, StoreUnavailable, TurnTooLarge

CONNECT_TIMEOUT = 2.0
RETRIES = 2
RETRY_BACKOFF = 0.2
PATIENCE = 2 / 3
"""The part of a call's time limit in which creating and deleting are retried. The rest is for the last attempt."""

MAX_ATTEMPTS = 10
"""How often a write starts over because other writers change the same assistant."""

MAX_RETRY_AFTER = 1.0
"""Seconds of throttling that a call waits out. A longer time is reported to the caller at once."""

TOO_LARGE = ("EntityTooLarge", "PropertyValueTooLarge", "RequestBodyTooLarge")
"""The service's error codes for data that exceeds its limits."""


class Patience:
    """The time in which a write is retried before the failure of the store is reported."""

    def __init__(self, timeout: float) -> None:
        """Takes the time limit of a call, in seconds."""
        self._ends = time.monotonic() + PATIENCE * timeout

    async def has_time_after(self, error: StoreUnavailable) -> bool:
        """Pauses and returns True if there is time for a retry. A pause that the store named is left to the caller."""
        if error.retry_after is not None or time.monotonic() > self._ends:
            return False
        await anyio.sleep(RETRY_BACKOFF)
        return True


@asynccontextmanager
async def call(timeout: float) -> AsyncIterator[None]:
    """Limits the time of a block of calls, and raises the errors of the SDK as those of a store."""
    try:
        with anyio.fail_after(timeout):
            yield
    except TimeoutError as error:
        raise StoreUnavailable("the store did not answer in time") from error
    except ResourceNotFoundError:
        raise
    except HttpResponseError as error:
        # The SDK also wraps errors of `azure-identity`, with the status of the identity endpoint.
        if isinstance(error, ClientAuthenticationError) or isinstance(error.__cause__, ClientAuthenticationError):
            raise StoreCredentialsRejected(
                "the store refused the server's credentials, or the server has none"
            ) from error
        if (mapped := _by_status(error)) is None:
            raise
        raise mapped from error
    except AzureError as error:
        raise StoreUnavailable("the store can't be reached") from error


def _by_status(error: HttpResponseError) -> StoreError | TurnTooLarge | None:
    status = error.status_code or 0
    if status < 400:
        return StoreUnavailable("the store sent a response that can't be read")
    if status == 413 or getattr(error, "error_code", None) in TOO_LARGE:
        return TurnTooLarge("the turn is larger than the store accepts")
    if status in (401, 403):
        return StoreCredentialsRejected("the store refused the server's credentials")
    if status in (408, 409, 429) or status >= 500:
        return StoreUnavailable(f"the store failed with HTTP status {status}", retry_after=_retry_after(error.response))
    return None


def refuse_long_wait(response: PipelineResponse[Any, Any]) -> None:
    """Raises an error if a throttling store names a long pause, which the SDK would otherwise wait out."""
    retry_after = _retry_after(response.http_response)
    if retry_after is not None and retry_after > MAX_RETRY_AFTER:
        raise StoreUnavailable("the store throttles calls", retry_after=retry_after)


def _retry_after(response: Any) -> float | None:
    # Cosmos DB sends milliseconds. The SDK would honour each of these headers beyond the time limit of a call.
    headers = {} if response is None else response.headers
    for name, per_second in (("Retry-After", 1), ("retry-after-ms", 1000), ("x-ms-retry-after-ms", 1000)):
        if (value := headers.get(name, "")).isdecimal():
            return int(value) / per_second
    return None


def commit_backoff(timeout: float) -> Callable[[Exception], bool | float]:
    """Returns a predicate for the retries of a commit: False, True, or the seconds that the store named."""

    def wait(error: Exception) -> bool | float:
        if not isinstance(error, StoreUnavailable):
            return False
        if error.retry_after is None:
            return True
        return error.retry_after if error.retry_after < timeout else False

    return wait
