"""An attack, as a row of the table, and its outcome, as a line of the report."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from tests.attack.target import Target

MAX_WAIT = 250
"""The longest time that a second caller may wait for `GetAssistant` while an attack runs, in milliseconds."""

MAX_GROWTH = 64
"""The most MiB by which an attack may let the server grow, unless its row says otherwise."""

TIME_LIMIT = 60.0


@dataclass(frozen=True)
class Attack:
    """An attack and its limits."""

    name: str
    run: Callable[[Target], Awaitable[None]]
    max_growth: int = MAX_GROWTH
    """In MiB."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Settings of the server under attack."""
    time_limit: float = TIME_LIMIT
    """The seconds after which the attack is stopped and has failed."""

    def __str__(self) -> str:
        return f"{self.name:<46} wait {MAX_WAIT} ms   growth {self.max_growth:>3} MiB"


@dataclass(frozen=True)
class Outcome:
    """What one attempt of an attack did to the server and to the second caller."""

    attack: str
    max_growth: int
    """In MiB."""
    wait: float
    """The longest wait of the second caller, in seconds."""
    idle_wait: float
    """Its longest wait in the half second before the attack."""
    noise: float
    """The longest time, in seconds, that the machine gave it no processor during the attack."""
    growth: float
    """The growth of the server's memory at its peak, in MiB."""
    seconds: float
    findings: tuple[str, ...]
    note: str = ""

    @property
    def is_met(self) -> bool:
        """True if the server withstood the attack."""
        return self._is_in_time and self._is_sound

    @property
    def is_only_slow(self) -> bool:
        """True if the wait of the second caller is the only fault, which can also be the fault of the machine."""
        return self._is_sound and not self._is_in_time

    @property
    def _is_in_time(self) -> bool:
        return self.wait * 1000 <= MAX_WAIT

    @property
    def _is_sound(self) -> bool:
        return self.growth <= self.max_growth and not self.findings

    def __str__(self) -> str:
        idle, noise = self.idle_wait * 1000, self.noise * 1000
        return (
            f"{self.attack:<46} wait {self.wait * 1000:>7,.0f} ms (idle {idle:>3,.0f}, noise {noise:>3,.0f})"
            f"   growth {self.growth:>6,.0f} of {self.max_growth:>3} MiB   findings {len(self.findings)}"
            f"   {self.seconds:>4,.0f} s{'   ' if self.note else ''}{self.note}"
        )
