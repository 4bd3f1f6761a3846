"""What a reply knows, whichever way it is read."""

from __future__ import annotations

from palaver import _convert
from palaver._errors import malformed
from palaver._types import Event, TurnCompleted
from palaver.v1 import assistant_service_pb2


class BaseReply:
    """The part of `Reply` and `AsyncReply` that does no input and output."""

    def __init__(self) -> None:
        self._completed: TurnCompleted | None = None

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

    def _accept(self, response: assistant_service_pb2.PostUserQueryResponse | None) -> Event | None:
        """Returns the event of a message, or None for one to skip."""
        event = _convert.event(response)
        if isinstance(event, TurnCompleted):
            self._completed = event
        return event

    def _check_end(self) -> None:
        """Refuses the end of a stream that looks well but lacks its last event: nobody knows if the turn is stored."""
        if self._completed is None:
            raise malformed("the stream ended without `completed`")
