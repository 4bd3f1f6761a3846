"""Posting a turn again when the connection to it broke: when to, how long to wait, and what the caller has had already.

It is safe because both posts have the same `request_id`: the server replays a turn that is stored and joins one that
still runs. One that was lost with its server, or cancelled because its caller seemed to be gone, runs anew, and the
model may then write something else. No input or output here, so both clients share it.
"""

from __future__ import annotations

import random
import time
import uuid

import grpc

from palaver._errors import PalaverError
from palaver._types import Event, SkillCall, SkillResult, TextDelta, TurnCompleted, TurnStarted

DEFAULT_RECONNECT_TIMEOUT = 10.0

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0


def new_request_id() -> str:
    """Makes a `request_id` that no other turn has."""
    return uuid.uuid4().hex


class Attempts:
    """How often a turn is posted, and until when."""

    def __init__(self, timeout: float | None, reconnect_timeout: float) -> None:
        """Takes the seconds of the whole turn, None for no limit, and those that a connection may be lost for."""
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._reconnect_timeout = reconnect_timeout
        self._broken_since: float | None = None
        self._pause = _FIRST_PAUSE

    def time_remaining(self) -> float | None:
        """Returns the deadline of the next post, in seconds from now; None for none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def succeeded(self) -> None:
        """Notes that the server has sent something, so that the next break counts anew."""
        self._broken_since = None
        self._pause = _FIRST_PAUSE

    def pause_after(self, error: PalaverError) -> float | None:
        """Returns how many seconds to wait before posting again; None: the error is the caller's."""
        if not _is_break(error):
            return None
        now = time.monotonic()
        self._broken_since = self._broken_since or now
        pause = max(random.uniform(self._pause / 2, self._pause), error.retry_delay or 0.0)  # noqa: S311 - no secret
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        limits = [self._broken_since + self._reconnect_timeout]
        limits += [] if self._deadline is None else [self._deadline]
        return None if now + pause > min(limits) else pause


def _is_break(error: PalaverError) -> bool:
    """Whether a call ended because of the way to the server or its stopping, and not for what it asked for."""
    if error.reason:  # every error that a Palaver server decides has one
        return error.reason == "SHUTTING_DOWN"
    # Proxies end a stream whose other side has gone with a reset; its status is INTERNAL or CANCELLED.
    return error.status is grpc.StatusCode.UNAVAILABLE or "RST_STREAM" in error.message


class Progress:
    """What the caller has had of a reply, so that it gets each piece once however often the turn is posted."""

    def __init__(self) -> None:
        self.beginnings = 0
        """How often the reply has begun: more than once when the turn had to run anew and went another way."""
        self._text = ""
        self._skills: list[Event] = []
        # While a stream repeats what the caller has had: all of the stream, and what of it is still to come.
        self._repeated: list[Event] | None = None
        self._text_left = ""
        self._skills_left: list[Event] = []

    def post_again(self) -> None:
        """Notes that the events begin again with the first one."""
        if self.beginnings:
            self._repeated = []
            self._text_left = self._text
            self._skills_left = self._skills.copy()

    def accept(self, event: Event) -> list[Event]:
        """Takes the next event of the stream and returns those that the caller gets."""
        if self._repeated is None:
            return [self._hand_out(event)]
        self._repeated.append(event)
        if isinstance(event, TurnStarted):
            return []
        if isinstance(event, TextDelta):
            return self._repeat_text(event.text)
        if event in self._skills_left:
            self._skills_left.remove(event)
            return []
        if isinstance(event, TurnCompleted):
            return self._begin_anew() if self._text_left or self._skills_left else [event]
        return [self._hand_out(event)]

    def _repeat_text(self, text: str) -> list[Event]:
        length = min(len(text), len(self._text_left))
        if text[:length] != self._text_left[:length]:
            return self._begin_anew()
        self._text_left = self._text_left[length:]
        return [self._hand_out(TextDelta(text[length:]))] if length < len(text) else []

    def _begin_anew(self) -> list[Event]:
        """Hands out the whole stream from its `TurnStarted`: what came before it is void."""
        events = self._repeated or []
        self._repeated, self._text, self._skills = None, "", []
        return [self._hand_out(event) for event in events]

    def _hand_out(self, event: Event) -> Event:
        if isinstance(event, TurnStarted):
            self.beginnings += 1
        elif isinstance(event, TextDelta):
            self._text += event.text
        elif isinstance(event, SkillCall | SkillResult):
            self._skills.append(event)
        return event
