"""The gRPC handlers of the API, inside one guarded chain of interceptors.

Without the guard, gRPC would answer an exception with `UNKNOWN` and the text of the exception, secrets included. It
would also parse requests before any of Palaver's code runs, and answer a malformed one in the same way. The guard
therefore encloses everything: the parsing, the interceptors and the method.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status

from palaver_server.api import admin, service
from palaver_server.api.admin import AdminApi
from palaver_server.api.service import AssistantApi, Call
from palaver_server.api.statuses import status_of
from palaver_server.domain.errors import FieldViolation, InvalidFields
from palaver_server.domain.limits import BUFFERED_BYTES, MAX_METADATA_BYTES
from palaver_server.transports.auth import certificate_names
from palaver_server.transports.transfers import Transfers

ENTRY_BYTES = 32
"""What HTTP/2 counts for each entry of metadata, besides its key and its value."""

Context = grpc.aio.ServicerContext[Any, Any]
UnaryMethod = Callable[[Any, Call], Awaitable[Message]]
StreamingMethod = Callable[[Any, Call], AsyncGenerator[Message, None]]

Interceptor = Callable[[Call], AbstractAsyncContextManager[None]]
"""A context manager around every call of the API.

It is entered before the request is parsed. If the call fails, it is left with the exception. It may change the call,
and whatever it raises becomes the status of the call.
"""


Failed = Callable[[Call, Exception], None]
"""Told of each call that fails, and of its error."""

Guard = Callable[[MethodDescriptor, Context], AbstractAsyncContextManager[Call]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service of the contract, and the functions that serve its methods, by their names."""

    descriptor: ServiceDescriptor
    small: Mapping[str, UnaryMethod]
    """The methods with small responses."""
    large: Mapping[str, UnaryMethod]
    """The methods with a response that may be large."""
    streaming: Mapping[str, StreamingMethod] = field(default_factory=dict)
    paced: frozenset[str] = frozenset()
    """Those of the large responses of which few are prepared at a time."""

    @property
    def name(self) -> str:
        """The full name."""
        return str(self.descriptor.full_name)


def assistant_service(api: AssistantApi) -> Service:
    """Returns `palaver.v1.AssistantService`."""
    return Service(
        descriptor=service.SERVICE,
        small={
            "CreateAssistant": api.create_assistant,
            "GetAssistant": api.get_assistant,
            "DeleteAssistant": api.delete_assistant,
            "CancelTurn": api.cancel_turn,
        },
        large={"ListMessages": api.list_messages, "PostUserQueryUnary": api.post_user_query_unary},
        streaming={"PostUserQuery": api.post_user_query},
        paced=frozenset({"ListMessages"}),
    )


def admin_service(api: AdminApi) -> Service:
    """Returns `palaver.v1.AdminService`."""
    return Service(
        descriptor=admin.SERVICE,
        small={"GetServerSettings": api.get_server_settings},
        large={"ListAssistants": api.list_assistants, "ListRunningTurns": api.list_running_turns},
    )


def handlers_of(
    services: Iterable[Service], interceptors: Sequence[Interceptor] = (), failed: Failed = lambda _call, _error: None
) -> tuple[grpc.GenericRpcHandler, ...]:
    """Returns the handlers of services. The first interceptor is the outermost one.

    To gRPC, all requests are streams, and so are responses that may be large. To callers this looks the same. Only so
    can the handlers limit the time in which a request arrives, and know how long a response waits to be read.
    """
    transfers = Transfers()
    guard = partial(_guarded, interceptors=interceptors, failed=failed)
    return tuple(_service_handler(service, guard, transfers) for service in services)


def _service_handler(service: Service, guard: Guard, transfers: Transfers) -> grpc.GenericRpcHandler:
    large = {
        name: _streamed(_paced(serve, transfers) if name in service.paced else serve)
        for name, serve in service.large.items()
    } | dict(service.streaming)
    handlers = {
        method.name: _small_handler(service.small[method.name], method, guard, transfers)
        if method.name in service.small
        else _large_handler(large[method.name], method, guard, transfers)
        for method in service.descriptor.methods
    }
    return grpc.method_handlers_generic_handler(service.name, handlers)


def _paced(serve: UnaryMethod, transfers: Transfers) -> UnaryMethod:
    """Returns a method whose responses are pages of messages, of which few are prepared at a time."""

    async def prepare(request: Any, call: Call) -> Message:
        async with transfers.preparing_page(call.address):
            return await serve(request, call)

    return prepare


