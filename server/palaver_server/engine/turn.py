"""A running turn and its subscribers.

A turn keeps all of its events, so a caller can join at any time, and again after its connection broke. The turn runs in
its own task: a caller that leaves does not affect the others, and a commit that has begun completes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime, timezone
from typing import Any

from palaver_server.domain.administration import RunningTurn, TurnPhase
from palaver_server.domain.errors import PalaverError, ShuttingDown, TurnCancelled
from palaver_server.domain.generation import GenerationParameters
from palaver_server.domain.stages import Observer, Stage
from palaver_server.domain.turns import (
    Caller,
    Progress,
    ProgressPhase,
    TextDelta,
    TurnCompleted,
    TurnEvent,
    TurnKey,
    TurnStarted,
    Usage,
)

MAX_UNREAD_CHARACTERS = 64 * 1024
"""Characters that even the fastest subscriber may have left to read before the turn stops reading from the model."""


class Turn:
    """The events of a turn, published by its task and read by its subscribers."""

    def __init__(
        self, key: TurnKey, request_hash: str, caller: Caller, observer: Observer, progress_interval: float
    ) -> None:
        """Takes the key of the turn, and the hash of its request, to detect a different request with the same key."""
        self.key = key
        self.request_hash = request_hash
        self.caller = caller
        """The caller that started the turn."""
        self.continues = False
        """True if the turn keeps running after its last subscriber has left."""
        self.phase = ProgressPhase.MODEL
        """The phase of the turn. It has a meaning only once the turn has begun."""
        self.parameters: GenerationParameters | None = None
        """The parameters in effect, or None until the turn is planned."""
        self.usage = Usage()
        """The usage of the model calls that have ended."""
        self.progress_interval = progress_interval
        """The seconds of silence after which a subscriber gets a progress event."""
        self._observer = observer
        self._create_time = datetime.now(timezone.utc)
        self._created_at = asyncio.get_running_loop().time()
        self._began_at: float | None = None
        self._events: list[TurnEvent] = []
        self._error: BaseException | None = None
        self._ended = False
        self._produced = 0
        self._consumed = 0
        self._subscribers: set[Subscriber] = set()
        self._demand: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._cancel_error: PalaverError | None = None
        self._is_committing = False
        self._cancelled = False

    def start(self, work: Coroutine[Any, Any, None], on_end: Callable[[Turn], None]) -> None:
        """Runs the work of the turn in a task, and then calls `on_end`. Subscribers get the exception of the work."""
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(self._end)
        self._task.add_done_callback(lambda _task: on_end(self))

    def _end(self, task: asyncio.Task[None]) -> None:
        # A subscriber must never see CancelledError: it would look like the cancellation of the subscriber itself.
        if task.cancelled():
            self._error = self._cancel_error or ShuttingDown("the turn was ended")
        else:
            self._error = task.exception()
        self._ended = True
        self._observer.reached(Stage.ENDED, self.key, self._error)
        self._wake()

    def begin(self, event: TurnStarted) -> None:
        """Publishes the first event of a turn that runs, so that subscribers get progress events from now on."""
        self._began_at = asyncio.get_running_loop().time()
        self.publish(event)

    def publish(self, event: TurnEvent) -> None:
        """Appends an event."""
        self._events.append(event)
        if isinstance(event, TextDelta):
            self._produced += len(event.text)
        self._wake()

    def progress(self) -> Progress | None:
        """Returns the progress of a turn that runs, or None before it has begun and for a replay."""
        if self._began_at is None:
            return None
        return Progress(self.phase, asyncio.get_running_loop().time() - self._began_at)

    def snapshot(self) -> RunningTurn:
        """Returns the turn as an operator sees it now."""
        return RunningTurn(
            key=self.key,
            caller=self.caller,
            create_time=self._create_time,
            age=asyncio.get_running_loop().time() - self._created_at,
            phase=self._turn_phase(),
            parameters=self.parameters,
            characters=self._produced,
            usage=self.usage,
            readers=len(self._subscribers),
        )

    def _turn_phase(self) -> TurnPhase:
        if not self.has_started:
            return TurnPhase.WAITING
        if self._is_committing:
            return TurnPhase.STORING
        return TurnPhase.SKILL if self.phase is ProgressPhase.SKILL else TurnPhase.MODEL

    @property
    def has_backpressure(self) -> bool:
        """True if even the fastest subscriber is too far behind."""
        return self._produced - self._consumed > MAX_UNREAD_CHARACTERS and bool(self._subscribers)

    async def wait_for_demand(self) -> None:
        """Waits until a subscriber has caught up, so that a slow caller slows down the model."""
        while self.has_backpressure:
            self._demand = asyncio.get_running_loop().create_future()
            await self._demand

    def begin_commit(self) -> None:
        """Prevents the turn from being cancelled, because it is about to be stored.

        Raises `CancelledError` if the turn was cancelled before.
        """
        if self._cancelled:
            raise asyncio.CancelledError
        self._is_committing = True

    def cancel(self, error: PalaverError | None = None) -> bool:
        """Cancels the turn, with an error for its subscribers. Returns False if it is too late for that."""
        if self._task is None or self._is_committing or self._cancelled or self._ended:
            return False
        self._cancelled = True
        self._cancel_error = error
        self._task.cancel()
        return True

    @property
    def is_cancelled(self) -> bool:
        """True if the turn was cancelled."""
        return self._cancelled

    @property
    def has_started(self) -> bool:
        """True if the turn has published an event; before that, it waits for its assistant."""
        return bool(self._events)

    async def wait(self) -> None:
        """Waits until the turn has ended, with or without an error."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def subscribe(self) -> Subscriber:
        """Returns a new subscriber, which receives all events from the first one."""
        subscriber = Subscriber(self)
        self._subscribers.add(subscriber)
        return subscriber

    def _unsubscribe(self, subscriber: Subscriber) -> None:
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)
            self._signal_demand()
            if not self._subscribers and not self.continues:
                self.cancel(TurnCancelled("its last caller has left"))

    def _wake(self) -> None:
        for subscriber in self._subscribers:
            subscriber.wake()

    def _consume(self, characters: int) -> None:
        """Records how many characters a subscriber has read in total. Only the fastest subscriber counts."""
        if characters > self._consumed:
            self._consumed = characters
            self._signal_demand()

    def _signal_demand(self) -> None:
        if self._demand is not None and not self._demand.done():
            self._demand.set_result(None)


