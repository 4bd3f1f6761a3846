"""A reply for asyncio. `_sync_reply` is the same for ordinary, blocking code."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, cast

import grpc
import grpc.aio

from palaver._errors import PalaverError, begun_anew, canceled, from_rpc_error
from palaver._reply import BaseReply
from palaver._resume import Attempts
from palaver._types import Event, TextDelta
from palaver.v1 import assistant_service_pb2

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Self

    Events: TypeAlias = grpc.aio.UnaryStreamCall[
        assistant_service_pb2.PostUserQueryRequest, assistant_service_pb2.PostUserQueryResponse
    ]


class AsyncReply(BaseReply):
    """A reply as it arrives: an asynchronous iterator of events, or of the pieces of its text alone by `text`.

    Leaving an `async with` block, `cancel()` and cancelling the task that reads end the call at once, and nothing of
    the turn is stored then, unless it is completed. Dropping the reply does so as soon as it is collected.

    When the connection breaks, the turn is posted again with the same `request_id`, and the iteration goes on where it
    was. Only where the turn had to run anew, and the model now writes something else, another `TurnStarted` says that
    the reply begins again: what came before it is void. With `on_disconnect="continue"` that takes the death of a
    server.

    Example:
        >>> async with client.post_user_query("support-42", "Hello!") as reply:
        ...     async for event in reply:
        ...         match event:
        ...             case palaver.TextDelta(text):
        ...                 print(text, end="", flush=True)
        ...             case palaver.TurnCompleted(usage=usage):
        ...                 print("", usage.total_tokens, "tokens")
    """

    def __init__(self, post: Callable[[float | None], Events], request_id: str, attempts: Attempts) -> None:
        super().__init__(request_id, attempts)
        self._post = post
        self._canceled = asyncio.Event()
        self._call = post(attempts.time_remaining())

    def __del__(self) -> None:
        self._call.cancel()  # gRPC does so, too, but its call is part of a cycle, which may wait long to be collected

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        """Returns the next event, or ends the iteration after `TurnCompleted`.

        Raises:
            PalaverError: The turn failed, and nothing of it is stored; see the subclasses. `InternalError` with an
                empty `reason` is the exception: the server broke the contract, and nobody knows if the turn is stored.
        """
        while not self._events:
            try:
                response = await self._call.read()
            except asyncio.CancelledError:
                # gRPC uses it both for a canceled task, which asyncio must hear of, and for a canceled call.
                if not self._canceled.is_set() or _current_task_is_canceled():
                    raise
                if self.is_completed:
                    raise StopAsyncIteration from None
                raise canceled() from None
            except grpc.RpcError as error:
                if self.is_completed:  # what breaks now does not matter: the turn is stored
                    raise StopAsyncIteration from None
                await self._post_again(error)
                continue
            if response is grpc.aio.EOF:
                self._check_end()
                raise StopAsyncIteration
            try:
                self._accept(cast("assistant_service_pb2.PostUserQueryResponse | None", response))
            except PalaverError:
                self.cancel()
                raise
        return self._next_event()

    async def _post_again(self, broken: grpc.RpcError) -> None:
        error = from_rpc_error(broken)
        pause = self._attempts.pause_after(error)
        if pause is None:
            raise error from broken
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._canceled.wait(), pause)
            raise canceled() from broken
        self._progress.post_again()
        self._call = self._post(self._attempts.time_remaining())

    @property
    def text(self) -> AsyncIterator[str]:
        """The pieces of the reply's text, as they arrive. Other events are passed over.

        A piece can't be taken back. Where the reply begins anew, the iteration raises `UnavailableError`.
        """
        return self._texts()

    async def _texts(self) -> AsyncIterator[str]:
        beginnings = self._progress.beginnings
        async for event in self:
            if self._has_begun_anew(beginnings):
                self.cancel()
                raise begun_anew()
            if isinstance(event, TextDelta):
                yield event.text

    def cancel(self) -> None:
        """Ends the call. Whoever iterates gets `CanceledError`. After the end of the reply it does nothing."""
        self._canceled.set()
        self._call.cancel()

    async def aclose(self) -> None:
        """Does the same as `cancel()`, for `contextlib.aclosing`."""
        self.cancel()


def _current_task_is_canceled() -> bool:
    task = asyncio.current_task()
    # Python 3.10 can't tell; there, a task that is canceled while it reads a canceled reply gets `CanceledError`.
    return task is not None and sys.version_info >= (3, 11) and task.cancelling() > 0
