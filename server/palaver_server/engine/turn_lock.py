"""The lock that gives a turn exclusive use of its assistant.

Within a process, turns queue in the order of their arrival. Across processes, the turn at the head of the queue takes a
short lease in the store and renews it while it runs. The clocks of the servers must agree to within seconds. If they
don't, or if a lease expired because the store could not be reached, two turns may run at once. The later commit then
fails, so the history remains consistent.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from palaver_server.domain.conversation import AssistantKey
from palaver_server.domain.errors import AssistantBusy, ConcurrentWrite, PalaverError, StoreError, TurnCancelled
from palaver_server.domain.ports import Store
from palaver_server.domain.turns import FinishedTurn, Lease, LeaseHolder, StoredTurn, TurnKey, Window, WindowSize

logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3
"""How often a lease is renewed within its duration, so that a single failed call does not lose it."""

RELEASE_TIMEOUT = 1.0
"""Seconds that releasing a lease may take. A lease that is not released expires."""

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.4
"""Seconds between two looks at a lease that another process holds."""

FAIR_SHARE = 3.0
"""Seconds for which turns of the same process may follow each other before other processes get a chance."""

GAP = LONGEST_PAUSE + 0.1
"""Seconds that this chance lasts. Every process that waits for the assistant makes an attempt within that time."""


class TurnLock:
    """Exclusive use of an assistant, until the turn is committed or the lock released."""

    def __init__(self, store: Store, turn: TurnKey, lease: Lease, window: Window, *, was_contended: bool) -> None:
        self.window = window
        """The conversation when the lock was taken."""
        self.was_contended = was_contended
        """True if another process had the assistant immediately before."""
        self._store = store
        self._turn = turn
        self._lease = lease
        self._version = window.version
        self._is_committed = False
        self._first_renewal: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None

    def start_renewing(self, on_loss: Callable[[PalaverError], object]) -> None:
        """Renews the lease periodically. Calls `on_loss` if another holder has taken it or it was cancelled."""

        def renew_from_now() -> None:
            self._renewing = asyncio.create_task(self._renew(on_loss))

        # Most turns end before the first renewal, so there is no task before it is due.
        self._first_renewal = asyncio.get_running_loop().call_later(self._renewal_interval, renew_from_now)

    @property
    def _renewal_interval(self) -> float:
        return self._lease.seconds / RENEWALS_PER_LEASE

    async def _renew(self, on_loss: Callable[[PalaverError], object]) -> None:
        while True:
            try:
                self._version = await self._store.renew_lease(self._turn.assistant, self._version, self._lease)
            except (ConcurrentWrite, TurnCancelled) as error:
                on_loss(error)
                return
            except StoreError:
                logger.warning("the lease of a turn was not renewed; retrying", exc_info=True)
            await asyncio.sleep(self._renewal_interval)

    async def _stop_renewing(self) -> None:
        if self._first_renewal is not None:
            self._first_renewal.cancel()
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
            self._renewing = None

    async def commit(self, turn: FinishedTurn) -> StoredTurn:
        """Stores the turn, which also ends the lease."""
        await self._stop_renewing()
        stored = await self._store.commit_turn(self._turn.assistant, self._version, turn)
        self._is_committed = True
        return stored

    async def release(self) -> None:
        """Releases the lease, unless a commit has ended it."""
        await self._stop_renewing()
        if not self._is_committed:
            await _release(self._store, self._turn, self._lease)


@dataclass(slots=True)
class _Queue:
    """The turns of this process that use or wait for one assistant."""

    mutex: asyncio.Lock = field(default_factory=asyncio.Lock)  # it wakes waiters in the order of their arrival
    length: int = 0
    streak_start: float | None = None
    """The time since which only turns of this process have used the assistant."""

    def record_turn(self, *, was_contended: bool) -> None:
        """Records that a turn of this process has taken the assistant."""
        if self.streak_start is None or was_contended:
            self.streak_start = asyncio.get_running_loop().time()

    async def yield_to_other_processes(self, wait_until: float | None) -> None:
        """Leaves the assistant free for a moment if this process has used it for its fair share of time."""
        now = asyncio.get_running_loop().time()
        if self.streak_start is not None and now - self.streak_start > FAIR_SHARE:
            await asyncio.sleep(GAP if wait_until is None else min(GAP, wait_until - now))
            self.streak_start = None


class TurnLocks:
    """The locks of all assistants, as seen by one process."""

    def __init__(self, queue_limit: int, lease_seconds: float) -> None:
        """Takes the number of turns that may wait for one assistant, and the duration of a lease."""
        self._queue_limit = queue_limit
        self._lease_seconds = lease_seconds
        self._queues: dict[AssistantKey, _Queue] = {}
        # Queues are per name of a connection. If two names lead to the same store, this process acts as two servers.
        self._servers: defaultdict[str, str] = defaultdict(lambda: uuid.uuid4().hex)

    @asynccontextmanager
    async def acquire(
        self, store: Store, turn: TurnKey, size: WindowSize, wait_until: float | None
    ) -> AsyncGenerator[TurnLock, None]:
        """Waits for the assistant of a turn, and yields a lock on it with a window of at most a size.

        Raises `AssistantBusy` if the queue is full, or when `wait_until` is reached, a time of the event loop.
        """
        key = turn.assistant.normalized()
        queue = self._queues.setdefault(key, _Queue())
        if queue.length > self._queue_limit:
            raise AssistantBusy(f"{self._queue_limit} turns are already waiting for this assistant")
        queue.length += 1
        try:
            if queue.length == 1:
                await queue.mutex.acquire()  # at once
            else:
                with anyio.CancelScope(deadline=math.inf if wait_until is None else wait_until) as scope:
                    await queue.mutex.acquire()
                if scope.cancelled_caught:
                    raise AssistantBusy("other turns of this assistant took too long")
            try:
                await queue.yield_to_other_processes(wait_until)
                lease = Lease(
                    LeaseHolder.of(turn.request_id, self._servers[turn.assistant.connection]), self._lease_seconds
                )
                lock = await _take(store, turn, lease, size, wait_until)
                try:
                    queue.record_turn(was_contended=lock.was_contended)
                    yield lock
                finally:
                    await lock.release()
            finally:
                queue.mutex.release()
        finally:
            queue.length -= 1
            if not queue.length:
                del self._queues[key]


async def _take(store: Store, turn: TurnKey, lease: Lease, size: WindowSize, wait_until: float | None) -> TurnLock:
    """Takes the lease of an assistant. Retries until `wait_until` while another process holds it."""
    pauses = _pauses()
    was_contended = False
    while True:
        try:
            window = await _read_window(store, turn, size, lease)
        except AssistantBusy:  # noqa: PERF203 - the call is retried
            if not await _sleep(next(pauses), wait_until):
                raise
            was_contended = True
        else:
            return TurnLock(store, turn, lease, window, was_contended=was_contended)


async def wait_for_other_servers(store: Store, turn: TurnKey, wait_until: float | None) -> None:
    """Waits until no server has the lease of a turn; raises `AssistantBusy` when `wait_until` is reached."""
    pauses = _pauses()
    while await store.has_lease(turn):
        if not await _sleep(next(pauses), wait_until):
            raise AssistantBusy("another server is still running this turn")


def _pauses() -> Iterator[float]:
    limit = FIRST_PAUSE
    while True:
        yield random.uniform(limit / 2, limit)  # noqa: S311 - jitter needs no secrecy
        limit = min(limit * 2, LONGEST_PAUSE)


async def _sleep(pause: float, wait_until: float | None) -> bool:
    """Sleeps, or returns False at once if that would take until after `wait_until`."""
    if wait_until is not None and asyncio.get_running_loop().time() + pause > wait_until:
        return False
    await asyncio.sleep(pause)
    return True


async def _read_window(store: Store, turn: TurnKey, size: WindowSize, lease: Lease) -> Window:
    """Reads a window with a lease, and releases the lease if the turn is cancelled in the meantime."""
    # The newest message shows whether skill calls wait for their results, so at least one is read.
    max_messages = max(size.max_messages, 1)
    reading = asyncio.ensure_future(store.read_window(turn.assistant, max_messages, lease, max_bytes=size.max_bytes))
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        # The call is under way, so the store may still take the lease.
        await asyncio.wait([reading])
        if reading.exception() is None:
            await _release(store, turn, lease)
        raise


async def _release(store: Store, turn: TurnKey, lease: Lease) -> None:
    with anyio.move_on_after(RELEASE_TIMEOUT):
        try:
            await store.release_lease(turn.assistant, lease.holder)
        except PalaverError:
            logger.info("the lease of a turn was not released; it will expire", exc_info=True)
