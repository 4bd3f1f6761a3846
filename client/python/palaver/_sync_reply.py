"""A reply for ordinary, blocking code. `_async_reply` is the same for asyncio."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

import grpc

from palaver._errors import PalaverError, begun_anew, canceled, from_rpc_error
from palaver._reply import BaseReply
from palaver._resume import Attempts
from palaver._types import Event, TextDelta
from palaver.v1 import assistant_service_pb2

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Self

    Events: TypeAlias = grpc._CallIterator[assistant_service_pb2.PostUserQueryResponse]


class Reply(BaseReply):
    """A reply as it arrives: an iterator of events, or of the pieces of its text alone by `text`.

    Leaving a `with` block, `cancel()` and dropping the reply end the call at once, and nothing of the turn is stored
    then, unless it is completed. One thread may iterate while another one cancels.

    When the connection breaks, the turn is posted again with the same `request_id`, and the iteration goes on where it
    was. Only where the turn had to run anew, and the model now writes something else, another `TurnStarted` says that
    the reply begins again: what came before it is void. With `on_disconnect="continue"` that takes the death of a
    server.

    Example:
        >>> with client.post_user_query("support-42", "Hello!") as reply:
        ...     for event in reply:
        ...         match event:
        ...             case palaver.TextDelta(text):
        ...                 print(text, end="", flush=True)
        ...             case palaver.TurnCompleted(usage=usage):
        ...                 print("", usage.total_tokens, "tokens")
    """

    def __init__(self, post: Callable[[float | None], Events], request_id: str, attempts: Attempts) -> None:
        super().__init__(request_id, attempts)
        self._post = post
        self._canceled = threading.Event()
        self._call = post(attempts.time_remaining())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        """Returns the next event, or ends the iteration after `TurnCompleted`.

        Raises:
            PalaverError: The turn failed, and nothing of it is stored; see the subclasses. `InternalError` with an
                empty `reason` is the exception: the server broke the contract, and nobody knows if the turn is stored.
        """
        while not self._events:
            try:
                response = next(self._call)
            except StopIteration:  # noqa: PERF203 - each event is awaited
                self._check_end()
                raise
            except grpc.RpcError as error:
                if self.is_completed:  # what breaks now does not matter: the turn is stored
                    raise StopIteration from None
                self._post_again(error)
            else:
                try:
                    self._accept(response)
                except PalaverError:
                    self.cancel()
                    raise
        return self._next_event()

    def _post_again(self, broken: grpc.RpcError) -> None:
        error = from_rpc_error(broken)
        pause = self._attempts.pause_after(error)
        if pause is None:
            raise error from broken
        if self._canceled.wait(pause):
            raise canceled() from broken
        self._progress.post_again()
        self._call = self._post(self._attempts.time_remaining())
        if self._canceled.is_set():
            self._call.cancel()

    @property
    def text(self) -> Iterator[str]:
        """The pieces of the reply's text, as they arrive. Other events are passed over.

        A piece can't be taken back. Where the reply begins anew, the iteration raises `UnavailableError`.
        """
        return self._texts()

    def _texts(self) -> Iterator[str]:
        beginnings = self._progress.beginnings
        for event in self:
            if self._has_begun_anew(beginnings):
                self.cancel()
                raise begun_anew()
            if isinstance(event, TextDelta):
                yield event.text

    def cancel(self) -> None:
        """Ends the call. Whoever iterates gets `CanceledError`. After the end of the reply it does nothing."""
        self._canceled.set()
        self._call.cancel()
