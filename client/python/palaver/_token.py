"""The token that calls send: a constant, or the result of a function that is called before each call."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from palaver._errors import deadline_exceeded, token_failed

Token: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""A token, or a function that returns one. Only `AsyncClient` awaits its result."""

Metadata: TypeAlias = tuple[tuple[str, str], ...]


def authorization(token: str) -> Metadata:
    """Returns the metadata for a token.

    Raises:
        ValueError: The token is not a valid header value. The error does not show the token.
    """
    if not (token.isascii() and token.isprintable() and token.strip() == token != ""):
        raise ValueError("the token must consist of visible ASCII characters")
    return (("authorization", f"Bearer {token}"),)


class CallMetadata:
    """The metadata of calls, with the token."""

    def __init__(self, constant: Metadata, function: Callable[[], str | Awaitable[str]] | None = None) -> None:
        """Takes the metadata that never change, or the function that returns the token."""
        self.constant = constant
        self.function = function

    def get(self, timeout: float | None) -> tuple[float | None, Metadata]:
        """Returns what remains of the timeout of a call, in seconds, and the call's metadata.

        Raises:
            UnauthenticatedError: The token function failed. Its exception is the cause.
        """
        if self.function is None:
            return timeout, self.constant
        started = time.monotonic()
        try:
            metadata = authorization(_text(self.function()))
        except Exception as error:
            raise token_failed(error) from error
        return _remaining(timeout, started), metadata

    async def get_async(self, timeout: float | None) -> tuple[float | None, Metadata]:
        """Does the same as `get`, and awaits the token if the function is asynchronous.

        Raises:
            UnauthenticatedError: The token function failed. Its exception is the cause.
            DeadlineExceededError: The token did not arrive within the timeout.
        """
        if self.function is None:
            return timeout, self.constant
        started = time.monotonic()
        try:
            token = self.function()
            if inspect.isawaitable(token):
                token = await _within(timeout, token)
            metadata = authorization(_text(token))
        except _TimeoutExpiredError:
            raise deadline_exceeded() from None
        except Exception as error:
            raise token_failed(error) from error
        return _remaining(timeout, started), metadata


class _TimeoutExpiredError(Exception):
    """The timeout of the call expired, as opposed to one of the token function's own."""


async def _within(timeout: float | None, token: Awaitable[str]) -> str:
    """Awaits a token, but no longer than the timeout."""
    task = asyncio.ensure_future(token)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout)
    finally:
        task.cancel()  # has no effect if it is done
    if not done:
        raise _TimeoutExpiredError
    return task.result()


def _text(token: object) -> str:
    """Returns a token, which must be text."""
    if not isinstance(token, str):
        raise TypeError(f"it must return a string, not {type(token).__name__}")
    return token


def _remaining(timeout: float | None, started: float) -> float | None:
    return None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
