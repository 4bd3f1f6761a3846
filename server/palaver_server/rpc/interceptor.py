"""The outermost layer of every call: it parses the request and turns whatever is raised into a status.

Without it gRPC would answer `UNKNOWN` with the text of the exception, secrets included, and would do so for malformed
requests as well, because it parses them before any code of ours runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from palaver_server.errors import FieldViolation, InvalidFields
from palaver_server.rpc.status import status_of

SERVICES = "/palaver.v1."

Context = grpc.aio.ServicerContext[Any, Any]


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of our services; those of other services stay as they are."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Called by gRPC for every call."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(SERVICES):
            return handler
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                _streaming(handler.unary_stream, handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            _unary(handler.unary_unary, handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )


def _unary(handle: Any, parse: Any) -> Any:
    async def call(data: bytes, context: Context) -> Any:
        try:
            return await handle(_parsed(parse, data), context)
        except Exception as error:
            await context.abort_with_status(status_of(error))

    return call


def _streaming(handle: Any, parse: Any) -> Any:
    async def call(data: bytes, context: Context) -> None:
        try:
            # gRPC would never close the generator of a caller that left; this does.
            async with aclosing(handle(_parsed(parse, data), context)) as responses:
                async for response in responses:
                    await context.write(response)
        except grpc.aio.BaseError:
            raise  # from `write`: the caller is gone, and gRPC knows
        except Exception as error:
            await context.abort_with_status(status_of(error))

    return call


def _parsed(parse: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return parse(data)
    except DecodeError as error:
        raise InvalidFields(
            FieldViolation("", "the request is not a valid message of its type; text must be valid UTF-8")
        ) from error
