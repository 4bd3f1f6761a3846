"""The part of both clients that does no I/O: the constructor, deadlines, and the documentation of every method.

`Client` and `AsyncClient` override the methods without documenting them again: `help()` and editors show the docstrings
of the base class.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from palaver._channel import DEFAULT_TARGET, ChannelOptions, Security, channel_settings
from palaver._reply_shared import BaseReply
from palaver._resume import DEFAULT_RECONNECT_TIMEOUT, RetryBudget
from palaver._token import Token
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

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from palaver.v1.assistant_service_pb2_grpc import AssistantServiceAsyncStub, AssistantServiceStub

_T = TypeVar("_T")
_MaybeAwaitable: TypeAlias = _T | Awaitable[_T]


class BaseClient(ABC):
    """The interface of `Client` and `AsyncClient`."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        tls: bool | str | bytes | os.PathLike[str] = False,
        client_certificate: str | os.PathLike[str] | None = None,
        client_key: str | os.PathLike[str] | None = None,
        token: Token | None = None,
        timeout: float | None = None,
        reconnect_timeout: float = DEFAULT_RECONNECT_TIMEOUT,
        options: ChannelOptions = (),
    ) -> None:
        """Creates a client. It connects with its first call.

        Args:
            target: The server, as "host:port" or any other name that gRPC supports ("dns:///host:port", "unix:path").
            tls: False for plaintext, True for TLS with gRPC's default certificate authorities. To trust other
                authorities instead, pass the path of a PEM file, or its content as bytes.
            client_certificate: The path of a PEM file with a certificate chain, which the server asks for with TLS.
            client_key: The path of a PEM file with the private key of the certificate, without a password.
            token: A bearer token, sent as `authorization: Bearer <token>` with every call. A token that expires comes
                from a function without parameters. It is called before every call, every page and every post of a
                turn, so it should keep its token as long as it is valid. `AsyncClient` also takes an asynchronous
                function. If the function fails, the call raises `UnauthenticatedError` with the function's exception
                as its `__cause__`. With a function, a turn is posted when its reply is first read.
            timeout: The default deadline of a call, in seconds. None: there is no deadline. The deadline of a reply
                covers all of it, up to the last event.
            reconnect_timeout: How many seconds a turn may be without a connection. When the connection breaks or the
                server shuts down, the turn is posted again, and each event of the reply is delivered once. 0 disables
                posting again.
            options: Additional gRPC channel arguments. They override the client's own.

        Raises:
            ValueError: The token would leave this machine without TLS, or contains characters other than visible ASCII.
                The client certificate lacks TLS or its key, or does not belong to the key.
            TypeError: `Client` got an asynchronous token function.
            OSError: The file of certificate authorities, of the client certificate or of its key can't be read.
        """
        self._settings = channel_settings(target, Security(tls, client_certificate, client_key, token), options)
        self._timeout = timeout
        self._reconnect_timeout = reconnect_timeout
        self._closed = False
        self._init_channel()

    @abstractmethod
    def _init_channel(self) -> None:
        """Sets up the attributes that hold the channel, at the end of the constructor."""

    def _deadline(self, timeout: float | None) -> float | None:
        """Returns the deadline of a call in seconds from now, or None if there is none, as gRPC expects it."""
        seconds = self._timeout if timeout is None else timeout
        return None if seconds == math.inf else seconds

    def _retry_budget(self, timeout: float | None) -> RetryBudget:
        """Returns the budget of a turn that starts now."""
        return RetryBudget(self._deadline(timeout), self._reconnect_timeout)

    @property
    @abstractmethod
    def stub(self) -> AssistantServiceStub | AssistantServiceAsyncStub:
        """The generated stub on the client's channel, for everything that the client does not offer.

        Its calls take and return the messages of `palaver.v1` and raise `grpc.RpcError`. They use neither the client's
        `timeout` nor a `token` without TLS or from a function.

        Raises:
            RuntimeError: The client is closed, or an `AsyncClient` is used without a running event loop.
        """

    @abstractmethod
    def close(self) -> _MaybeAwaitable[None]:
        """Closes the connection and cancels all running calls. Closing again does nothing."""

    @abstractmethod
    def create_assistant(
        self,
        id: str,
        *,
        instructions: str | None = None,
        if_exists: IfExistsLike = IfExists.FAIL,
        chat_storage_connection_setting: str = "",
        collection_name: str = "",
        timeout: float | None = None,
    ) -> _MaybeAwaitable[CreateAssistantResult]:
        """Creates an assistant. Its conversation starts with only its instructions.

        Args:
            id: The identifier of the new assistant: 1 to 255 characters, except control characters, slashes,
                backslashes, `#` and `?`.
            instructions: The instructions that the model gets before every conversation, at most 450,000 UTF-16 code
                units. None: "You are a helpful assistant." Blank: no instructions.
            if_exists: What to do if the assistant exists already: a member of the enum or its value, such as "keep".
            chat_storage_connection_setting: The name of the storage connection. The default is `AzureWebJobsStorage`.
            collection_name: The collection to store the conversation in: 3 to 63 letters and digits, starting with a
                letter. The server creates it if it does not exist. The default is `ChatState`.
            timeout: The deadline of this call in seconds. None: the client's default; `math.inf`: no deadline.

        Returns:
            The assistant, and whether it was created.

        Raises:
            AlreadyExistsError: The assistant exists, and `if_exists` is `IfExists.FAIL`.
            PalaverError: The call failed for another reason; see the subclasses.
        """

    @abstractmethod
    def get_assistant(
        self,
        id: str,
        *,
        chat_storage_connection_setting: str = "",
        collection_name: str = "",
        timeout: float | None = None,
    ) -> _MaybeAwaitable[Assistant]:
        """Returns the current state of an assistant. The call is retried while the server is unavailable.

        Args:
            id: The identifier of the assistant.
            chat_storage_connection_setting: The name of the storage connection. The default is `AzureWebJobsStorage`.
            collection_name: The collection of the conversation. The default is `ChatState`.
            timeout: The deadline of this call in seconds. None: the client's default; `math.inf`: no deadline.

        Raises:
            NotFoundError: The assistant does not exist.
            PalaverError: The call failed for another reason; see the subclasses.
        """

    @abstractmethod
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
    ) -> Iterator[Message] | AsyncIterator[Message]:
        """Iterates over the messages of an assistant. Each page is fetched when the iteration reaches it.

        Args:
            id: The identifier of the assistant.
            after_time: Return only messages with a later `create_time`. It must have a time zone.
            order: The order of the messages: a member of the enum or its value, such as "newest_first".
            page_size: How many messages to fetch per page, at most 1,000. The default is the server's, 100.
            chat_storage_connection_setting: The name of the storage connection. The default is `AzureWebJobsStorage`.
            collection_name: The collection of the conversation. The default is `ChatState`.
            timeout: The deadline of each page in seconds. None: the client's default; `math.inf`: no deadline.

        Raises:
            NotFoundError: The assistant does not exist. The iteration raises this and all other errors of the call.
            PalaverError: The call failed for another reason; see the subclasses.
            ValueError: An argument is invalid, such as a time without a time zone.
        """

    @abstractmethod
    def delete_assistant(
        self,
        id: str,
        *,
        chat_storage_connection_setting: str = "",
        collection_name: str = "",
        timeout: float | None = None,
    ) -> _MaybeAwaitable[None]:
        """Deletes an assistant and all of its messages. This can't be undone.

        Args:
            id: The identifier of the assistant.
            chat_storage_connection_setting: The name of the storage connection. The default is `AzureWebJobsStorage`.
            collection_name: The collection of the conversation. The default is `ChatState`.
            timeout: The deadline of this call in seconds. None: the client's default; `math.inf`: no deadline.

        Raises:
            NotFoundError: The assistant does not exist.
            PalaverError: The call failed for another reason; see the subclasses.
        """

    @abstractmethod
    def post_user_query(
        self,
        id: str,
        user_message: str,
        *,
        timeout: float | None = None,
        **options: Unpack[QueryOptions],
    ) -> BaseReply:
        """Posts a user message and streams the reply. Together they are a turn.

        The turn is stored as a whole when the reply completes, or not at all. The call starts immediately,
        or with the first read if the client has a token function; the iteration over the reply raises its errors.

        When the connection breaks or the server shuts down, the turn is posted again with the same `request_id`, and
        the iteration resumes where it stopped. If the turn had to run again and the model wrote something else, the
        reply restarts: a second `TurnStarted` voids all events before it. With `on_disconnect="continue"`, this happens
        only if the server dies. After three such posts in a row that the server answered but that brought nothing new,
        the iteration raises the error, because each of them may be another model call.

        Args:
            id: The identifier of the assistant.
            user_message: The text of the user, at most 450,000 UTF-16 code units. It must not be empty unless
                `skill_results` are given.
            timeout: The deadline of the whole turn in seconds. None: the client's default; `math.inf`: no deadline.
            **options: The model, its parameters, the storage and more; see `QueryOptions`.

        Returns:
            The reply, an iterator of events. A `with` block (`async with` for `AsyncClient`) cancels the turn if the
            block is left early.

        Raises:
            PalaverError: The turn failed and is not stored; see the subclasses. The exception is an `InternalError`
                with an empty `reason`: the server broke the contract, and it is unknown whether the turn is stored.
            ValueError: An argument can't be sent, such as text with a lone surrogate.
        """

    @abstractmethod
    def post_user_query_unary(
        self,
        id: str,
        user_message: str,
        *,
        timeout: float | None = None,
        **options: Unpack[QueryOptions],
    ) -> _MaybeAwaitable[TurnCompleted]:
        """Posts a user message and returns the last event of the reply once the turn is stored.

        The turn is posted again when the connection breaks, like that of a reply.

        Args:
            id: The identifier of the assistant.
            user_message: The text of the user, at most 450,000 UTF-16 code units. It must not be empty unless
                `skill_results` are given.
            timeout: The deadline of the whole turn in seconds. None: the client's default; `math.inf`: no deadline.
            **options: The model, its parameters, the storage and more; see `QueryOptions`.

        Raises:
            PalaverError: The turn failed and is not stored; see the subclasses. The exception is an `InternalError`
                with an empty `reason`: the server broke the contract, and it is unknown whether the turn is stored.
            ValueError: An argument can't be sent, such as text with a lone surrogate.
        """

    @abstractmethod
    def cancel_turn(
        self,
        id: str,
        request_id: str,
        *,
        chat_storage_connection_setting: str = "",
        collection_name: str = "",
        timeout: float | None = None,
    ) -> _MaybeAwaitable[None]:
        """Cancels a running turn of any caller, regardless of its `on_disconnect`. The turn is not stored.

        Args:
            id: The identifier of the assistant.
            request_id: The identifier of the turn: the `request_id` of its reply or of its `TurnStarted`.
            chat_storage_connection_setting: The name of the storage connection. The default is `AzureWebJobsStorage`.
            collection_name: The collection of the conversation. The default is `ChatState`.
            timeout: The deadline of this call in seconds. None: the client's default; `math.inf`: no deadline.

        Raises:
            NotFoundError: The turn is not running.
            PalaverError: The call failed for another reason; see the subclasses.
        """
