"""HTTP/2 connections without a gRPC library, for callers that don't behave.

async with connection(address) as raw:
    stream = raw.post("/palaver.v1.AssistantService/GetAssistant", b"...")
    await raw.ended(stream)
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import h2.config
import h2.connection
import h2.events
import h2.settings
from hyperframe.frame import Frame

ATTACKERS = tuple(f"127.0.0.{number}" for number in range(2, 10))
"""The addresses that hostile connections come from. The second caller has another one."""

ATTACKER = ATTACKERS[0]


def grpc_frame(message: bytes, *, size: int | None = None, is_compressed: bool = False) -> bytes:
    """Returns a message as gRPC frames it. `size` is the size that the frame claims, if that is another one."""
    return struct.pack(">BI", is_compressed, len(message) if size is None else size) + message


class RawConnection:
    """A connection that speaks HTTP/2 as far as the attack wants it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_deaf: bool) -> None:
        self._reader, self._writer, self._is_deaf = reader, writer, is_deaf
        config = h2.config.H2Configuration(
            validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding=False
        )
        self.http = h2.connection.H2Connection(config)
        self._ended: dict[int, asyncio.Event] = {}
        self.is_closed = asyncio.Event()
        """Set when the server has closed the connection, or said that it would."""

    async def start(self, *, window: int | None = None) -> None:
        """Sends the preface. `window` is the number of bytes that the server may send on a stream."""
        self.http.initiate_connection()
        if window is not None:
            self.http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        await self.flush()

    def open(self, path: str, *more: tuple[str, str], ends: bool = False) -> int:
        """Begins a call and returns its stream."""
        stream = int(self.http.get_next_available_stream_id())
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *more,
        ]
        self.http.send_headers(stream, headers, end_stream=ends)
        self._ended[stream] = asyncio.Event()
        return stream

    def post(self, path: str, message: bytes) -> int:
        """Makes a call with a small message and returns its stream."""
        stream = self.open(path)
        self.http.send_data(stream, grpc_frame(message), end_stream=True)
        return stream

    async def upload(self, stream: int, data: bytes) -> int:
        """Sends data as far as the server's windows allow at once. Returns the number of bytes that were sent."""
        sent = 0
        while sent < len(data):
            room = min(self.http.local_flow_control_window(stream), self.http.max_outbound_frame_size)
            if room <= 0:
                break
            piece = data[sent : sent + room]
            self.http.send_data(stream, piece)
            sent += len(piece)
        await self.flush()
        return sent

    async def flush(self) -> None:
        """Sends what is waiting to be sent."""
        await self.send(self.http.data_to_send())

    async def send(self, data: bytes) -> None:
        """Sends bytes unchanged."""
        self._writer.write(data)
        await self._writer.drain()

    async def flood(self, frames: Iterable[Frame | bytes]) -> int:
        """Sends frames until they end or the server hangs up. Returns the number of frames that were sent."""
        count, waiting = 0, bytearray()
        with suppress(ConnectionError):
            for frame in frames:
                waiting += frame if isinstance(frame, bytes) else frame.serialize()
                count += 1
                if len(waiting) > 65_536:
                    if self.is_closed.is_set():
                        return count
                    await self.send(bytes(waiting))
                    waiting.clear()
                    await asyncio.sleep(0)  # sending need not wait, and the flood has a time limit
            await self.send(bytes(waiting))
        return count

    async def ended(self, stream: int) -> None:
        """Waits until the server has ended a stream or the connection."""
        await self._ended[stream].wait()

    async def read_forever(self) -> None:
        """Reads what the server sends."""
        with suppress(ConnectionError, h2.exceptions.ProtocolError):
            while data := await self._reader.read(65_536):
                if not self._is_deaf:
                    for event in self.http.receive_data(data):
                        self._take(event)
                    await self.flush()
        self._close()

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)) and event.stream_id in self._ended:
            self._ended[event.stream_id].set()
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._close()

    def _close(self) -> None:
        self.is_closed.set()
        for event in self._ended.values():
            event.set()


@asynccontextmanager
async def connection(
    address: tuple[str, int], *, source: str = ATTACKER, window: int | None = None, is_deaf: bool = False
) -> AsyncIterator[RawConnection]:
    """Yields a connection that has sent its preface. It is aborted at the end of the block.

    A deaf connection reads what the server sends and does not look at it.
    """
    reader, writer = await asyncio.open_connection(*address, local_addr=(source, 0))
    raw = RawConnection(reader, writer, is_deaf=is_deaf)
    reading = asyncio.ensure_future(raw.read_forever())
    try:
        await raw.start(window=window)
        yield raw
    finally:
        reading.cancel()
        writer.transport.abort()
        await asyncio.gather(reading, return_exceptions=True)
