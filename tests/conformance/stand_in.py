"""A server with scripted responses, for responses that the real server never sends."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2

from palaver.v1 import assistant_service_pb2
from tests.support.refusals import refusal
from tests.support.scripted_server import HANG, Failure, ScriptedServer

_SERVICE = assistant_service_pb2.DESCRIPTOR.services_by_name["AssistantService"]
_UNKNOWN_FIELD = b"\xa2\x3f\x05later"  # field 1012, with five bytes


def stand_in(answers: dict[str, list[Any]], credentials: grpc.ServerCredentials | None) -> ScriptedServer:
    """Starts a server with the responses of each method. The last response serves all further calls."""
    server = ScriptedServer(credentials)
    for method, wanted in answers.items():
        response = GetMessageClass(_SERVICE.methods_by_name[method].output_type)
        streams = method == "PostUserQuery"
        server.script(method, *([_step(step, response) for step in answer] if streams else _step(answer, response)
                                for answer in wanted))  # fmt: skip
    return server


def _step(step: Any, response: type[Message]) -> Any:
    if step == "hang":
        return HANG
    if "unknown_event" in step:
        return _UNKNOWN_FIELD
    if "status" in step:
        return _failure(step)
    message = json_format.ParseDict({key: value for key, value in step.items() if key != "newer"}, response())
    if step.get("newer"):
        _add_unknown_fields(message)
    return message


def _add_unknown_fields(message: Message) -> None:
    """Adds an unknown field to the message and to all messages in it."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if isinstance(value, Message) else value:
                _add_unknown_fields(inner)
    message.MergeFromString(_UNKNOWN_FIELD)


def _failure(step: dict[str, Any]) -> Failure:
    status, message = grpc.StatusCode[step["status"]], step.get("message", "")
    other_details = (error_details_pb2.Help(),) if "help" in step else ()  # a detail that the contract does not use
    if "reason" not in step:
        return Failure(status, message, other_details)
    violations = {each["field"]: each["description"] for each in step.get("field_violations", ())}
    return refusal(
        status,
        step["reason"],
        message,
        domain=step.get("domain", "palaver.v1"),
        violations=violations or None,
        retry_delay=step.get("retry_delay"),
        other_details=other_details,
    )
