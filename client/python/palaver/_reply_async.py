"""The reply for asyncio."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, cast

import grpc
import grpc.aio

from palaver._errors import call_canceled
from palaver._reply_shared import BaseReply
from palaver._resume import RetryBudget
from palaver._types import Event
from palaver.v1 import assistant_service_pb2

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Self

    Events: TypeAlias = grpc.aio.UnaryStreamCall[
        assistant_service_pb2.PostUserQueryRequest, assistant_service_pb2.PostUserQueryResponse
    ]


class AsyncReply(BaseReply):
    """A reply as it arrives: an asynchronous iterator of events. To read only its text, iterate over `text`.

    Leaving an `async with` block, calling `cancel()` and canceling the reading task end the call immediately. The turn
    is then canceled and not stored, unless it is completed or was posted with `OnDisconnect.CONTINUE`. Dropping the
    reply ends the call once it is garbage-collected.

    `AsyncClient.post_user_query` describes what happens if the connection breaks.

    Example:
        >>> async with client.post_user_query("support-42", "Hello!") as reply:
        ...     async for event in reply:
        ...         match event:
        ...             case palaver.TextDelta(text):
        ...                 print(text, end="", flush=True)
        ...             case palaver.TurnCompleted(usage=usage):
        ...                 print("", usage.total_tokens, "tokens")
    """

    def __init__(
        self,
        post: Callable[[float | None], Coroutine[None, None, Events]],
        request_id: str,
        budget: RetryBudget,
        call: Events | None,
    ) -> None:
        super().__init__(request_id, budget)
        self._post = post
        self._canceled = asyncio.Event()
        self._starting: asyncio.Task[Events] | None = None
        self._call = call

    def __del__(self) -> None:
        if self._call is not None:
            self._call.cancel()  # gRPC does this, too, but its call is part of a cycle and may be collected much later

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        """Returns the next event. The iteration ends after `TurnCompleted`.

        Raises:
            PalaverError: The turn failed; see `AsyncClient.post_user_query`.
        """
        while not self._events:
            try:
                response = await (self._call or await self._start()).read()
            except asyncio.CancelledError:
                # gRPC raises this if the task was canceled, which must propagate it, and if the call was canceled.
                if not self._canceled.is_set() or _current_task_is_canceled():
                    raise
                if self.is_completed:
                    raise StopAsyncIteration from None
                raise call_canceled() from None
            except grpc.RpcError as error:
                if self.is_completed:  # the turn is stored, so the error does not matter
                    raise StopAsyncIteration from None
                await self._post_again(error)
                continue
            if response is grpc.aio.EOF:
                self._check_completed()
                raise StopAsyncIteration
            self._receive(cast("assistant_service_pb2.PostUserQueryResponse | None", response))
        return self._next_event()

    async def _post_again(self, error: grpc.RpcError) -> None:
        """Posts the turn again after a pause, or raises the error if it can't be retried."""
        delay = self._retry_delay(error)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._canceled.wait(), delay)
            raise call_canceled() from error
        self._filter.begin_replay()
        self._call = None

    async def _start(self) -> Events:
        """Posts the turn and returns the call."""
        if self._canceled.is_set():
            raise call_canceled()
        self._starting = self._context.run(asyncio.create_task, self._post(self._budget.time_remaining()))
        try:
            self._call = await self._starting
        finally:
            self._starting = None
        if self._canceled.is_set():
            self._call.cancel()
        return self._call

    @property
    def text(self) -> AsyncIterator[str]:
        return self._iterate_text()

    async def _iterate_text(self) -> AsyncIterator[str]:
        starts = self._filter.starts
        async for event in self:
            text = self._text_of(event, starts)
            if text is not None:
                yield text

    def cancel(self) -> None:
        self._canceled.set()
        if self._starting is not None:
            self._starting.cancel()
        if self._call is not None:
            self._call.cancel()

    async def aclose(self) -> None:
        """Does the same as `cancel()`, for `contextlib.aclosing`."""
        self.cancel()


def _current_task_is_canceled() -> bool:
    """Returns whether the current task is being canceled."""
    task = asyncio.current_task()
    # Python 3.10 can't tell. There, a task that is canceled while it reads a canceled reply gets `CanceledError`.
    return task is not None and sys.version_info >= (3, 11) and task.cancelling() > 0
