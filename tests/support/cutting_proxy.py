"""A proxy in front of a server, which a test can make cut all of its connections.

async with CuttingProxy(server.address) as proxy:
    client = palaver.AsyncClient(proxy.address)
    proxy.cut()
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from typing_extensions import Self


class CuttingProxy:
    """The proxy. It runs for the time of its `async with` block. Its `upstream` can be changed at any time."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.cuts = 0
        self.ended = asyncio.Event()
        """Set when a connection has ended, whichever side closed it."""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> str:
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Aborts all connections. Data in transit is lost."""
        self.cuts += 1
        for writer in self._writers:
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.upstream.rpartition(":")
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        both = {writer, upstream_writer}
        self._writers |= both
        try:
            await asyncio.gather(_pump(reader, upstream_writer), _pump(upstream_reader, writer))
        finally:
            self._writers -= both
            self.ended.set()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
