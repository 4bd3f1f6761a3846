"""The reply for ordinary, blocking code."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

import grpc

from palaver._errors import call_canceled
from palaver._reply_shared import BaseReply
from palaver._resume import RetryBudget
from palaver._types import Event
from palaver.v1 import assistant_service_pb2

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Self

    Events: TypeAlias = grpc._CallIterator[assistant_service_pb2.PostUserQueryResponse]


class Reply(BaseReply):
    """A reply as it arrives: an iterator of events. To read only its text, iterate over `text`.

    Leaving a `with` block, calling `cancel()` and dropping the reply end the call immediately. The turn is then
    canceled and not stored, unless it is completed or was posted with `OnDisconnect.CONTINUE`. One thread may cancel a
    reply while another one iterates over it.

    `Client.post_user_query` describes what happens if the connection breaks.

    Example:
        >>> with client.post_user_query("support-42", "Hello!") as reply:
        ...     for event in reply:
        ...         match event:
        ...             case palaver.TextDelta(text):
        ...                 print(text, end="", flush=True)
        ...             case palaver.TurnCompleted(usage=usage):
        ...                 print("", usage.total_tokens, "tokens")
    """

    def __init__(
        self, post: Callable[[float | None], Events], request_id: str, budget: RetryBudget, *, starts_with_read: bool
    ) -> None:
        super().__init__(request_id, budget)
        self._post = post
        self._canceled = threading.Event()
        self._call: Events | None = None
        if not starts_with_read:
            self._call = post(budget.time_remaining())

    def __del__(self) -> None:
        if self._call is not None:
            self._call.cancel()  # gRPC does this, too, but not if instrumentation waits for the end of the call

    def _started(self) -> Events:
        """Returns the current call, after posting the turn if there is none."""
        if self._call is None:
            if self._canceled.is_set():
                raise call_canceled()
            self._call = self._context.run(self._post, self._budget.time_remaining())
            if self._canceled.is_set():  # by another thread, in the meantime
                self._call.cancel()
        return self._call

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        """Returns the next event. The iteration ends after `TurnCompleted`.

        Raises:
            PalaverError: The turn failed; see `Client.post_user_query`.
        """
        while not self._events:
            try:
                response = next(self._started())
            except StopIteration:  # noqa: PERF203 - each event is awaited
                self._check_completed()
                raise
            except grpc.RpcError as error:
                if self.is_completed:  # the turn is stored, so the error does not matter
                    raise StopIteration from None
                self._post_again(error)
            else:
                self._receive(response)
        return self._next_event()

    def _post_again(self, error: grpc.RpcError) -> None:
        """Posts the turn again after a pause, or raises the error if it can't be retried."""
        if self._canceled.wait(self._retry_delay(error)):
            raise call_canceled() from error
        self._filter.begin_replay()
        self._call = None

    @property
    def text(self) -> Iterator[str]:
        return self._iterate_text()

    def _iterate_text(self) -> Iterator[str]:
        starts = self._filter.starts
        for event in self:
            text = self._text_of(event, starts)
            if text is not None:
                yield text

    def cancel(self) -> None:
        self._canceled.set()
        if self._call is not None:
            self._call.cancel()
