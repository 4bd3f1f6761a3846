"""The output of `--json`: the contract's messages in Protobuf's JSON format, with the field names of the contract.

Any program can parse a line with its generated classes. All fields are present; unset ones are null.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

import palaver

_EVENT_FIELDS: dict[type[palaver.Event], str] = {
    palaver.TurnStarted: "started",
    palaver.TextDelta: "text_delta",
    palaver.SkillCall: "skill_call",
    palaver.SkillResult: "skill_result",
    palaver.Progress: "progress",
    palaver.TurnCompleted: "completed",
}
_ENUM_PREFIXES: dict[type[palaver.Role | palaver.FinishReason | palaver.ProgressPhase], str] = {
    palaver.Role: "ROLE_",
    palaver.ProgressPhase: "PROGRESS_PHASE_",
    palaver.FinishReason: "FINISH_REASON_",
}


def contract_line(message: Message) -> str:
    """Returns a generated message of the contract as a line of JSON."""
    return _line(_contract_value(message))


def usage_line(assistants: int, messages: int, tokens: int, largest: Iterable[Message]) -> str:
    """Returns the sums over a collection, and its largest assistants, as a line of JSON."""
    sums = {"assistants": assistants, "total_messages": messages, "total_tokens": tokens}
    return _line({**sums, "largest": list(map(_contract_value, largest))})


def conversation_line(assistant: palaver.Assistant, messages: Iterable[palaver.Message]) -> str:
    """Returns an assistant and some of its messages as a line of JSON."""
    return _line({"assistant": _value(assistant), "messages": list(map(_value, messages))})


def health_line(status: str, latency: timedelta) -> str:
    """Returns a response of the health service, and the time that it took, as a line of JSON."""
    return _line({"status": status, "latency": _value(latency)})


def message_line(message: palaver.Message | palaver.CreateAssistantResult) -> str:
    """Returns a message of the contract as a line of JSON."""
    return _line(_value(message))


def event_line(event: palaver.Event) -> str:
    """Returns an event as a line of JSON: a `PostUserQueryResponse` without its sequence."""
    return _line({_EVENT_FIELDS[type(event)]: _value(event)})


def error_line(error: palaver.PalaverError) -> str:
    """Returns an error as a line of JSON."""
    return _line(
        {
            "error": {
                "status": error.status.name,
                "reason": error.reason,
                "message": error.message,
                "field_violations": [violation._asdict() for violation in error.field_violations],
                "retry_delay": error.retry_delay,
            }
        }
    )


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _contract_value(message: Message) -> Any:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _value(value: Any) -> Any:
    """Converts a value of the library to one that `json` can encode."""
    if dataclasses.is_dataclass(value):
        return {field.name: _value(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_value(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        duration = Duration()
        duration.FromTimedelta(value)
        return duration.ToJsonString()
    if isinstance(value, palaver.Role | palaver.FinishReason | palaver.ProgressPhase):
        return _ENUM_PREFIXES[type(value)] + ("UNSPECIFIED" if value.name == "UNKNOWN" else value.name)
    return value
