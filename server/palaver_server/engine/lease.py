"""One turn at a time for each assistant across processes: a short lease in the store, renewed while the turn runs.

The clocks of the servers must agree to within seconds. Where they don't, or a lease ran out because its store could not
be reached, two turns may run at once; the commit of the later one then fails, so the history stays one line.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable

import anyio

from palaver_server.errors import AssistantBusy, ConcurrentWrite, PalaverError, StoreError, TurnCancelled
from palaver_server.models import AssistantKey
from palaver_server.stores.store import FinishedTurn, Lease, Store, StoredTurn, Window

logger = logging.getLogger(__name__)

RENEWALS = 3
"""How often a lease is renewed in its time, so that a call which fails does not lose it."""

RELEASE_TIMEOUT = 1.0
"""Seconds that giving a lease back may take; it runs out by itself."""

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.4
"""Seconds between two looks at an assistant that another process has."""


class TurnLease:
    """An assistant that a turn has to itself until it is committed or the lease released."""

    def __init__(self, store: Store, key: AssistantKey, lease: Lease, window: Window, *, was_awaited: bool) -> None:
        self.window = window
        self.was_awaited = was_awaited
        """Whether another process had the assistant just before."""
        self._store = store
        self._key = key
        self._lease = lease
        self._version = window.version
        self._is_over = False
        self._renewing: asyncio.Task[None] | None = None

    def keep(self, on_loss: Callable[[PalaverError], object]) -> None:
        """Renews the lease from now on; tells when it was lost to somebody else."""
        self._renewing = asyncio.create_task(self._renew(on_loss))

    async def _renew(self, on_loss: Callable[[PalaverError], object]) -> None:
        while True:
            await asyncio.sleep(self._lease.seconds / RENEWALS)
            try:
                self._version = await self._store.renew_lease(
                    self._key.collection, self._key.id, self._version, self._lease
                )
            except (ConcurrentWrite, TurnCancelled) as error:
                on_loss(error)
                return
            except StoreError:
                logger.warning("a lease can't be renewed; it is tried again", exc_info=True)

    async def _stop(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
            self._renewing = None

    async def commit(self, turn: FinishedTurn) -> StoredTurn:
        """Stores the turn, which ends the lease."""
        await self._stop()
        stored = await self._store.commit_turn(self._key.collection, self._key.id, self._version, turn)
        self._is_over = True
        return stored

    async def release(self) -> None:
        """Lets the next turn have the assistant, where no commit has."""
        await self._stop()
        if not self._is_over:
            await _release(self._store, self._key, self._lease)


async def take(store: Store, key: AssistantKey, max_messages: int, lease: Lease, wait_until: float | None) -> TurnLease:
    """Takes an assistant for a turn, and reads its window.

    While another process has it, it is looked at again and again, until `wait_until` in the loop's time; then
    `AssistantBusy` is raised.
    """
    limit = FIRST_PAUSE
    was_awaited = False
    while True:
        try:
            window = await _read_window(store, key, max_messages, lease)
        except AssistantBusy:  # noqa: PERF203 - it is tried again
            pause = random.uniform(limit / 2, limit)  # noqa: S311 - it keeps waiters out of step
            if wait_until is not None and asyncio.get_running_loop().time() + pause > wait_until:
                raise
            await asyncio.sleep(pause)
            was_awaited = True
            limit = min(limit * 2, LONGEST_PAUSE)
        else:
            return TurnLease(store, key, lease, window, was_awaited=was_awaited)


def lease_of(request_id: str, server: str, seconds: float) -> Lease:
    """Makes the lease of a turn that a server runs."""
    return Lease(f"{_turn(request_id)}.{server}", seconds)


async def cancel(store: Store, key: AssistantKey, request_id: str) -> bool:
    """Ends a turn that runs anywhere; False where none of this name has the assistant.

    It is not stored from now on, and its server learns of it when it renews the lease.
    """
    return await store.cancel_lease(key.collection, key.id, _turn(request_id))


def _turn(request_id: str) -> str:
    """Names a turn in a lease, which must not be as long as a `request_id` may be."""
    return hashlib.sha256(request_id.encode()).hexdigest()[:32]


async def _read_window(store: Store, key: AssistantKey, max_messages: int, lease: Lease) -> Window:
    """Reads a window with a lease, and leaves none behind when the caller goes away meanwhile."""
    reading = asyncio.ensure_future(store.read_window(key.collection, key.id, max_messages, lease))
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        # Once it is under way, the lease may be taken at any moment.
        await asyncio.wait([reading])
        if reading.exception() is None:
            await _release(store, key, lease)
        raise


async def _release(store: Store, key: AssistantKey, lease: Lease) -> None:
    with anyio.move_on_after(RELEASE_TIMEOUT):
        try:
            await store.release_lease(key.collection, key.id, lease)
        except PalaverError:
            logger.info("a lease was not given back; it runs out by itself", exc_info=True)
