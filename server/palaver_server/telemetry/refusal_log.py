"""The log of refused calls. A flood of calls must not become a flood of lines, so equal refusals are summed up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from palaver_server.api.service import Call
from palaver_server.api.statuses import status_name
from palaver_server.domain.errors import (
    ConnectionNotConfigured,
    FieldError,
    QuotaExceeded,
    SlowTransfers,
    TooManyTurns,
    Unauthenticated,
)
from palaver_server.domain.log_fields import fields

logger = logging.getLogger(__name__)

INTERVAL = 10.0
"""Seconds between two lines about equal refusals. The second one counts those in between."""

REFUSALS = (FieldError, Unauthenticated, QuotaExceeded, TooManyTurns, SlowTransfers, ConnectionNotConfigured)
"""The errors that are logged here. The others are those of turns, stores and endpoints, or ordinary answers."""

MAX_KINDS = 1_000
"""The kinds of refusals that are told apart. There are as many as callers in the callers' file times reasons."""


@dataclass(slots=True)
class _Kind:
    logged_at: float
    unlogged: int = 0


class RefusalLog:
    """Logs calls that fail with one of Palaver's errors."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, str, str], _Kind] = {}

    def refused(self, call: Call, error: Exception) -> None:
        """Logs the error of a call, unless an equal one was logged a moment ago."""
        if not isinstance(error, REFUSALS):
            return
        now = self._clock()
        key = (call.method, call.caller.name, error.reason)
        kind = self._kinds.get(key)
        if kind is not None and now - kind.logged_at < INTERVAL:
            kind.unlogged += 1
            return
        if kind is None:
            if len(self._kinds) >= MAX_KINDS:
                self._kinds.clear()
            kind = self._kinds[key] = _Kind(now)
        logger.log(
            logging.INFO if isinstance(error, FieldError) else logging.WARNING,
            "a call was refused",
            extra=fields(
                method=call.method.rpartition("/")[2],
                caller=call.caller.name,
                peer=call.peer,
                status=status_name(error),
                reason=error.reason,
                cause=error.log_text,
                others=kind.unlogged or None,
            ),
        )
        kind.logged_at, kind.unlogged = now, 0
