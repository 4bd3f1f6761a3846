"""What the server reads again on SIGHUP, such as certificates that were renewed."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

logger = logging.getLogger(__name__)

SIGHUP = getattr(signal, "SIGHUP", None)
"""The signal, or None on Windows, which has no such signal."""


class Reloads:
    """The functions that read something again. Each keeps what it has if it fails."""

    def __init__(self) -> None:
        self._functions: dict[str, Callable[[], None]] = {}

    def add(self, what: str, function: Callable[[], None]) -> None:
        """Adds a function, which must be quick. `what` names what it reads, for the log."""
        self._functions[what] = function

    def run(self) -> None:
        """Calls all functions, in the order in which they were added."""
        for what, function in self._functions.items():
            try:
                function()
            except Exception:  # noqa: PERF203 - the others go on
                logger.exception("%s can't be read again; the server goes on with what it has", what)
            else:
                logger.info("%s was read again", what)


def ignore_until_ready() -> None:
    """Ignores SIGHUP, which would otherwise kill a process that does not handle it yet, or a worker of it."""
    if SIGHUP is not None:
        signal.signal(SIGHUP, signal.SIG_IGN)
