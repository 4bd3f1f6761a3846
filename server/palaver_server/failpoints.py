"""The points at which a test of faults can make a server die, all in this list.

`PALAVER_FAILPOINT=turn_stored:3` has the process kill itself, as `kill -9` does, when it comes to that point for the
third time. Without the variable they do nothing.
"""

from __future__ import annotations

import os
import signal
from enum import Enum

VARIABLE = "PALAVER_FAILPOINT"


class Failpoint(Enum):
    """A point in the life of a turn, in the order in which a turn comes by."""

    TURN_ACCEPTED = "turn_accepted"
    """It has not looked for a stored turn of its name yet."""
    ASSISTANT_TAKEN = "assistant_taken"
    """It has its assistant to itself, and the caller knows nothing of it."""
    TURN_STARTED = "turn_started"
    """The caller may know that it runs; the model is not called yet."""
    TEXT_RECEIVED = "text_received"
    """A piece of the reply came from the model, and has not been passed on."""
    REPLY_ENDED = "reply_ended"
    """The model is paid for, and nothing is stored."""
    TURN_WRITTEN = "turn_written"
    """The turn is in a transaction of the store which is not committed: begun in SQLite, not sent to Azure."""
    TURN_STORED = "turn_stored"
    """The turn is stored, and the caller does not know."""
    TURN_COMPLETED = "turn_completed"
    """The caller may know that the turn is stored."""


_armed: Failpoint | None = None
_left = 0


def arm(text: str) -> None:
    """Reads the variable's value, "NAME" or "NAME:COUNT"; raises `ValueError` with what is wrong."""
    global _armed, _left
    name, _, count = text.partition(":")
    names = [point.value for point in Failpoint]
    if name not in names:
        raise ValueError(f"must be one of {', '.join(names)}, not {name!r}")
    if not (count or "1").isdigit() or int(count or "1") < 1:
        raise ValueError(f"must end with how often the point is reached, 1 or more, not {count!r}")
    _armed, _left = Failpoint(name), int(count or "1")


def reach(point: Failpoint) -> None:
    """Ends the process if it is its time."""
    global _left  # noqa: PLW0603 - there is one process to kill
    if point is _armed:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
