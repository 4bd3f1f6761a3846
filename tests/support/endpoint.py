"""An endpoint for OpenAI's chat completions on a real socket, which a test scripts, including its faults.

    async with Endpoint() as endpoint:
        endpoint.script(Stream("Hel", "lo"), Refusal(429, headers={"Retry-After": "1"}))
        ...  # the first call streams "Hello", the second is refused, and every further one gets `Endpoint.default`
        [call, *_] = endpoint.calls
        await call.closed.wait()

A `Stream` is played item by item: a `str` is a piece of the reply, `bytes` are sent unchanged, an `asyncio.Event` is
awaited, a callable is called with the `Call`, and `RESET` aborts the connection.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import deque
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import Self

RESET = object()
"""In a `Stream`: abort the connection with a TCP reset."""

HANG_UP = object()
"""In a `Stream`: close the connection without ending the body."""

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n"
    b"x-request-id: req-1\r\n\r\n"
)


@dataclass(eq=False)
class Call:
    """A request to the endpoint, and the progress of its response."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    writer: asyncio.StreamWriter
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the caller closed the connection before the response was complete."""
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the response was sent, or can no longer be sent."""
    sent: int = 0
    """The bytes of the body that the socket has accepted."""

    async def send(self, data: bytes) -> None:
        """Sends a chunk of the body, as fast as the caller reads."""
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self.writer.drain()
        self.sent += len(data)

    def hang_up(self, *, reset: bool = False) -> None:
        """Closes the connection immediately, with a TCP reset or in an orderly way."""
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.writer.transport.abort()
        else:
            self.writer.close()

    def chunk(self, delta: dict[str, Any] | None = None, **fields: Any) -> bytes:
        """Returns an event with a chunk of the reply."""
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": None}]
        return event(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": f"{self.body.get('model')}-2026",
                "choices": choices,
                **fields,
            }
        )


def event(data: Any) -> bytes:
    """Returns a server-sent event."""
    return b"data: " + json.dumps(data).encode() + b"\n\n"


USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


@dataclass(frozen=True, init=False)
class Stream:
    """A streamed reply of items. `finish=None` leaves out the finish reason, and `done=False` the end mark."""

    items: tuple[Any, ...]
    finish: str | None
    usage: dict[str, Any] | None
    done: bool

    def __init__(
        self, *items: Any, finish: str | None = "stop", usage: dict[str, Any] | None = USAGE, done: bool = True
    ) -> None:
        for name, value in (("items", items), ("finish", finish), ("usage", usage), ("done", done)):
            object.__setattr__(self, name, value)

    async def play(self, call: Call) -> None:
        items = list(self.items)
        while items and isinstance(items[0], asyncio.Event):
            await items.pop(0).wait()  # an event before everything else delays the response head
        call.writer.write(HEAD)
        if items:
            await call.send(call.chunk({"role": "assistant", "content": ""}))
        for item in items:
            if item is RESET or item is HANG_UP:
                call.hang_up(reset=item is RESET)
                return
            await _play_item(item, call)
        await self._end(call)

    async def _end(self, call: Call) -> None:
        if self.finish is not None:
            await call.send(call.chunk(choices=[{"index": 0, "delta": {}, "finish_reason": self.finish}]))
        if self.usage is not None and call.body.get("stream_options", {}).get("include_usage"):
            await call.send(call.chunk(usage=self.usage))
        if self.done:
            await call.send(b"data: [DONE]\n\n")
        call.writer.write(b"0\r\n\r\n")


async def _play_item(item: Any, call: Call) -> None:
    if isinstance(item, str):
        await call.send(call.chunk({"content": item}))
    elif isinstance(item, bytes):
        await call.send(item)
    elif isinstance(item, asyncio.Event):
        await item.wait()
    else:
        await item(call)


def skill_calls(*calls: tuple[str, str], text: str = "", ids: str = "call_{}") -> Stream:
    """Returns a reply that calls skills, by name and arguments. The arguments are sent in two pieces."""

    async def play(call: Call) -> None:
        if text:
            await call.send(call.chunk({"content": text}))
        for index, (name, arguments) in enumerate(calls):
            half = len(arguments) // 2
            function = {"name": name, "arguments": arguments[:half]}
            first = {"index": index, "id": ids.format(index), "type": "function", "function": function}
            await call.send(call.chunk({"tool_calls": [first]}))
            rest = {"index": index, "function": {"arguments": arguments[half:]}}
            await call.send(call.chunk({"tool_calls": [rest]}))

    return Stream(play, finish="tool_calls")


async def fire_hose(call: Call) -> None:
    """Sends text without end, as fast as the caller reads."""
    data = call.chunk({"content": "water " * 200})
    while True:
        await call.send(data)


