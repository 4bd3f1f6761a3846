"""Limits on requests that arrive slowly and on responses that are not read, which would otherwise fill the memory.

An address can't harm the callers at others: it reaches its own limits first. A request that arrives slowly is ended to
make room for others. A response can't be taken back from gRPC, so the next ones are refused.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

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


@dataclass(eq=False, slots=True)
class _Arrival:
    """A request that is arriving."""

    address: str
    task: asyncio.Task[Any]
    deadline: float
    is_given_up: bool = False


class Transfers:
    """The requests that are arriving, and the large responses that wait to be read."""

    def __init__(self) -> None:
        self._arrivals: dict[_Arrival, None] = {}
        """The requests that are arriving, the oldest first."""
        self._timer: asyncio.TimerHandle | None = None
        self._unread: Counter[str] = Counter()
        """The bytes of the responses by address."""
        self._pages = asyncio.Semaphore(MAX_PAGES)
        self._address_pages: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def receive(self, address: str, arriving: Awaitable[T]) -> T:
        """Waits for a request; raises `SlowTransfers` if it takes too long, or longest while too many arrive."""
        loop, task = asyncio.get_running_loop(), cast("asyncio.Task[Any]", asyncio.current_task())
        arrival = _Arrival(address, task, loop.time() + RECEIVE_TIMEOUT)
        self._arrivals[arrival] = None
        self._make_room(address)
        if self._timer is None:
            self._timer = loop.call_at(arrival.deadline, self._end_slow_ones)
        try:
            return await arriving
        except asyncio.CancelledError:
            if not arrival.is_given_up:
                raise
            if sys.version_info >= (3, 11):
                task.uncancel()
        finally:
            self._arrivals.pop(arrival, None)
        raise SlowTransfers(
            f"the request arrived too slowly: it has {RECEIVE_TIMEOUT:g} seconds, and less while many others arrive"
        )

    def _make_room(self, address: str) -> None:
        same = [arrival for arrival in self._arrivals if arrival.address == address]
        if len(same) > MAX_ADDRESS_RECEIVING:
            self._give_up(same[0])
        elif len(self._arrivals) > MAX_RECEIVING:
            self._give_up(next(iter(self._arrivals)))

    def _end_slow_ones(self) -> None:
        # One timer for all requests: a time limit of its own for each would be a tenth of the cost of a small call.
        loop = asyncio.get_running_loop()
        self._timer = None
        for arrival in list(self._arrivals):
            if arrival.deadline > loop.time():
                self._timer = loop.call_at(arrival.deadline, self._end_slow_ones)
                return
            self._give_up(arrival)

    def _give_up(self, arrival: _Arrival) -> None:
        del self._arrivals[arrival]
        arrival.is_given_up = True
        arrival.task.cancel()

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
