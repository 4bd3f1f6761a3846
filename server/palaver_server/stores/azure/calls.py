"""Calls to Azure Table Storage: their time limits, errors and retries."""

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
"""The part of a call's time limit in which it is retried. The rest is for the last attempt."""

SCAN_TIMEOUT = 10.0
"""Seconds that a query over a whole table may take. The service ends it after 5 seconds, with what it has found."""

MAX_ATTEMPTS = 10
"""The number of times that an operation starts over because other writers change the same assistant."""

MAX_RETRY_AFTER = 1.0
"""The longest pause, in seconds, that a call waits for a throttling store. A longer one is reported immediately."""

TOO_LARGE = ("EntityTooLarge", "PropertyValueTooLarge", "RequestBodyTooLarge")
"""The service's error codes for data that exceeds its limits."""


class Patience:
    """The time in which a call is retried before the failure of the store is reported."""

    def __init__(self, timeout: float) -> None:
        """Takes the time limit of a call, in seconds."""
        self._ends = time.monotonic() + PATIENCE * timeout

    async def has_time_after(self, error: StoreUnavailable) -> bool:
        """Pauses and returns True, or returns False if there is no time for a retry or the store asks for a pause."""
        if error.retry_after is not None or time.monotonic() > self._ends:
            return False
        await anyio.sleep(RETRY_BACKOFF)
        return True


@asynccontextmanager
async def call(timeout: float) -> AsyncIterator[None]:
    """Limits the time of a block of calls, and converts the SDK's errors, except `ResourceNotFoundError`."""
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
        if (converted := _store_error(error)) is None:
            raise
        raise converted from error
    except AzureError as error:
        raise StoreUnavailable("the store can't be reached") from error


def _store_error(error: HttpResponseError) -> StoreError | TurnTooLarge | None:
    """Returns the error of a store for a response, or None if the request itself was wrong."""
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
    """Raises `StoreUnavailable` if a throttling store asks for a long pause, which the SDK would otherwise wait for."""
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
    """Returns the backoff hook of commits for stamina: False for no retry, True for the default pause, or seconds."""

    def backoff(error: Exception) -> bool | float:
        if not isinstance(error, StoreUnavailable):
            return False
        if error.retry_after is None:
            return True
        return error.retry_after if error.retry_after < timeout else False

    return backoff
