"""Failures of a scripted server with the details that a Palaver server sends."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from tests.support.scripted_server import Failure


def refusal(
    status: grpc.StatusCode,
    reason: str,
    message: str = "refused",
    *,
    domain: str = "palaver.v1",
    violations: Mapping[str, str] | None = None,
    retry_delay: float | None = None,
    other_details: tuple[Message, ...] = (),
) -> Failure:
    """Returns a failure with its reason and, if given, descriptions by invalid field and a retry delay in seconds."""
    details: list[Message] = [error_details_pb2.ErrorInfo(domain=domain, reason=reason)]
    if violations is not None:
        bad_request = error_details_pb2.BadRequest()
        for field, description in violations.items():
            bad_request.field_violations.add(field=field, description=description)
        details.append(bad_request)
    if retry_delay is not None:
        delay = Duration()
        delay.FromNanoseconds(round(retry_delay * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return Failure(status, message, (*details, *other_details))
