"""The HTTP sessions to endpoints, with the limits that aiohttp does not have."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.connector import Connection

from palaver_server.domain.limits import MAX_INTERIM_RESPONSES

MAX_CONNECTIONS = 10_000
"""Without a number, aiohttp's default of 100 would make the 101st call wait."""


class Response(aiohttp.ClientResponse):
    """A response that is given up if too many interim ones (1xx) come before it. aiohttp reads any number of them."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Reads the head of the response; raises `ClientPayloadError` for too many interim responses."""
        protocol: Any = connection.protocol
        protocol.read = _counted(protocol.read)
        try:
            await super().start(connection)
        finally:
            del protocol.read
        return self


def _counted(read: Callable[[], Any]) -> Callable[[], Any]:
    """Returns a function that reads the next head, if there were not too many."""
    count = 0

    async def counted() -> Any:
        nonlocal count
        count += 1
        if count > MAX_INTERIM_RESPONSES + 1:
            raise aiohttp.ClientPayloadError("too many interim responses")
        return await read()

    return counted


def session(tls: ssl.SSLContext, keepalive_timeout: float | None) -> aiohttp.ClientSession:
    """Returns a session that keeps no cookies: they would grow without a limit, and join the callers' conversations."""
    connector = aiohttp.TCPConnector(ssl=tls, keepalive_timeout=keepalive_timeout, limit=MAX_CONNECTIONS)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), response_class=Response)
