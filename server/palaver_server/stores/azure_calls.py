"""How long a call to Azure Table Storage may take, what its failures mean, and which are worth another try."""

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

from palaver_server.errors import StoreCredentialsRejected, StoreError, StoreUnavailable, TurnTooLarge

CONNECT_TIMEOUT = 2.0
RETRIES = 2
RETRY_BACKOFF = 0.2
PATIENCE = 2 / 3
"""The part of a call's time in which creating and deleting are tried again; the last try must fit into it, too."""

MAX_ATTEMPTS = 10
"""How often something starts anew because of others who change the same assistant."""

MAX_RETRY_AFTER = 1.0
"""Seconds that a throttling store is waited for within a call; a caller is told of any longer time at once."""

TOO_LARGE = ("EntityTooLarge", "PropertyValueTooLarge", "RequestBodyTooLarge")
"""The service's codes for what exceeds one of its limits."""


class Patience:
    """How long a write is tried again before the caller hears that the store fails."""

    def __init__(self, timeout: float) -> None:
        """Takes the time of a call."""
        self._ends = time.monotonic() + PATIENCE * timeout

    async def has_time_after(self, error: StoreUnavailable) -> bool:
        """Pauses and tells to try again; not where the store has said when, which is the caller's to follow."""
        if error.retry_after is not None or time.monotonic() > self._ends:
            return False
        await anyio.sleep(RETRY_BACKOFF)
        return True


@asynccontextmanager
async def call(timeout: float) -> AsyncIterator[None]:
    """Limits the time of a call, or of several that belong together, and says in our words what went wrong."""
    try:
        with anyio.fail_after(timeout):
            yield
    except TimeoutError as error:
        raise StoreUnavailable("the store did not answer in time") from error
    except ResourceNotFoundError:
        raise
    except HttpResponseError as error:
        # The SDK also wraps what `azure-identity` has raised, with the status that its endpoint had.
        if isinstance(error, ClientAuthenticationError) or isinstance(error.__cause__, ClientAuthenticationError):
            raise StoreCredentialsRejected("the store refused the server's credentials, or it has none") from error
        if (mapped := _by_status(error)) is None:
            raise
        raise mapped from error
    except AzureError as error:
        raise StoreUnavailable("the store can't be reached") from error


def _by_status(error: HttpResponseError) -> StoreError | TurnTooLarge | None:
    status = error.status_code or 0
    if status < 400:
        return StoreUnavailable("the store gave an answer that can't be read")
    if status == 413 or getattr(error, "error_code", None) in TOO_LARGE:
        return TurnTooLarge("the turn is larger than the store takes at once")
    if status in (401, 403):
        return StoreCredentialsRejected("the store refused the server's credentials")
    if status in (408, 409, 429) or status >= 500:
        return StoreUnavailable(f"the store failed with HTTP status {status}", retry_after=_retry_after(error.response))
    return None


def refuse_long_wait(response: PipelineResponse[Any, Any]) -> None:
    """Keeps the SDK from waiting as long as a throttling store says: the caller should know, and wait itself."""
    retry_after = _retry_after(response.http_response)
    if retry_after is not None and retry_after > MAX_RETRY_AFTER:
        raise StoreUnavailable("the store limits the rate of calls", retry_after=retry_after)


def _retry_after(response: Any) -> float | None:
    # Cosmos DB names milliseconds. The SDK would follow each of these headers, beyond the time of a call.
    headers = {} if response is None else response.headers
    for name, per_second in (("Retry-After", 1), ("retry-after-ms", 1000), ("x-ms-retry-after-ms", 1000)):
        if (value := headers.get(name, "")).isdecimal():
            return int(value) / per_second
    return None


def wait_before_retry(timeout: float) -> Callable[[Exception], bool | float]:
    """Says whether a commit that may take so long is tried again, and when where the store has said so."""

    def wait(error: Exception) -> bool | float:
        if not isinstance(error, StoreUnavailable):
            return False
        if error.retry_after is None:
            return True
        return error.retry_after if error.retry_after < timeout else False

    return wait
