"""Limits on requests that arrive slowly and on responses that are not read, which would otherwise fill the memory.

An address can't harm the callers at others: it reaches its own limits first. A request that arrives slowly is ended to
make room for others. A response can't be taken back from gRPC, so the next ones are refused.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar
from weakref import WeakValueDictionary

import anyio

from palaver_server.domain.errors import SlowTransfers
from palaver_server.domain.limits import (
    MAX_ADDRESS_PAGES,
    MAX_ADDRESS_RECEIVING,
    MAX_ADDRESS_UNREAD_BYTES,
    MAX_PAGE_BYTES,
    MAX_PAGES,
    MAX_RECEIVING,
    MAX_UNREAD_BYTES,
    RECEIVE_TIMEOUT,
)

T = TypeVar("T")


class Transfers:
    """The requests that are arriving, and the large responses that wait to be read."""

    def __init__(self) -> None:
        self._receiving: dict[anyio.CancelScope, str] = {}
        """The addresses of the requests, the oldest first."""
        self._unread: Counter[str] = Counter()
        """The bytes of the responses by address."""
        self._pages = asyncio.Semaphore(MAX_PAGES)
        self._address_pages: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def receive(self, address: str, arriving: Awaitable[T]) -> T:
        """Waits for a request; raises `SlowTransfers` if it takes too long, or longest while too many arrive."""
        with anyio.CancelScope(deadline=anyio.current_time() + RECEIVE_TIMEOUT) as scope:
            self._receiving[scope] = address
            self._make_room(address)
            try:
                return await arriving
            finally:
                self._receiving.pop(scope, None)
        raise SlowTransfers(
            f"the request arrived too slowly: it has {RECEIVE_TIMEOUT:g} seconds, and less while many others arrive"
        )

    def _make_room(self, address: str) -> None:
        same = [scope for scope, other in self._receiving.items() if other == address]
        if len(same) > MAX_ADDRESS_RECEIVING:
            oldest = same[0]
        elif len(self._receiving) > MAX_RECEIVING:
            oldest = next(iter(self._receiving))
        else:
            return
        del self._receiving[oldest]
        oldest.cancel()

    @asynccontextmanager
    async def preparing_page(self, address: str) -> AsyncIterator[None]:
        """Waits until a page of messages may be prepared; raises `SlowTransfers` if it could not be sent."""
        same_address = self._address_pages.get(address) or asyncio.Semaphore(MAX_ADDRESS_PAGES)
        self._address_pages[address] = same_address
        async with same_address, self._pages:
            self._check_room(address, MAX_PAGE_BYTES)
            yield

    @contextmanager
    def sending(self, address: str, size: int) -> Iterator[None]:
        """Counts a response until the end of the block; raises `SlowTransfers` if there is no room for it."""
        self._check_room(address, size)
        self._unread[address] += size
        try:
            yield
        finally:
            self._unread[address] -= size
            if not self._unread[address]:
                del self._unread[address]

    def _check_room(self, address: str, size: int) -> None:
        """Raises `SlowTransfers` if there is no room for a response. There always is if nothing waits to be read."""
        for limit, unread, who in (
            (MAX_ADDRESS_UNREAD_BYTES, self._unread[address], "this address has"),
            (MAX_UNREAD_BYTES, self._unread.total(), "callers have"),
        ):
            if unread and unread + size > limit:
                raise SlowTransfers(f"{who} yet to read {unread:,} bytes of earlier responses")