async def comments_without_end(call: Call) -> None:
    """Sends comments without end."""
    while True:
        await call.send(b": still here\n\n")
        await asyncio.sleep(0.01)  # the pace of a keep-alive, not a synchronisation


async def drip_without_end(call: Call) -> None:
    """Sends a word now and then, without end."""
    while True:
        await call.send(call.chunk({"content": "drip "}))
        await asyncio.sleep(0.01)  # the pace of the drip, not a synchronisation


async def empty_deltas_without_end(call: Call) -> None:
    """Sends empty chunks without end."""
    while True:
        await call.send(call.chunk({}))
        await asyncio.sleep(0.01)  # the pace of the chunks, not a synchronisation


async def line_without_end(call: Call) -> None:
    """Sends a line that never ends."""
    while True:
        await call.send(b"data: " + b"x" * 65_536)


@dataclass(frozen=True)
class Refusal:
    """An HTTP error in OpenAI's form, or with any body."""

    status: int
    message: str = "something went wrong"
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None

    async def play(self, call: Call) -> None:
        error = {"message": self.message, "type": "error", "param": self.param, "code": self.code}
        body = json.dumps({"error": error}).encode() if self.body is None else self.body
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        call.writer.write(f"HTTP/1.1 {self.status} Status\r\n{lines}\r\n".encode() + body)
        await call.writer.drain()


@dataclass(frozen=True)
class Raw:
    """Sends bytes as the response, head included, and then others again and again, as fast as the caller reads."""

    data: bytes
    flood: bytes = b""

    async def play(self, call: Call) -> None:
        call.writer.write(self.data)
        await call.writer.drain()
        while self.flood:
            call.writer.write(self.flood)
            await call.writer.drain()
            call.sent += len(self.flood)
        call.hang_up()


@dataclass(frozen=True)
class HangUp:
    """Closes the connection without a response."""

    async def play(self, call: Call) -> None:
        call.hang_up()


@dataclass(frozen=True)
class UnlessRenamed:
    """Refuses `max_tokens`, as newer models do. A request without it gets the answer."""

    answer: Stream

    async def play(self, call: Call) -> None:
        if "max_tokens" in call.body:
            message = (
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead."
            )
            await Refusal(400, message, code="unsupported_parameter", param="max_tokens").play(call)
        else:
            await self.answer.play(call)


Answer = Stream | Refusal | Raw | HangUp | UnlessRenamed


class Endpoint:
    """The endpoint. It runs for the time of its `async with` block."""

    default: Answer = Stream("Hello", ", ", "world")

    def __init__(self, address: socket.socket | None = None) -> None:
        """Takes a bound socket if the address must be known before the endpoint listens."""
        self._socket = address
        self.calls: list[Call] = []
        self.connections = 0
        """The number of open connections."""
        self._answers: deque[Answer] = deque()
        self._arrived = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = "" if address is None else _url(address)

    def script(self, *answers: Answer) -> None:
        """Appends answers for the next calls."""
        self._answers.extend(answers)

    def forget(self) -> None:
        """Drops the calls so far, and the answers that nobody has asked for."""
        self.calls.clear()
        self._answers.clear()

    async def call(self, number: int = 1) -> Call:
        """Waits for the call with a number, counted from 1, and returns it."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.calls) >= number)
        return self.calls[number - 1]

    async def __aenter__(self) -> Self:
        address = self._socket or socket.create_server(("127.0.0.1", 0))
        self._server = await asyncio.start_server(self._serve, sock=address, limit=64 * 1024 * 1024)
        self.url = _url(address)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            head: asyncio.Future[bytes] = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
            while (request := await _none_at_end(head)) is not None:
                call = await self._accept(request, reader, writer)
                # The next request can't arrive before this response ends. If the read ends first, the caller has left.
                head = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
                answer = self._answers.popleft() if self._answers else self.default
                await _first(answer.play(call), head)
                call.finished.set()
                if head.done() and head.exception() is not None:
                    call.closed.set()
        finally:
            head.cancel()
            self.connections -= 1
            self._tasks.discard(task)
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _accept(self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Call:
        first, *lines = request.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        call = Call(first.split(" ")[1], headers, json.loads(body) if body else {}, writer)
        async with self._arrived:
            self.calls.append(call)
            self._arrived.notify_all()
        return call


def _url(address: socket.socket) -> str:
    return f"http://127.0.0.1:{address.getsockname()[1]}/v1"


async def _none_at_end(head: Awaitable[bytes]) -> bytes | None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        return await head
    return None


async def _first(answer: Awaitable[None], head: asyncio.Future[bytes]) -> None:
    """Plays the answer until it ends or the caller leaves."""
    playing = asyncio.ensure_future(answer)
    try:
        await asyncio.wait([playing, head], return_when=asyncio.FIRST_COMPLETED)
    finally:
        playing.cancel()
        with suppress(asyncio.CancelledError, ConnectionError):
            await playing
