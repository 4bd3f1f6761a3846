"""What a reply knows, whichever way it is read."""

from __future__ import annotations

from collections import deque

from palaver import _convert
from palaver._errors import malformed
from palaver._resume import Attempts, Progress
from palaver._types import Event, TurnCompleted
from palaver.v1 import assistant_service_pb2


class BaseReply:
    """The part of `Reply` and `AsyncReply` that does no input and output."""

    def __init__(self, request_id: str, attempts: Attempts) -> None:
        self._request_id = request_id
        self._attempts = attempts
        self._progress = Progress()
        self._events: deque[Event] = deque()
        self._completed: TurnCompleted | None = None

    @property
    def request_id(self) -> str:
        """The identifier of the turn, for `cancel_turn` and to post it again: the caller's, or the one made for it."""
        return self._request_id

    @property
    def completed(self) -> TurnCompleted:
        """The last event, which says that the turn is stored.

        Raises:
            RuntimeError: The reply has not been read to its end, or it ended with an error.
        """
        if self._completed is None:
            raise RuntimeError("the turn is not completed: read the reply to its end first")
        return self._completed

    @property
    def is_completed(self) -> bool:
        """Whether the last event was read, and so the turn is known to be stored."""
        return self._completed is not None

    def _accept(self, response: assistant_service_pb2.PostUserQueryResponse | None) -> None:
        """Takes a message of the stream, which may hold an event to hand out, several, or none."""
        self._attempts.succeeded()
        event = _convert.event(response)
        if event is not None and not self.is_completed:  # nothing counts after the last event
            self._events.extend(self._progress.accept(event))

    def _next_event(self) -> Event:
        event = self._events.popleft()
        if isinstance(event, TurnCompleted):
            self._completed = event
        return event

    def _check_end(self) -> None:
        """Refuses the end of a stream that looks well but lacks its last event: nobody knows if the turn is stored."""
        if self._completed is None:
            raise malformed("the stream ended without `completed`")

    def _has_begun_anew(self, beginnings: int) -> bool:
        """Whether the text goes on with another reply than the one that it began with."""
        return self._progress.beginnings > max(beginnings, 1)