def _streamed(serve: UnaryMethod) -> StreamingMethod:
    """Returns a method with one response as a method that streams."""

    async def stream(request: Any, call: Call) -> AsyncGenerator[Message, None]:
        yield await serve(request, call)

    return stream


def _small_handler(
    serve: UnaryMethod, method: MethodDescriptor, guard: Guard, transfers: Transfers
) -> grpc.RpcMethodHandler[Any, Any]:
    request_type = message_factory.GetMessageClass(method.input_type)

    async def handle(_requests: object, context: Context) -> bytes:
        async with guard(method, context) as call:
            data = await transfers.receive(call.address, context.read())
            response = await serve(_parsed(request_type, data), call)
            return response.SerializeToString()
        raise AssertionError("the guard lets no call end without a response")

    return grpc.stream_unary_rpc_method_handler(handle)


def _large_handler(
    serve: StreamingMethod, method: MethodDescriptor, guard: Guard, transfers: Transfers
) -> grpc.RpcMethodHandler[Any, Any]:
    request_type = message_factory.GetMessageClass(method.input_type)

    async def handle(_requests: object, context: Context) -> None:
        # If the caller leaves, gRPC would not close the generator.
        async with guard(method, context) as call:
            data = await transfers.receive(call.address, context.read())
            async with aclosing(serve(_parsed(request_type, data), call)) as responses:
                async for response in responses:
                    data = response.SerializeToString()
                    try:
                        if len(data) <= BUFFERED_BYTES:
                            await context.write(data)
                        else:
                            with transfers.sending(call.address, len(data)):
                                await context.write(data)
                    except grpc.aio.BaseError as error:
                        raise _CallerLeftError(error) from error

    return grpc.stream_stream_rpc_method_handler(handle)


@asynccontextmanager
async def _guarded(
    method: MethodDescriptor, context: Context, *, interceptors: Sequence[Interceptor], failed: Failed
) -> AsyncIterator[Call]:
    """Encloses a call. Whatever fails in its interceptors or in itself becomes its status."""
    is_served = False
    call: Call | None = None
    try:
        call = _call(method, context)
        async with AsyncExitStack() as stack:
            for interceptor in interceptors:
                await stack.enter_async_context(interceptor(call))
            yield call
            is_served = True
        # An interceptor can't suppress an error: the call would have no response.
        if not is_served:
            raise RuntimeError("an interceptor suppressed the error of a call")  # noqa: TRY301
    except _CallerLeftError as left:
        raise left.error from None  # gRPC knows it
    except Exception as error:
        if call is not None:
            failed(call, error)
        await context.abort_with_status(rpc_status.to_status(status_of(error)))


class _CallerLeftError(Exception):
    """The caller has left while a response was written to it."""

    def __init__(self, error: grpc.aio.BaseError) -> None:
        super().__init__(str(error))
        self.error = error


def _call(method: MethodDescriptor, context: Context) -> Call:
    peer = context.peer()
    return Call(
        method=f"/{method.containing_service.full_name}/{method.name}",
        metadata=_metadata(context),
        peer=peer,
        address=peer.rpartition(":")[0],
        certificate_names=certificate_names(context.auth_context()),
        time_remaining=context.time_remaining(),
    )


def _metadata(context: Context) -> dict[str, str | bytes]:
    """Returns the metadata of a call. A key that was sent twice never looks as if it was sent once.

    Raises `InvalidFields` if it is too large. gRPC usually refuses such a call itself, but not always.
    """
    sent = context.invocation_metadata() or ()
    if sum(len(key) + len(value) + ENTRY_BYTES for key, value in sent) > MAX_METADATA_BYTES:
        raise InvalidFields(FieldViolation("", f"the call has more than {MAX_METADATA_BYTES:,} bytes of metadata"))
    metadata: dict[str, str | bytes] = {}
    for key, value in sent:
        previous = metadata.get(key)
        if isinstance(previous, str) and isinstance(value, str):
            metadata[key] = f"{previous},{value}"
        else:
            metadata[key] = value
    return metadata


def _parsed(request_type: type[Message], data: Any) -> Message:
    if data is grpc.aio.EOF:
        raise InvalidFields(FieldViolation("", "the call has no request"))
    try:
        return request_type.FromString(data)
    except DecodeError as error:
        raise InvalidFields(
            FieldViolation("", "the request is not a valid message of its type; text must be valid UTF-8")
        ) from error
