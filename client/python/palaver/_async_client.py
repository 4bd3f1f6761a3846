"""The client for asyncio. `_sync_client` is the same for ordinary, blocking code."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

import grpc
import grpc.aio

from palaver import _convert
from palaver._async_reply import AsyncReply
from palaver._channel import DEFAULT_TARGET, ChannelOptions, channel_settings, deadline
from palaver._errors import PalaverError, from_rpc_error, malformed
from palaver._resume import DEFAULT_RECONNECT_TIMEOUT, Attempts, new_request_id
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
from palaver.v1 import assistant_service_pb2, assistant_service_pb2_grpc

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from palaver._async_reply import Events
    from palaver.v1.assistant_service_pb2_grpc import AssistantServiceAsyncStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class AsyncClient:
    """Talks to a Palaver server. One is enough for a whole program, as long as it runs in one event loop.

    All calls share one connection, which is opened with the first one and opened anew when it breaks. A client may be
    made before the event loop runs.

    Example:
        >>> async with palaver.AsyncClient("localhost:50051") as client:
        ...     await client.create_assistant("support-42", if_exists="keep")
        ...     async for text in client.post_user_query("support-42", "Hello!").text:
        ...         print(text, end="", flush=True)

    Args:
        target: The server, as "host:port" or any other name that gRPC knows ("dns:///host:port", "unix:path").
        tls: False for plaintext, True for TLS with gRPC's own list of certificate authorities, or the authorities to
            trust instead, as PEM: the path of a file, or its bytes.
        token: A bearer token, sent as `authorization: Bearer <token>` with every call.
        timeout: The deadline of every call that has none of its own, in seconds. None: there is none. The deadline of
            a reply covers all of it, to the last event.
        reconnect_timeout: How many seconds a turn may go without its connection. When that breaks, or the server stops,
            the turn is posted again, and its caller gets each piece of the reply once. 0: the caller gets the error.
        options: Further gRPC channel arguments; they win over those that the client sets.

    Raises:
        ValueError: A token without TLS would leave this machine, or it is not made of visible ASCII characters.
        OSError: The file of certificate authorities can't be read.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        tls: bool | str | bytes | os.PathLike[str] = False,
        token: str | None = None,
        timeout: float | None = None,
        reconnect_timeout: float = DEFAULT_RECONNECT_TIMEOUT,
        options: ChannelOptions = (),
    ) -> None:
        self._settings = channel_settings(target, tls, token, options)
        self._timeout = timeout
        self._reconnect_timeout = reconnect_timeout
        self._channel: grpc.aio.Channel | None = None
        self._stub: AssistantServiceAsyncStub | None = None
        self._replies: WeakSet[AsyncReply] = WeakSet()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection and cancels all calls that are still running. Closing again does nothing."""
        self._closed = True
        for reply in list(self._replies):  # not every version of gRPC ends those that nobody is reading right now
            reply.cancel()
        if self._channel is not None:
            await self._channel.close()

    @property
    def stub(self) -> AssistantServiceAsyncStub:
        """The generated stub on the client's channel, for what the client does not offer.

        Its calls take and return the messages of `palaver.v1`, raise `grpc.RpcError`, and know neither the client's
        `timeout` nor a `token` without TLS.

        Raises:
            RuntimeError: The client is closed, or no event loop is running.
        """
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._stub is None:
            asyncio.get_running_loop()  # gRPC ties a channel to a loop, and would make one of its own without a word
            settings = self._settings
            self._channel = (
                grpc.aio.insecure_channel(settings.target, settings.options)
                if settings.credentials is None
                else grpc.aio.secure_channel(settings.target, settings.credentials, settings.options)
            )
            self._stub = assistant_service_pb2_grpc.AssistantServiceStub(self._channel)
        return self._stub

    async def create_assistant(
        self,
        id: str,  # noqa: A002 - the contract's name
        *,
        instructions: str | None = None,
        if_exists: IfExistsLike = IfExists.FAIL,
        chat_storage_connection_setting: str = "",
        collection_name: str = "",
        timeout: float | None = None,
    ) -> CreateAssistantResult:
        """Creates an assistant, whose conversation then consists of its instructions alone.

        Args:
            id: The identifier of the new assistant: 1 to 255 characters, no control
                characters and none of slash, backslash, `#` and `?`.
            instructions: What the model is told before every conversation, at most 450,000 UTF-16 code units. None:
                "You are a helpful assistant." Blank: nothing.
            if_exists: What to do with an assistant that exists already. The enum's values do as well, like "keep".
            chat_storage_connection_setting: The name of the storage connection. The default is `AzureWebJobsStorage`.
            collection_name: The collection that will hold the conversation: 3 to 63 letters and digits, a letter first.
                It is created when it does not exist. The default is `ChatState`.
            timeout: The deadline of this call in seconds. None: the client's; `math.inf`: none.

        Returns:
            The assistant, and whether it is new.

        Raises:
            AlreadyExistsError: The assistant exists, and `if_exists` is `IfExists.FAIL`.
            PalaverError: Anything else; see its subclasses.
        """
        request = _convert.create_assistant_request(
            id, instructions, if_exists, chat_storage_connection_setting, collection_name
        )
        return _convert.created_assistant(await self._call(self.stub.CreateAssistant, request, timeout))

    async def get_assistant(
        self,
        id: str,  # noqa: A002 - the contract's name
        *,
        chat_storage_connection_setting: str = "",
        collection_name: str = "",
        timeout: float | None = None,
    ) -> Assistant:
        """Returns the present state of an assistant. It is repeated by itself while the server is unavailable.

        Args:
            id: The identifier of the assistant.
            chat_storage_connection_setting: The name of the storage connection. The default is `AzureWebJobsStorage`.
            collection_name: The collection that holds the conversation. The default is `ChatState`.
            timeout: The deadline of this call in seconds. None: the client's; `math.inf`: none.

        Raises:
            NotFoundError: There is no such assistant.
            PalaverError: Anything else; see its subclasses.
        """
        request = assistant_service_pb2.GetAssistantRequest(
            id=id, chat_storage_connection_setting=chat_storage_connection_setting, collection_name=collection_name
        )
        return _convert.got_assistant(await self._call(self.stub.GetAssistant, request, timeout))

    def list_messages(
        self,
        id: str,  # noqa: A002 - the contract's name
        *,
        after_time: datetime | None = None,
        order: OrderLike = Order.OLDEST_FIRST,
        page_size: int | None = None,
        chat_storage_connection_setting: str = "",
        collection_name: str = "",
        timeout: float | None = None,
    ) -> AsyncIterator[Message]:
        """Iterates over the messages of an assistant. Each page is fetched when the iteration gets there.

        Args:
            id: The identifier of the assistant.
            after_time: Only messages with a later `create_time` are returned. It must have a time zone.
            order: The order of the messages. The enum's values do as well, like "newest_first".
            page_size: How many messages to fetch at once, at most 1,000. The default is the server's, 100.
            chat_storage_connection_setting: The name of the storage connection. The default is `AzureWebJobsStorage`.
            collection_name: The collection that holds the conversation. The default is `ChatState`.
            timeout: The deadline of each page in seconds. None: the client's; `math.inf`: none.

        Raises:
            NotFoundError: There is no such assistant. As all errors of the call, it is raised by the iteration.
            PalaverError: Anything else; see its subclasses.
        """
        request = _convert.list_messages_request(
            id, after_time, order, page_size, chat_storage_connection_setting, collection_name
        )
        return self._pages(request, timeout)

    async def delete_assistant(
        self,
        id: str,  # noqa: A002 - the contract's name
        *,
        chat_storage_connection_setting: str = "",
        collection_name: str = "",
        timeout: float | None = None,
    ) -> None:
        """Deletes an assistant and all of its messages. This can't be undone.

        Args:
            id: The identifier of the assistant.
            chat_storage_connection_setting: The name of the storage connection. The default is `AzureWebJobsStorage`.
            collection_name: The collection that holds the conversation. The default is `ChatState`.
            timeout: The deadline of this call in seconds. None: the client's; `math.inf`: none.

        Raises:
            NotFoundError: There is no such assistant.
            PalaverError: Anything else; see its subclasses.
        """
        request = assistant_service_pb2.DeleteAssistantRequest(
            id=id, chat_storage_connection_setting=chat_storage_connection_setting, collection_name=collection_name
        )
        await self._call(self.stub.DeleteAssistant, request, timeout)

    def post_user_query(
        self,
        id: str,  # noqa: A002 - the contract's name
        user_message: str,
        *,
        timeout: float | None = None,
        **options: Unpack[QueryOptions],
    ) -> AsyncReply:
        """Posts a user message and streams the reply: a turn.

        The turn is stored whole, when the reply completes, or not at all: an error or a cancellation leaves nothing of
        it behind. The call begins at once; its errors are raised by the iteration over the reply.

        Args:
            id: The identifier of the assistant.
            user_message: What the user says, at most 450,000 UTF-16 code units. It must not be empty.
            timeout: The deadline of the whole turn in seconds. None: the client's; `math.inf`: none.
            **options: The model, its parameters, storage and the rest: see `QueryOptions`.

        Returns:
            The reply, an iterator of events. Use it in an `async with` block to cancel it when the block is left early.

        Raises:
            ValueError: An argument can't be sent, for instance a text with a lone surrogate.
        """
        request = _convert.post_user_query_request(id, user_message, **options)
        request.request_id = request.request_id or new_request_id()

        def post(timeout: float | None) -> Events:
            return self.stub.PostUserQuery(request, timeout=timeout, metadata=self._settings.metadata)

        attempts = Attempts(deadline(timeout, self._timeout), self._reconnect_timeout)
        reply = AsyncReply(post, request.request_id, attempts)
        self._replies.add(reply)
        return reply

    async def post_user_query_unary(
        self,
        id: str,  # noqa: A002 - the contract's name
        user_message: str,
        *,
        timeout: float | None = None,
        **options: Unpack[QueryOptions],
    ) -> TurnCompleted:
        """Posts a user message and returns when the turn is stored, with the whole reply.

        Args:
            id: The identifier of the assistant.
            user_message: What the user says, at most 450,000 UTF-16 code units. It must not be empty.
            timeout: The deadline of the whole turn in seconds. None: the client's; `math.inf`: none.
            **options: The model, its parameters, storage and the rest: see `QueryOptions`.

        Raises:
            PalaverError: The turn failed, and nothing of it is stored; see the subclasses.
            ValueError: An argument can't be sent, for instance a text with a lone surrogate.
        """
        request = _convert.post_user_query_request(id, user_message, **options)
        request.request_id = request.request_id or new_request_id()
        attempts = Attempts(deadline(timeout, self._timeout), self._reconnect_timeout)
        while True:
            try:
                response = await self._invoke(self.stub.PostUserQueryUnary, request, attempts.time_remaining())
            except PalaverError as error:
                pause = attempts.pause_after(error)
                if pause is None:
                    raise
            else:
                return _convert.completed_turn(response)
            await asyncio.sleep(pause)

    async def cancel_turn(
        self,
        id: str,  # noqa: A002 - the contract's name
        request_id: str,
        *,
        chat_storage_connection_setting: str = "",
        collection_name: str = "",
        timeout: float | None = None,
    ) -> None:
        """Ends a running turn of any caller, whatever its `on_disconnect` says. Nothing of the turn is stored.

        Args:
            id: The identifier of the assistant.
            request_id: The identifier of the turn: `request_id` of its reply, or of its `TurnStarted`.
            chat_storage_connection_setting: The name of the storage connection. The default is `AzureWebJobsStorage`.
            collection_name: The collection that holds the conversation. The default is `ChatState`.
            timeout: The deadline of this call in seconds. None: the client's; `math.inf`: none.

        Raises:
            NotFoundError: No such turn is running.
            PalaverError: Anything else; see its subclasses.
        """
        request = assistant_service_pb2.CancelTurnRequest(
            id=id,
            chat_storage_connection_setting=chat_storage_connection_setting,
            collection_name=collection_name,
            request_id=request_id,
        )
        await self._call(self.stub.CancelTurn, request, timeout)

    async def _pages(
        self, request: assistant_service_pb2.ListMessagesRequest, timeout: float | None
    ) -> AsyncIterator[Message]:
        while True:
            response = await self._call(self.stub.ListMessages, request, timeout)
            messages, request.page_token = _convert.listed_messages(response)
            for message in messages:
                yield message
            if not request.page_token:
                return

    async def _call(
        self, method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response], request: _Request, timeout: float | None
    ) -> _Response:
        return await self._invoke(method, request, deadline(timeout, self._timeout))

    async def _invoke(
        self, method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response], request: _Request, timeout: float | None
    ) -> _Response:
        try:
            response = await method(request, timeout=timeout, metadata=self._settings.metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        if response is None:
            raise malformed("it does not parse")
        return response
