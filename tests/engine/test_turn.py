"""The progress events that the callers of a turn get, on a clock that jumps from timer to timer."""

from __future__ import annotations

import asyncio
import functools
import gc
import selectors
import weakref
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone

import pytest

from palaver_server.domain.conversation import Assistant, SkillCall
from palaver_server.domain.errors import ModelStreamBroken
from palaver_server.domain.generation import GenerationParameters
from palaver_server.domain.stages import Observers
from palaver_server.domain.turns import (
    ANONYMOUS,
    FinishReason,
    Progress,
    ProgressPhase,
    TextDelta,
    TurnCompleted,
    TurnEvent,
    TurnKey,
    TurnStarted,
    Usage,
)
from palaver_server.engine.turn import Turn
from tests.support.conversations import key

INTERVAL = 8.0
MODEL, SKILL = ProgressPhase.MODEL, ProgressPhase.SKILL

STARTED = TurnStarted("r", GenerationParameters())
CALL = SkillCall("call-1", "clock", "{}")
TIME = datetime(2026, 1, 1, tzinfo=timezone.utc)
COMPLETED = TurnCompleted(Assistant("a", TIME, TIME, 2, 7), (), FinishReason.STOP, Usage(), "gpt-x")

Work = Callable[[Turn], Awaitable[None]]
Arrivals = list[tuple[float, TurnEvent | Progress]]


class JumpingSelector(selectors.DefaultSelector):
    """A selector that moves a clock forward instead of waiting for a timer."""

    now = 0.0

    def select(self, timeout: float | None = None):
        if timeout is not None:
            self.now += timeout
            timeout = 0
        return super().select(timeout)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop on which no time passes except that of its timers."""

    def __init__(self) -> None:
        self._clock = JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def on_a_jumping_clock(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Runs a test on an event loop of its own, which begins at 0 seconds."""

    @functools.wraps(test)
    def run() -> None:
        loop = JumpingLoop()
        try:
            loop.run_until_complete(test())
        finally:
            loop.close()

    return run


def running(work: Work) -> Turn:
    """Returns a turn that does this work."""
    turn = Turn(TurnKey(key(), "r"), "hash", ANONYMOUS, Observers(), INTERVAL)
    turn.start(work(turn), on_end=lambda _turn: None)
    return turn


async def read(turn: Turn, *, pause: float = 0, with_progress: bool = True) -> Arrivals:
    """Reads a turn to its end, with a pause after its first event; returns the events and when they arrived."""
    arrivals: Arrivals = []
    subscriber = turn.subscribe()
    if with_progress:
        subscriber.report_progress()
    try:
        async for event in subscriber:
            arrivals.append((asyncio.get_running_loop().time(), event))
            if len(arrivals) == 1:
                await asyncio.sleep(pause)
    finally:
        subscriber.leave()
    return arrivals


async def silent_for_20_seconds(turn: Turn) -> None:
    turn.begin(STARTED)
    await asyncio.sleep(20)
    turn.publish(COMPLETED)


@on_a_jumping_clock
async def test_progress_comes_after_each_interval_of_silence():
    async def work(turn: Turn) -> None:
        turn.begin(STARTED)
        await asyncio.sleep(20)
        turn.publish(TextDelta("Hello"))
        await asyncio.sleep(7)
        turn.publish(CALL)
        turn.phase = SKILL
        await asyncio.sleep(9)
        turn.publish(COMPLETED)

    assert await read(running(work)) == [
        (0, STARTED),
        (8, Progress(MODEL, 8)),
        (16, Progress(MODEL, 16)),
        (20, TextDelta("Hello")),
        (27, CALL),
        (35, Progress(SKILL, 35)),
        (36, COMPLETED),
    ]


@on_a_jumping_clock
async def test_a_turn_that_has_not_begun_reports_no_progress():
    async def work(turn: Turn) -> None:
        await asyncio.sleep(20)
        turn.begin(STARTED)
        await asyncio.sleep(9)
        turn.publish(COMPLETED)

    assert await read(running(work)) == [(20, STARTED), (28, Progress(MODEL, 8)), (29, COMPLETED)]


@on_a_jumping_clock
async def test_a_replay_reports_no_progress():
    async def work(turn: Turn) -> None:
        turn.publish(STARTED)
        await asyncio.sleep(20)
        turn.publish(COMPLETED)

    assert await read(running(work)) == [(0, STARTED), (20, COMPLETED)]


@on_a_jumping_clock
async def test_a_caller_that_does_not_ask_for_progress_gets_none():
    assert await read(running(silent_for_20_seconds), with_progress=False) == [(0, STARTED), (20, COMPLETED)]


@on_a_jumping_clock
async def test_each_caller_has_silences_of_its_own():
    turn = running(silent_for_20_seconds)
    first = asyncio.ensure_future(read(turn))
    await asyncio.sleep(3)
    second = asyncio.ensure_future(read(turn))
    assert [time for time, _ in await first] == [0, 8, 16, 20]
    assert await second == [(3, STARTED), (11, Progress(MODEL, 11)), (19, Progress(MODEL, 19)), (20, COMPLETED)]


@on_a_jumping_clock
async def test_progress_does_not_pile_up_for_a_caller_that_reads_slowly():
    async def work(turn: Turn) -> None:
        turn.begin(STARTED)
        turn.publish(TextDelta("Hello"))
        await asyncio.sleep(60)
        turn.publish(COMPLETED)

    assert await read(running(work), pause=50) == [
        (0, STARTED),
        (50, TextDelta("Hello")),
        (58, Progress(MODEL, 58)),
        (60, COMPLETED),
    ]


@on_a_jumping_clock
async def test_progress_ends_with_the_turn():
    async def work(turn: Turn) -> None:
        turn.begin(STARTED)
        await asyncio.sleep(10)
        raise ModelStreamBroken("the endpoint has gone")

    subscriber = running(work).subscribe()
    subscriber.report_progress()
    assert [await anext(subscriber) for _ in range(2)] == [STARTED, Progress(MODEL, 8)]
    for _ in range(2):
        with pytest.raises(ModelStreamBroken):
            await anext(subscriber)
        await asyncio.sleep(2 * INTERVAL)
    subscriber.leave()


@on_a_jumping_clock
async def test_a_caller_that_leaves_takes_its_timer_with_it():
    turn = running(silent_for_20_seconds)
    subscriber = turn.subscribe()
    subscriber.report_progress()
    assert await anext(subscriber) == STARTED
    subscriber.leave()
    await turn.wait()
    left = weakref.ref(subscriber)
    del subscriber
    gc.collect()
    assert left() is None
