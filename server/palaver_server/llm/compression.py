"""Reading compressed streams. Palaver asks for none, but some gateways compress all the same."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator

import anyio

from palaver_server.domain.errors import ModelStreamBroken

GZIP_OR_ZLIB = 47
"""The window bits with which zlib recognises both formats."""

MAX_INFLATED_BYTES = 16 * 1024
"""The most bytes that are inflated at a time. A read of this size can hold 16 MiB, which would stop all other calls."""

PAUSE = 0.001
"""Seconds between two steps of one read, which leave time to other calls and to the threads that they wait for."""


def decompressed(reads: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    """Returns the reads of a stream without its content encoding; raises `ModelStreamBroken` for an unknown one."""
    match encoding.strip().lower():
        case "" | "identity":
            return reads
        case "gzip" | "x-gzip" | "deflate":
            return _inflated(reads)
        case other:
            raise ModelStreamBroken(f"the endpoint compressed its reply with {other[:20]}, which was not requested")


async def _inflated(reads: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    inflate = zlib.decompressobj(GZIP_OR_ZLIB)
    async for data in reads:
        rest = data
        while rest:
            try:
                inflated = inflate.decompress(rest, MAX_INFLATED_BYTES)
            except zlib.error as error:
                raise ModelStreamBroken("the endpoint sent a compressed reply that can't be read") from error
            rest = inflate.unconsumed_tail
            await anyio.sleep(PAUSE if rest else 0)
            if inflated:
                yield inflated
            if inflate.eof:
                return  # zlib would collect everything after the end
