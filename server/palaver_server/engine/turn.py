"""A running turn and the callers who follow it.

A turn keeps its events from the first one, so a caller may join at any time, and again after its connection broke. It
runs in a task of its own: a caller that leaves does not disturb the others, and a commit that has begun is never torn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from palaver_server.errors import PalaverError, ShuttingDown
from palaver_server.models import TextDelta, TurnCompleted, TurnEvent

MAX_LEAD = 64 * 1024
"""Characters of the reply that a turn may be ahead of its fastest caller before it stops reading from the model."""


class Turn:
    """The events of a turn, written by its task and read by its followers."""

    def __init__(self, request_hash: str = "") -> None:
        """Takes what tells the request of the turn from others with its name."""
        self.request_hash = request_hash
        self.continues = False
        """Whether the turn runs on when nobody follows it any more."""
        self._events: list[TurnEvent] = []
        self._error: BaseException | None = None
        self._ended = False
        self._produced = 0
        self._consumed = 0
        self._followers: set[Follower] = set()
        self._room: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._cancel_error: PalaverError | None = None
        self._sealed = False
        self._cancelled = False

    def start(self, work: Coroutine[Any, Any, None], on_end: Callable[[Turn], None]) -> None:
        """Runs the work of the turn, whose exception becomes that of the followers."""
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(self._end)
        self._task.add_done_callback(lambda _task: on_end(self))

    def _end(self, task: asyncio.Task[None]) -> None:
        # A follower must never see CancelledError: it would look like the cancellation of the follower itself.
        if task.cancelled():
            self._error = self._cancel_error or ShuttingDown("the turn was ended")
        else:
            self._error = task.exception()
        self._ended = True
        self._wake()

    def publish(self, event: TurnEvent) -> None:
        """Adds an event."""
        self._events.append(event)
        if isinstance(event, TextDelta):
            self._produced += len(event.text)
        self._wake()

    @property
    def is_far_ahead(self) -> bool:
        """Whether even the fastest follower is so far behind that reading on would only fill the memory."""
        return self._produced - self._consumed > MAX_LEAD and bool(self._followers)

    async def room(self) -> None:
        """Waits until a follower has caught up, so that a slow caller slows the model."""
        while self.is_far_ahead:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def seal(self) -> None:
        """Makes the turn deaf to `cancel`, because it is about to be stored."""
        if self._cancelled:
            raise asyncio.CancelledError
        self._sealed = True

    def cancel(self, error: PalaverError | None = None) -> bool:
        """Ends the turn, unless it is being stored; its followers get the error. Says whether it has had an effect."""
        if self._task is None or self._sealed or self._cancelled or self._ended:
            return False
        self._cancelled = True
        self._cancel_error = error
        self._task.cancel()
        return True

    @property
    def is_cancelled(self) -> bool:
        """Whether the turn will not complete, because it was ended before."""
        return self._cancelled

    @property
    def has_started(self) -> bool:
        """Whether the turn has its assistant to itself; before that it waits in the queue."""
        return bool(self._events)

    async def ended(self) -> None:
        """Waits until the turn has ended, however it ended."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def follow(self) -> Follower:
        """Makes a follower, who gets all events from the first one."""
        follower = Follower(self)
        self._followers.add(follower)
        return follower

    def _leave(self, follower: Follower) -> None:
        if follower in self._followers:
            self._followers.remove(follower)
            self._make_room()
            if not self._followers and not self.continues:
                self.cancel()

    def _wake(self) -> None:
        for follower in self._followers:
            follower.wake()

    def _has_read(self, characters: int) -> None:
        """Notes how far a follower is; the fastest one counts, which is why one that leaves is not subtracted."""
        if characters > self._consumed:
            self._consumed = characters
            self._make_room()

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class Follower:
    """A caller's view of a turn: an asynchronous iterator over its events.

    Text that came since the caller last looked is one event, however many pieces it came in.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._next = 0
        self._news: asyncio.Future[None] | None = None
        self._consumed = 0

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> TurnEvent:
        turn = self._turn
        while self._next == len(turn._events):
            if turn._ended:
                if turn._error is not None:
                    raise turn._error
                raise StopAsyncIteration
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        event = turn._events[self._next]
        self._next += 1
        return self._whole_text(event) if isinstance(event, TextDelta) else event

    def _whole_text(self, first: TextDelta) -> TextDelta:
        text = first.text
        events = self._turn._events
        if self._next < len(events):
            pieces = [text]
            while self._next < len(events) and isinstance(event := events[self._next], TextDelta):
                pieces.append(event.text)
                self._next += 1
            text = "".join(pieces)
        self._consumed += len(text)
        self._turn._has_read(self._consumed)
        return TextDelta(text)

    def wake(self) -> None:
        """Tells the follower that there is something new."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def leave(self) -> None:
        """Says that the caller is gone. When it was the last one, the turn is cancelled."""
        self._turn._leave(self)

    async def completed(self) -> TurnCompleted:
        """Follows the turn to its end and returns the last event, or raises the turn's error."""
        async for event in self:
            if isinstance(event, TurnCompleted):
                return event
        raise AssertionError("a turn ended without an event to say so")
