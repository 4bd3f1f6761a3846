"""The limits of each caller: the turns that run or wait at a time, and the turns that start within a minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from palaver_server.domain.errors import QuotaExceeded
from palaver_server.domain.limits import MIN_QUOTAS_TO_SWEEP
from palaver_server.domain.rights import Rights
from palaver_server.domain.turns import Caller

SECONDS = 60


@dataclass(slots=True)
class _Quota:
    """The use that a caller has made of its limits."""

    at: float
    """The time as of which `left` is known."""
    left: float
    """The turns that may start at once. It grows with time, up to those of a whole minute."""
    per_minute: int | None
    running: int = 0

    def refill(self, now: float, per_minute: int | None) -> None:
        """Adds what has become free since the last time. A limit that the operator has changed applies from now on."""
        if per_minute is not None:
            used_up = self.left if self.per_minute is not None else per_minute
            self.left = min(per_minute, used_up + (now - self.at) * per_minute / SECONDS)
        self.at, self.per_minute = now, per_minute

    def is_idle(self, now: float) -> bool:
        """Returns whether forgetting the caller makes no difference."""
        return not self.running and now - self.at >= SECONDS


class Quotas:
    """The turns of all callers, in this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._quotas: dict[tuple[str, str], _Quota] = {}
        self._sweep_at = MIN_QUOTAS_TO_SWEEP

    @contextmanager
    def turn(self, caller: Caller) -> Iterator[None]:
        """Counts a turn until the block ends; raises `QuotaExceeded` if it is one too many."""
        if caller.rights.max_turns is None and caller.rights.turns_per_minute is None:
            yield
            return
        quota = self._quota(caller)
        _check(quota, caller.name, caller.rights)
        quota.left -= 1
        quota.running += 1
        try:
            yield
        finally:
            quota.running -= 1

    def _quota(self, caller: Caller) -> _Quota:
        now, per_minute = self._clock(), caller.rights.turns_per_minute
        if len(self._quotas) >= self._sweep_at:
            self._quotas = {key: quota for key, quota in self._quotas.items() if not quota.is_idle(now)}
            self._sweep_at = max(MIN_QUOTAS_TO_SWEEP, 2 * len(self._quotas))
        quota = self._quotas.setdefault((caller.name, caller.subject), _Quota(now, per_minute or 0, per_minute))
        quota.refill(now, per_minute)
        return quota


def _check(quota: _Quota, name: str, rights: Rights) -> None:
    if rights.max_turns is not None and quota.running >= rights.max_turns:
        raise QuotaExceeded(f'the caller "{name}" is already running {rights.max_turns} turns (max_turns)')
    if rights.turns_per_minute is not None and quota.left < 1:
        raise QuotaExceeded(
            f'the caller "{name}" has started {rights.turns_per_minute} turns within a minute (turns_per_minute)',
            retry_after=(1 - quota.left) * SECONDS / rights.turns_per_minute,
        )
