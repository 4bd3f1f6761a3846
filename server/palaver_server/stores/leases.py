"""Leases as the stores keep them, and what tells a server whether another one's lease is still in force."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from typing_extensions import Self

from palaver_server.domain.errors import AssistantBusy
from palaver_server.domain.limits import MAX_LEASE_SECONDS
from palaver_server.domain.turns import Lease, LeaseHolder

CANCELLED = "cancelled "
"""The prefix of a holder whose lease was cancelled, so that the holder can tell this from the loss of the lease."""


DURATION = re.compile(r"\.(\d{1,9})ms$", re.ASCII)

WATCHED_LEASES = 1000
"""The leases that a server remembers: those that it has looked at last."""


@dataclass(frozen=True, slots=True)
class StoredLease:
    """A lease as it is stored with an assistant."""

    holder: LeaseHolder | None
    until: datetime
    is_cancelled: bool = False
    seconds: float | None = None
    """How long the lease lasted when it was taken or renewed. Older servers do not store it."""

    @classmethod
    def lasting(cls, lease: Lease, now: datetime) -> Self:
        """Returns the stored form of a lease that is taken or renewed now."""
        return cls(lease.holder, now + timedelta(seconds=lease.seconds), seconds=lease.seconds)

    @classmethod
    def parse(cls, holder: str, until: datetime) -> Self:
        """Parses the stored form of a holder: empty, or `TURN.SERVER.15000ms`.

        `cancelled ` may precede it. The duration may be missing; older servers take it for a part of the server.
        """
        text = holder.removeprefix(CANCELLED)
        if duration := DURATION.search(text):
            text = text[: duration.start()]
        turn, _, server = text.partition(".")
        return cls(
            LeaseHolder(turn, server) if turn else None,
            until,
            holder.startswith(CANCELLED),
            int(duration[1]) / 1000 if duration else None,
        )

    @property
    def holder_text(self) -> str:
        """The stored form of the holder, which older servers read and write too."""
        if self.holder is None:
            return ""
        duration = "" if self.seconds is None else f".{round(self.seconds * 1000)}ms"
        return f"{CANCELLED if self.is_cancelled else ''}{self.holder.turn}.{self.holder.server}{duration}"

    def belongs_to(self, request_id: str) -> bool:
        """Returns whether a turn has or had the lease, on any server."""
        return self.holder is not None and self.holder.turn == LeaseHolder.digest(request_id)

    def is_held_by(self, holder: LeaseHolder | None) -> bool:
        """Returns whether a holder still has the lease."""
        return holder is not None and holder == self.holder and not self.is_cancelled

    def was_cancelled(self, holder: LeaseHolder | None) -> bool:
        """Returns whether a holder had the lease until it was cancelled."""
        return holder is not None and holder == self.holder and self.is_cancelled


class LeaseWatch:
    """Tells whether leases are in force, by the clock of the machine and by how long they have not been renewed.

    The stored time at which a lease expires may be hours away if a clock was set back. But a server that is alive
    renews its lease, so a lease that this process has seen unchanged for its whole duration belongs to a dead one.
    """

    def __init__(self) -> None:
        self._first_seen = lru_cache(WATCHED_LEASES)(lambda _lease: time.monotonic())

    def is_in_force(self, lease: StoredLease, now: datetime) -> bool:
        """Returns whether a lease has neither expired nor been cancelled."""
        if lease.until <= now or lease.is_cancelled:
            return False
        return time.monotonic() - self._first_seen(lease) <= _duration(lease)

    def check_available(self, lease: StoredLease, wanted: Lease, now: datetime) -> None:
        """Raises `AssistantBusy` if a lease prevents another one from being taken."""
        if self.is_in_force(lease, now) and not wanted.may_replace(lease.holder):
            remaining = min((lease.until - now).total_seconds(), _duration(lease))
            raise AssistantBusy("another turn of the assistant is running", retry_after=remaining)


def _duration(lease: StoredLease) -> float:
    return MAX_LEASE_SECONDS if lease.seconds is None else lease.seconds
