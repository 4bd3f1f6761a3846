"""The status of a failed call, with its details."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status


@dataclass(frozen=True)
class Failure:
    """A gRPC status with its details unpacked."""

    code: grpc.StatusCode
    text: str
    reason: str
    domain: str
    violations: dict[str, str]
    retry_delay: float | None


async def failure_of(call: Awaitable[Any]) -> Failure:
    """Awaits a call that must fail, and returns its status."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return failure(caught.value)


def failure(error: grpc.aio.AioRpcError) -> Failure:
    status = rpc_status.from_call(error)
    info = _detail(status, error_details_pb2.ErrorInfo())
    bad_request = _detail(status, error_details_pb2.BadRequest())
    retry = _detail(status, error_details_pb2.RetryInfo())
    return Failure(
        code=error.code(),
        text=error.details() or "",
        reason=info.reason if info else "",
        domain=info.domain if info else "",
        violations={v.field: v.description for v in bad_request.field_violations} if bad_request else {},
        retry_delay=retry.retry_delay.ToTimedelta().total_seconds() if retry else None,
    )


def _detail(status: Any, message: Message) -> Any:
    for detail in status.details if status else ():
        if detail.Unpack(message):
            return message
    return None
