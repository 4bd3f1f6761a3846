"""Reconnecting a turn: when to post it again, how long to wait, and which events the caller already has.

Posting again is safe because every post of a turn has the same `request_id`: the server replays a stored turn and joins
a running one. A turn that was lost with its server, or canceled because its caller seemed to be gone, runs again, and
the model may then write something else. Nothing here does I/O, so both clients share it.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import grpc

from palaver._errors import PalaverError
from palaver._types import Event, Progress, SkillCall, SkillResult, TextDelta, TurnCompleted, TurnStarted

DEFAULT_RECONNECT_TIMEOUT = 10.0

_FIRST_DELAY, _MAX_DELAY = 0.1, 2.0

_MAX_FRUITLESS_POSTS = 3
"""How many posts in a row may bring nothing new before the caller gets the error: each may be a paid model call."""


class RetryBudget:
    """The time that a turn has left: for all of its posts together, and without a connection."""

    def __init__(self, timeout: float | None, reconnect_timeout: float) -> None:
        """Starts the budget.

        Args:
            timeout: The deadline of the whole turn, in seconds from now. None: there is none.
            reconnect_timeout: How many seconds the turn may be without a connection. 0 disables posting again.
        """
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._reconnect_timeout = reconnect_timeout
        self._disconnected_at: float | None = None
        self._delay = _FIRST_DELAY

    def time_remaining(self) -> float | None:
        """Returns the deadline of the next post, in seconds from now, or None if there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def reset(self) -> None:
        """Restores the full reconnect timeout, because an event has arrived."""
        self._disconnected_at = None
        self._delay = _FIRST_DELAY

    def delay_after(self, error: PalaverError) -> float | None:
        """Returns how many seconds to wait before posting again, or None if the caller gets the error."""
        if not _is_break(error):
            return None
        now = time.monotonic()
        self._disconnected_at = self._disconnected_at or now
        delay = max(random.uniform(self._delay / 2, self._delay), error.retry_delay or 0.0)  # noqa: S311 - no secret
        self._delay = min(2 * self._delay, _MAX_DELAY)
        limits = [self._disconnected_at + self._reconnect_timeout]
        limits += [] if self._deadline is None else [self._deadline]
        return None if now + delay > min(limits) else delay


def _is_break(error: PalaverError) -> bool:
    """Returns whether the connection or a shutdown of the server ended the call, rather than the request itself."""
    if error.reason:  # a Palaver server gives a reason for each of its own errors
        return error.reason == "SHUTTING_DOWN"
    # A proxy resets the stream when it loses the server. The status is then usually INTERNAL or CANCELLED.
    return error.status is grpc.StatusCode.UNAVAILABLE or "RST_STREAM" in error.message


@dataclass(slots=True)
class _Post:
    """What one post of a turn has brought so far."""

    is_repeated: bool
    is_answered: bool = False
    has_delivered: bool = False
    """True if the caller got text or skill events from it."""
    has_restarted: bool = False

    @property
    def extends_the_reply(self) -> bool:
        """True if it brought something new. A reply that starts over does not: it replaces what was there before."""
        return self.has_delivered and not self.has_restarted

    @property
    def is_fruitless(self) -> bool:
        """True if the server ran or joined the turn again, with nothing new so far."""
        return self.is_repeated and self.is_answered and not self.extends_the_reply


class ReplayFilter:
    """Delivers each event of a reply once, even if the turn is posted several times.

    Attributes:
        starts: How many times the reply has started. More than once means that it has restarted.
    """

    def __init__(self) -> None:
        self.starts = 0
        self._post = _Post(is_repeated=False)
        self._fruitless_before = 0
        self._text = ""
        self._skills: list[Event] = []
        # During a replay: the events of the new stream so far, and the delivered ones that it has yet to repeat.
        self._replayed: list[Event] | None = None
        self._expected_text = ""
        self._expected_skills: list[Event] = []

    @property
    def may_repeat(self) -> bool:
        """Whether the turn may be posted again, now that the current post has broken off."""
        return self._fruitless_posts() < _MAX_FRUITLESS_POSTS

    def _fruitless_posts(self) -> int:
        """Returns how many posts in a row, up to the current one, brought nothing new."""
        return 0 if self._post.extends_the_reply else self._fruitless_before + self._post.is_fruitless

    def begin_replay(self) -> None:
        """Expects the events of the turn from the first one again, because the turn is posted again."""
        self._fruitless_before = self._fruitless_posts()
        self._post = _Post(is_repeated=True)
        if self.starts:
            self._replayed = []
            self._expected_text = self._text
            self._expected_skills = self._skills.copy()

    def accept(self, event: Event) -> list[Event]:
        """Takes the next event of the stream and returns the events to deliver."""
        self._post.is_answered = True
        if isinstance(event, Progress):
            return [event]
        if self._replayed is None:
            return [self._deliver(event)]
        self._replayed.append(event)
        if isinstance(event, TurnStarted):
            return []
        if isinstance(event, TextDelta):
            return self._match_text(event.text)
        if event in self._expected_skills:
            self._expected_skills.remove(event)
            return []
        if isinstance(event, TurnCompleted):
            return self._restart() if self._expected_text or self._expected_skills else [event]
        return [self._deliver(event)]

    def _match_text(self, text: str) -> list[Event]:
        """Skips text that was delivered before and delivers the rest; restarts the reply if the text differs."""
        length = min(len(text), len(self._expected_text))
        if text[:length] != self._expected_text[:length]:
            return self._restart()
        self._expected_text = self._expected_text[length:]
        return [self._deliver(TextDelta(text[length:]))] if length < len(text) else []

    def _restart(self) -> list[Event]:
        """Delivers the new stream from its `TurnStarted`, which voids all events before it."""
        events = self._replayed or []
        self._replayed, self._text, self._skills = None, "", []
        self._post.has_restarted = True
        return [self._deliver(event) for event in events]

    def _deliver(self, event: Event) -> Event:
        """Records an event as delivered and returns it."""
        if isinstance(event, TurnStarted):
            self.starts += 1
            return event
        self._post.has_delivered = True
        if isinstance(event, TextDelta):
            self._text += event.text
        elif isinstance(event, SkillCall | SkillResult):
            self._skills.append(event)
        return event
