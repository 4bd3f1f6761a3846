"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

import grpc
import grpc.aio

from palaver import _requests, _responses
from palaver._client_shared import BaseClient
from palaver._errors import PalaverError, from_rpc_error, malformed_response
from palaver._reply_async import AsyncReply
from palaver._types import (
    Assistant,
    CreateAssistantResult,
    IfExists,
    IfExistsLike,
    Message,
    Order,
    OrderLike,
    QueryOptions,
    TurnCompleted,
)
from palaver.v1 import assistant_service_pb2
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from palaver._reply_async import Events
    from palaver.v1.assistant_service_pb2_grpc import AssistantServiceAsyncStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class AsyncClient(BaseClient):
    """A client of a Palaver server. One is enough for a whole program, as long as it uses one event loop.

    All calls share one connection, which is opened with the first call and reopened when it breaks. A client may be
    created before the event loop runs.

    Example:
        >>> async with palaver.AsyncClient("localhost:50051") as client:
        ...     await client.create_assistant("support-42", if_exists="keep")
        ...     async for text in client.post_user_query("support-42", "Hello!").text:
        ...         print(text, end="", flush=True)
    """

    def _init_channel(self) -> None:
        self._channel: grpc.aio.Channel | None = None
        self._stub: AssistantServiceAsyncStub | None = None
        self._replies: WeakSet[AsyncReply] = WeakSet()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        self._closed = True
        for reply in list(self._replies):  # some versions of gRPC do not end calls that nobody is reading
            reply.cancel()
        if self._channel is not None:
            await self._channel.close()

    @property
    def stub(self) -> AssistantServiceAsyncStub:
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._stub is None:
            asyncio.get_running_loop()  # without a running loop, gRPC would silently tie the channel to a new one
            settings = self._settings
            self._channel = (
                grpc.aio.insecure_channel(settings.target, settings.options, interceptors=[_EndWithCaller()])
                if settings.credentials is None
                else grpc.aio.secure_channel(
                    settings.target, settings.credentials, settings.options, interceptors=[_EndWithCaller()]
                )
            )
            self._stub = AssistantServiceStub(self._channel)
        return self._stub

    async def create_assistant(
        self,
        id: str,
        *,
        instructions: str | None = None,
        if_exists: IfExistsLike = IfExists.FAIL,
        chat_storage_connection_setting: str = "",
        collection_name: str = "",
        timeout: float | None = None,
    ) -> CreateAssistantResult:
        request = _requests.create_assistant(
            id, instructions, if_exists, chat_storage_connection_setting, collection_name
        )
        response = await self._call(self.stub.CreateAssistant, request, self._deadline(timeout))
        return _responses.create_assistant(response)

    async def get_assistant(
        self,
        id: str,
        *,
        chat_storage_connection_setting: str = "",
        collection_name: str = "",
        timeout: float | None = None,
    ) -> Assistant:
        request = _requests.get_assistant(id, chat_storage_connection_setting, collection_name)
        response = await self._call(self.stub.GetAssistant, request, self._deadline(timeout))
        return _responses.get_assistant(response)

    def list_messages(
        self,
        id: str,
        *,
        after_time: datetime | None = None,
        order: OrderLike = Order.OLDEST_FIRST,
        page_size: int | None = None,
        chat_storage_connection_setting: str = "",
        collection_name: str = "",
        timeout: float | None = None,
    ) -> AsyncIterator[Message]:
        request = _requests.list_messages(
            id, after_time, order, page_size, chat_storage_connection_setting, collection_name
        )
        return self._list_messages(request, timeout)

    async def delete_assistant(
        self,
        id: str,
        *,
        chat_storage_connection_setting: str = "",
        collection_name: str = "",
        timeout: float | None = None,
    ) -> None:
        request = _requests.delete_assistant(id, chat_storage_connection_setting, collection_name)
        await self._call(self.stub.DeleteAssistant, request, self._deadline(timeout))

    def post_user_query(
        self,
        id: str,
        user_message: str,
        *,
        timeout: float | None = None,
        **options: Unpack[QueryOptions],
    ) -> AsyncReply:
        request = _requests.post_user_query(id, user_message, **options)

        async def post(timeout: float | None) -> Events:
            remaining, metadata = await self._settings.metadata.get_async(timeout)
            return self.stub.PostUserQuery(request, timeout=remaining, metadata=metadata)

        budget = self._retry_budget(timeout)
        call = None  # with a token function, the first read posts the turn
        if self._settings.metadata.function is None:
            timeout, metadata = budget.time_remaining(), self._settings.metadata.constant
            call = self.stub.PostUserQuery(request, timeout=timeout, metadata=metadata)
        reply = AsyncReply(post, request.request_id, budget, call)
        self._replies.add(reply)
        return reply

    async def post_user_query_unary(
        self,
        id: str,
        user_message: str,
        *,
        timeout: float | None = None,
        **options: Unpack[QueryOptions],
    ) -> TurnCompleted:
        request = _requests.post_user_query(id, user_message, **options)
        budget = self._retry_budget(timeout)
        while True:
            try:
                response = await self._call(self.stub.PostUserQueryUnary, request, budget.time_remaining())
            except PalaverError as error:
                delay = budget.delay_after(error)
                if delay is None:
                    raise
            else:
                return _responses.post_user_query_unary(response)
            await asyncio.sleep(delay)

    async def cancel_turn(
        self,
        id: str,
        request_id: str,
        *,
        chat_storage_connection_setting: str = "",
        collection_name: str = "",
        timeout: float | None = None,
    ) -> None:
        request = _requests.cancel_turn(id, request_id, chat_storage_connection_setting, collection_name)
        await self._call(self.stub.CancelTurn, request, self._deadline(timeout))

    async def _list_messages(
        self, request: assistant_service_pb2.ListMessagesRequest, timeout: float | None
    ) -> AsyncIterator[Message]:
        """Fetches page after page and yields the messages."""
        while True:
            response = await self._call(self.stub.ListMessages, request, self._deadline(timeout))
            messages, request.page_token = _responses.list_messages(response)
            for message in messages:
                yield message
            if not request.page_token:
                return

    async def _call(
        self, method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response], request: _Request, timeout: float | None
    ) -> _Response:
        """Makes a unary call and converts its error."""
        remaining, metadata = await self._settings.metadata.get_async(timeout)
        try:
            response = await method(request, timeout=remaining, metadata=metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        if response is None:  # gRPC for asyncio returns None for a message that can't be parsed
            raise malformed_response("it can't be parsed")
        return response


class _EndWithCaller(grpc.aio.UnaryUnaryClientInterceptor):
    """Ends a unary call when its caller is canceled, even if instrumentation that waits for its status does not."""

    async def intercept_unary_unary(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, _Request], Awaitable[grpc.aio.UnaryUnaryCall[_Request, _Response]]
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request: _Request,
    ) -> grpc.aio.UnaryUnaryCall[_Request, _Response]:
        call = await continuation(client_call_details, request)
        await call  # this passes on a cancellation
        return call
