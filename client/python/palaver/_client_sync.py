"""The client for ordinary, blocking code."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import grpc

from palaver import _requests, _responses
from palaver._client_shared import BaseClient
from palaver._errors import PalaverError, call_canceled, from_rpc_error
from palaver._reply_sync import Reply
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

    from palaver._reply_sync import Events

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Client(BaseClient):
    """A client of a Palaver server. It is thread-safe, and one is enough for a whole program.

    All calls share one connection, which is opened with the first call and reopened when it breaks.

    Example:
        >>> with palaver.Client("localhost:50051") as client:
        ...     client.create_assistant("support-42", if_exists="keep")
        ...     for text in client.post_user_query("support-42", "Hello!").text:
        ...         print(text, end="", flush=True)
    """

    def _init_channel(self) -> None:
        settings = self._settings
        if inspect.iscoroutinefunction(settings.metadata.function):
            raise TypeError("an asynchronous token function requires `AsyncClient`")
        self._channel = (
            grpc.insecure_channel(settings.target, settings.options)
            if settings.credentials is None
            else grpc.secure_channel(settings.target, settings.credentials, settings.options)
        )
        self._stub = AssistantServiceStub(self._channel)
        # OpenTelemetry's instrumentation replaces a call that streams responses by a generator, which can't be canceled
        # and whose span is the current one between two events. It leaves alone calls that also stream requests, and a
        # stream of one request is the same to the server.
        self._post_instrumented = self._channel.stream_stream(
            "/palaver.v1.AssistantService/PostUserQuery",
            assistant_service_pb2.PostUserQueryRequest.SerializeToString,
            assistant_service_pb2.PostUserQueryResponse.FromString,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._closed = True
        self._channel.close()

    @property
    def stub(self) -> AssistantServiceStub:
        if self._closed:
            raise RuntimeError("the client is closed")
        return self._stub

    def create_assistant(
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
        response = self._call(self.stub.CreateAssistant, request, self._deadline(timeout))
        return _responses.create_assistant(response)

    def get_assistant(
        self,
        id: str,
        *,
        chat_storage_connection_setting: str = "",
        collection_name: str = "",
        timeout: float | None = None,
    ) -> Assistant:
        request = _requests.get_assistant(id, chat_storage_connection_setting, collection_name)
        response = self._call(self.stub.GetAssistant, request, self._deadline(timeout))
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
    ) -> Iterator[Message]:
        request = _requests.list_messages(
            id, after_time, order, page_size, chat_storage_connection_setting, collection_name
        )
        return self._list_messages(request, timeout)

    def delete_assistant(
        self,
        id: str,
        *,
        chat_storage_connection_setting: str = "",
        collection_name: str = "",
        timeout: float | None = None,
    ) -> None:
        request = _requests.delete_assistant(id, chat_storage_connection_setting, collection_name)
        self._call(self.stub.DeleteAssistant, request, self._deadline(timeout))

    def post_user_query(
        self,
        id: str,
        user_message: str,
        *,
        timeout: float | None = None,
        **options: Unpack[QueryOptions],
    ) -> Reply:
        request = _requests.post_user_query(id, user_message, **options)
        stub = self.stub

        def post(timeout: float | None) -> Events:
            if self._closed:
                raise call_canceled()
            remaining, metadata = self._settings.metadata.get(timeout)
            call = stub.PostUserQuery(request, timeout=remaining, metadata=metadata)
            if _is_call(call):
                return call
            return self._post_instrumented(iter([request]), timeout=remaining, metadata=metadata)

        budget = self._retry_budget(timeout)
        return Reply(post, request.request_id, budget, starts_with_read=self._settings.metadata.function is not None)

    def post_user_query_unary(
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
                response = self._call(self.stub.PostUserQueryUnary, request, budget.time_remaining())
            except PalaverError as error:
                delay = budget.delay_after(error)
                if delay is None:
                    raise
            else:
                return _responses.post_user_query_unary(response)
            time.sleep(delay)

    def cancel_turn(
        self,
        id: str,
        request_id: str,
        *,
        chat_storage_connection_setting: str = "",
        collection_name: str = "",
        timeout: float | None = None,
    ) -> None:
        request = _requests.cancel_turn(id, request_id, chat_storage_connection_setting, collection_name)
        self._call(self.stub.CancelTurn, request, self._deadline(timeout))

    def _list_messages(
        self, request: assistant_service_pb2.ListMessagesRequest, timeout: float | None
    ) -> Iterator[Message]:
        """Fetches page after page and yields the messages."""
        while True:
            response = self._call(self.stub.ListMessages, request, self._deadline(timeout))
            messages, request.page_token = _responses.list_messages(response)
            yield from messages
            if not request.page_token:
                return

    def _call(
        self, method: grpc.UnaryUnaryMultiCallable[_Request, _Response], request: _Request, timeout: float | None
    ) -> _Response:
        """Makes a unary call and converts its error."""
        remaining, metadata = self._settings.metadata.get(timeout)
        try:
            return method(request, timeout=remaining, metadata=metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error


def _is_call(call: object) -> bool:
    """Returns whether a call is really one, and not a generator that instrumentation has put in its place."""
    return isinstance(call, grpc.Call)
