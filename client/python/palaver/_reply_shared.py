"""The part of both replies that does no I/O: their state, the decisions about it, and the documentation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextvars import copy_context

import grpc

from palaver import _responses
from palaver._errors import PalaverError, from_rpc_error, malformed_response, reply_restarted
from palaver._resume import ReplayFilter, RetryBudget
from palaver._types import Event, TextDelta, TurnCompleted
from palaver.v1 import assistant_service_pb2


class BaseReply(ABC):
    """The interface of `Reply` and `AsyncReply`."""

    def __init__(self, request_id: str, budget: RetryBudget) -> None:
        self._request_id = request_id
        # Every post belongs to the trace in which the reply was created, wherever it is read.
        self._context = copy_context()
        self._budget = budget
        self._filter = ReplayFilter()
        self._events: deque[Event] = deque()
        self._completed: TurnCompleted | None = None

    @property
    def request_id(self) -> str:
        """The identifier of the turn, to cancel it or to post it again: the request's, or the generated one."""
        return self._request_id

    @property
    def completed(self) -> TurnCompleted:
        """The last event, which says that the turn is stored.

        Raises:
            RuntimeError: The reply was not read to its end, or it ended with an error.
        """
        if self._completed is None:
            raise RuntimeError("the turn is not completed: read the reply to its end first")
        return self._completed

    @property
    def is_completed(self) -> bool:
        """Whether the last event was read, so that the turn is known to be stored."""
        return self._completed is not None

    @property
    @abstractmethod
    def text(self) -> Iterator[str] | AsyncIterator[str]:
        """The text of the reply, in pieces as it arrives. Other events are skipped.

        Delivered text can't be taken back. If the reply restarts, the iteration raises `UnavailableError` with an
        empty `reason`.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Ends the call. Further reads raise `CanceledError`. After the end of the reply, this does nothing."""

    def _receive(self, response: assistant_service_pb2.PostUserQueryResponse | None) -> None:
        """Takes a message of the stream and queues the events to deliver: one, several or none.

        Raises:
            InternalError: The message breaks the contract. The call is canceled.
        """
        self._budget.reset()
        try:
            event = _responses.post_user_query(response)
        except PalaverError:
            self.cancel()
            raise
        if event is not None and not self.is_completed:  # everything after the last event is ignored
            self._events.extend(self._filter.accept(event))

    def _next_event(self) -> Event:
        """Removes the next event from the queue and returns it."""
        event = self._events.popleft()
        if isinstance(event, TurnCompleted):
            self._completed = event
        return event

    def _check_completed(self) -> None:
        """Raises `InternalError` if the stream ended without its last event: the turn may or may not be stored."""
        if self._completed is None:
            raise malformed_response("the stream ended without `completed`")

    def _retry_delay(self, error: grpc.RpcError) -> float:
        """Returns how many seconds to wait before posting the turn again after an error, or raises the error."""
        converted = from_rpc_error(error)
        delay = self._budget.delay_after(converted)
        if delay is None or not self._filter.may_repeat:
            raise converted from error
        return delay

    def _text_of(self, event: Event, starts: int) -> str | None:
        """Returns the text of an event, or None.

        Args:
            event: The event.
            starts: How many times the reply had started when the iteration over its text began.

        Raises:
            UnavailableError: The reply has restarted since then. The call is canceled.
        """
        if self._filter.starts > max(starts, 1):
            self.cancel()
            raise reply_restarted()
        return event.text if isinstance(event, TextDelta) else None