class Subscriber:
    """A caller's view of a turn: an asynchronous iterator over its events.

    All text that arrived since the last read is returned as one event.

    Progress events belong to the subscriber, because each caller has silences of its own. Arming a timer for each wait
    would slow down every token. Instead, one timer runs until the caller leaves, and checks how long the caller has
    been waiting.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._loop = asyncio.get_running_loop()
        self._next = 0
        self._news: asyncio.Future[Progress | None] | None = None
        self._waiting_since = 0.0
        self._silence_timer: asyncio.TimerHandle | None = None
        self._consumed = 0

    def __aiter__(self) -> Subscriber:
        return self

    async def __anext__(self) -> TurnEvent | Progress:
        turn = self._turn
        while self._next == len(turn._events):
            if turn._ended:
                if turn._error is not None:
                    raise turn._error
                turn._observer.reached(Stage.COMPLETED, turn.key)
                raise StopAsyncIteration
            self._news = self._loop.create_future()
            self._waiting_since = self._loop.time()
            progress = await self._news
            if progress is not None:
                return progress
        event = turn._events[self._next]
        self._next += 1
        return self._coalesce(event) if isinstance(event, TextDelta) else event

    def _coalesce(self, first: TextDelta) -> TextDelta:
        """Returns a piece of text, merged with all pieces that directly follow it."""
        whole = first
        events = self._turn._events
        if self._next < len(events):
            pieces = [first.text]
            while self._next < len(events) and isinstance(event := events[self._next], TextDelta):
                pieces.append(event.text)
                self._next += 1
            whole = TextDelta("".join(pieces))
        self._consumed += len(whole.text)
        self._turn._consume(self._consumed)
        return whole

    def wake(self) -> None:
        """Resumes the iteration after the turn has published an event or ended."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def report_progress(self) -> None:
        """Adds a progress event whenever the caller has waited for the interval, until it leaves."""
        self._silence_timer = self._loop.call_later(self._turn.progress_interval, self._check_silence)

    def _check_silence(self) -> None:
        """Ends a wait that has lasted for the interval, and schedules the next check."""
        interval = self._turn.progress_interval
        next_check = self._loop.time() + interval
        if self._news is not None and not self._news.done():
            silent_at = self._waiting_since + interval
            if silent_at > self._loop.time():
                next_check = silent_at
            elif (progress := self._turn.progress()) is not None:
                self._news.set_result(progress)
        self._silence_timer = self._loop.call_at(next_check, self._check_silence)

    def leave(self) -> None:
        """Ends the subscription. A turn without subscribers is cancelled, unless it continues."""
        if self._silence_timer is not None:
            self._silence_timer.cancel()
        self._turn._unsubscribe(self)

    async def completed(self) -> TurnCompleted:
        """Reads up to `TurnCompleted` and returns it, or raises the turn's error."""
        async for event in self:
            if isinstance(event, TurnCompleted):
                return event
        raise AssertionError("a turn ended without a final event")
