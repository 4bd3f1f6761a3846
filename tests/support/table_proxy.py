"""A proxy between Palaver and the emulator of Azure Table Storage, which injects faults into requests.

    async with TableProxy(account) as proxy:
        connection_string = proxy.connection_string
        proxy.fault = drop_answer  # or a function that picks a fault for each request

It forwards requests byte for byte, because the key of the account signs the headers. A connection serves one request,
so that the traffic of a request can be counted.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from typing_extensions import Self

from palaver_server.health import PROBE_KEY
from tests.support.azurite import Account


@dataclass
class Exchange:
    """A request and its response."""

    method: str
    target: str
    request: bytes
    upstream: tuple[str, int]
    response: bytes = b""
    """The response of the store, whether or not it was passed on."""

    async def forward(self) -> bytes:
        """Sends the request to the store and returns its response."""
        reader, writer = await asyncio.open_connection(*self.upstream)
        try:
            writer.write(self.request)
            self.response = await reader.read()
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        return self.response

    @property
    def is_write(self) -> bool:
        return self.method != "GET"

    @property
    def is_probe(self) -> bool:
        """True for a probe of a server's health, which comes at any time."""
        return PROBE_KEY.id in self.target

    @property
    def is_commit(self) -> bool:
        return self.target.endswith("/$batch") and b"RequestHash" in self.request


Fault = Callable[[Exchange], Awaitable[bytes | None]]
"""Handles a request in place of `forward` and returns the response. None closes the connection."""


async def none(exchange: Exchange) -> bytes | None:
    """No fault."""
    return await exchange.forward()


async def drop_answer(exchange: Exchange) -> bytes | None:
    """The store performs the request, and its response is lost."""
    await exchange.forward()
    return None


async def fail_after(exchange: Exchange) -> bytes | None:
    """The store performs the request and reports a failure."""
    await exchange.forward()
    return answer(500, "InternalError")


async def cut_answer(exchange: Exchange) -> bytes | None:
    """The store performs the request, and the connection breaks in the middle of its response."""
    response = await exchange.forward()
    return response[: len(response) - 40]


async def drop_request(exchange: Exchange) -> bytes | None:
    """The request is lost."""
    return None


async def hang(exchange: Exchange) -> bytes | None:
    """The request is never answered."""
    await asyncio.Event().wait()
    return None


def refuse(status: int, code: str, **headers: str) -> Fault:
    """The store refuses the request."""

    async def fault(exchange: Exchange) -> bytes | None:
        return answer(status, code, **headers)

    return fault


fail_before = refuse(500, "InternalError")


async def garbage(exchange: Exchange) -> bytes | None:
    """Another program answers instead of the store."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>"


async def shuffle(exchange: Exchange) -> bytes | None:
    """The store returns rows in random order, as Cosmos DB for Table may."""
    response = await exchange.forward()
    head, _, body = response.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    if b"Transfer-Encoding: chunked" in lines:
        body = unchunk(body)
    content = json.loads(body) if body.startswith(b"{") else {}
    if "value" not in content:
        return response
    content["value"].reverse()
    random.Random(len(body)).shuffle(content["value"])
    body = json.dumps(content).encode()
    framing = (b"content-length:", b"transfer-encoding:")
    lines = [line for line in lines if not line.lower().startswith(framing)]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])


def unchunk(body: bytes) -> bytes:
    parts = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        parts.append(rest[: int(size, 16)])
        body = rest[int(size, 16) + 2 :]
    return b"".join(parts)


def once(fault: Fault, when: Callable[[Exchange], bool] = lambda exchange: True) -> Fault:
    """Returns a fault of the first request that meets a condition."""
    left = [fault]

    async def pick(exchange: Exchange) -> bytes | None:
        return await (left.pop() if left and when(exchange) else none)(exchange)

    return pick


def always(fault: Fault, when: Callable[[Exchange], bool]) -> Fault:
    """Returns a fault of all requests that meet a condition."""

    async def pick(exchange: Exchange) -> bytes | None:
        return await (fault if when(exchange) else none)(exchange)

    return pick


def since(fault: Fault, when: Callable[[Exchange], bool]) -> Fault:
    """Returns a fault of the first request that meets a condition, and of all requests after it."""
    has_begun = False

    async def pick(exchange: Exchange) -> bytes | None:
        nonlocal has_begun
        has_begun = has_begun or when(exchange)
        return await (fault if has_begun else none)(exchange)

    return pick


def lost_from(when: Callable[[Exchange], bool]) -> Fault:
    """Loses the response to the first request that meets a condition, and then throttles all requests."""
    is_lost = False

    async def pick(exchange: Exchange) -> bytes | None:
        nonlocal is_lost
        if is_lost:
            return answer(503, "ServerBusy", Retry_After="60")
        is_lost = when(exchange)
        response = await exchange.forward()
        return None if is_lost else response

    return pick


def cut_after(requests: int) -> Fault:
    """Returns a fault of all requests after a number of them. For the store, the caller is then as good as dead."""
    left = [none] * requests

    async def pick(exchange: Exchange) -> bytes | None:
        return await (left.pop() if left else drop_request)(exchange)

    return pick


def sometimes(seed: int, dropped: float, failed: float) -> Fault:
    """Loses some responses and turns others into errors, after the store has performed the requests."""
    generator = random.Random(seed)

    async def pick(exchange: Exchange) -> bytes | None:
        number = generator.random()
        fault = drop_answer if number < dropped else fail_after if number < dropped + failed else none
        return await fault(exchange)

    return pick


def answer(status: int, code: str, **headers: str) -> bytes:
    """Returns an error response in the form of the store."""
    error = {"odata.error": {"code": code, "message": {"lang": "en-US", "value": f"{code} of the test"}}}
    body = json.dumps(error)
    lines = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Status\r\n{head}\r\n{body}".encode()


class TableProxy:
    """The proxy. It runs for the time of its `async with` block."""

    def __init__(self, account: Account) -> None:
        self.fault: Fault = none
        self.exchanges: list[Exchange] = []
        self._account = account
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connection_string(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return self._account.connection_string_at(f"http://127.0.0.1:{port}/{self._account.name}")

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if (exchange := await self._read(reader)) is not None:
                self.exchanges.append(exchange)
                if (response := await self.fault(exchange)) is not None:
                    writer.write(response)
                    await writer.drain()
        except ConnectionError:
            pass  # the caller has left
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader) -> Exchange | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
        except asyncio.IncompleteReadError:
            return None
        method, target, _ = first.split(" ")
        upstream = urlsplit(self._account.url)
        assert upstream.hostname
        assert upstream.port
        request = head[:-2] + b"Connection: close\r\n\r\n" + body
        return Exchange(method, target, request, (upstream.hostname, upstream.port))
