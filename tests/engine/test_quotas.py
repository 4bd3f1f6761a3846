"""The limits of callers, by a clock that the test moves."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from palaver_server.domain.errors import QuotaExceeded
from palaver_server.domain.limits import MIN_QUOTAS_TO_SWEEP
from palaver_server.domain.rights import Rights
from palaver_server.domain.turns import ANONYMOUS, Caller
from palaver_server.engine.quotas import Quotas


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quotas(clock: Clock) -> Quotas:
    return Quotas(clock)


def caller(subject: str = "", **limits: int) -> Caller:
    return Caller("shop", subject, Rights(**limits))


def run(quotas: Quotas, whose: Caller, turns: int = 1) -> None:
    for _ in range(turns):
        with quotas.turn(whose):
            pass


def refused(quotas: Quotas, whose: Caller) -> QuotaExceeded:
    with pytest.raises(QuotaExceeded) as caught:
        run(quotas, whose)
    return caught.value


def test_turns_at_a_time(quotas: Quotas):
    whose = caller(max_turns=2)
    with ExitStack() as turns:
        for _ in range(2):
            turns.enter_context(quotas.turn(whose))
        assert "max_turns" in str(refused(quotas, whose))
        run(quotas, caller("another", max_turns=2))
    run(quotas, whose, 5)


def test_turns_within_a_minute(quotas: Quotas, clock: Clock):
    whose = caller(turns_per_minute=6)
    run(quotas, whose, 6)
    error = refused(quotas, whose)
    assert "turns_per_minute" in str(error)
    assert error.retry_delay == pytest.approx(10)
    clock.now += 9
    assert refused(quotas, whose).retry_delay == pytest.approx(1)
    clock.now += 1
    run(quotas, whose)
    refused(quotas, whose)
    clock.now += 3600
    run(quotas, whose, 6)
    refused(quotas, whose)


def test_a_refused_turn_does_not_count(quotas: Quotas, clock: Clock):
    whose = caller(max_turns=1, turns_per_minute=60)
    with quotas.turn(whose):
        for _ in range(100):
            refused(quotas, whose)
    run(quotas, whose, 59)
    refused(quotas, whose)


def test_a_new_limit_applies_at_once(quotas: Quotas, clock: Clock):
    run(quotas, caller(turns_per_minute=60), 60)
    run(quotas, caller(), 5)
    refused(quotas, caller(turns_per_minute=60))
    clock.now += 60
    run(quotas, caller(turns_per_minute=2), 2)
    refused(quotas, caller(turns_per_minute=2))
    run(quotas, caller(max_turns=5), 5)
    run(quotas, caller(turns_per_minute=3), 3)
    refused(quotas, caller(turns_per_minute=3))


def test_idle_users_are_forgotten(quotas: Quotas, clock: Clock):
    with quotas.turn(caller("running", max_turns=1)):
        for number in range(MIN_QUOTAS_TO_SWEEP):
            run(quotas, caller(str(number), turns_per_minute=10))
        clock.now += 60
        for number in range(MIN_QUOTAS_TO_SWEEP):
            run(quotas, caller(f"new {number}", turns_per_minute=10))
        assert len(quotas._quotas) <= MIN_QUOTAS_TO_SWEEP + 1
        refused(quotas, caller("running", max_turns=1))


def test_callers_without_limits_are_not_kept(quotas: Quotas):
    run(quotas, ANONYMOUS, 10)
    assert not quotas._quotas
