"""The rows of a conversation in Azure Table Storage, which are those of the Azure Functions extension.

A conversation that began there continues here and vice versa, so names, types and the order of rows are fixed:

| RowKey | content | columns of Palaver's own |
| --- | --- | --- |
| `state` | the assistant | `CreationId`, `LeaseHolder`, `LeaseUntil` |
| `msg-0001` … `msg-FFFF` | a message | `RequestId`, `IsError`, `Extras`, `ContentParts`, `ToolCallsParts` … |
| `done-<hash of request_id>` | a stored turn | all of them |

The extension ignores columns and rows that it does not know, and its merges keep them. A row of Palaver's own must not
begin with `msg-`, and must sort before it, so that reading the newest messages does not read such rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from palaver_server.domain.conversation import Assistant, Message, Role, SkillCall
from palaver_server.domain.limits import MAX_MESSAGES
from palaver_server.domain.turns import FinishedTurn, FoundTurn, LeaseHolder, Version
from palaver_server.stores.common import (
    count,
    dump_extras,
    dump_parameters,
    dump_usage,
    load_found_turn,
    load_message,
    reading,
    text,
)
from palaver_server.stores.leases import StoredLease

Row = dict[str, Any]

STATE = "state"
FIRST_MESSAGE = "msg-0001"
PAST_MESSAGES = "msg-G"
"""A key that sorts after all messages and before the state."""

MAX_PROPERTY_UNITS = 32_768
"""UTF-16 code units of a text column."""

NEVER = datetime(1970, 1, 1, tzinfo=timezone.utc)
CREATION_ID = "CreationId"
LEASE_HOLDER = "LeaseHolder"
LEASE_UNTIL = "LeaseUntil"
REQUEST_ID = "RequestId"
IS_ERROR = "IsError"

ROLES = {Role.SYSTEM: "System", Role.USER: "User", Role.ASSISTANT: "Assistant", Role.TOOL: "Tool"}
ROLES_BY_NAME = {name.lower(): role for role, name in ROLES.items()}
FUNCTION = "function"
"""The role of a function's result before version 0.19 of the extension. `Name` is the function; no call is stored."""


@dataclass(frozen=True, slots=True)
class AzureVersion(Version):
    """The state of a conversation, with everything that a commit needs, so that it does not read it again."""

    assistant: Assistant
    etag: str | None
    holder: LeaseHolder | None
    """The holder of the lease that was taken, or None if none was."""


def message_key(index: int) -> str:
    """Returns the key of a message, or a key after all messages if the index is too high for a message."""
    return f"msg-{index:04X}" if index <= MAX_MESSAGES else PAST_MESSAGES


def turn_key(request_id: str) -> str:
    """Returns the key of a turn. It is a hash, because a `request_id` may contain characters that keys can't have."""
    return f"done-{hashlib.sha256(request_id.encode()).hexdigest()}"


def state_row(assistant: Assistant, creation_id: str) -> Row:
    """Returns the row of a new assistant."""
    return state_update(assistant) | {"Exists": True, "CreatedAt": assistant.create_time, CREATION_ID: creation_id}


def state_update(assistant: Assistant) -> Row:
    """Returns the columns of an assistant that summarise its messages."""
    return {
        "PartitionKey": assistant.id,
        "RowKey": STATE,
        "LastUpdatedAt": assistant.update_time,
        "TotalMessages": assistant.total_messages,
        "TotalTokens": assistant.total_tokens,
    }


def commit_update(assistant: Assistant) -> Row:
    """Returns the columns of an assistant that the commit of a turn changes. The commit also ends the lease."""
    return state_update(assistant) | {LEASE_HOLDER: ""}


def lease_update(partition: str, lease: StoredLease) -> Row:
    """Returns the columns of an assistant that hold its lease."""
    return {"PartitionKey": partition, "RowKey": STATE, LEASE_HOLDER: lease.holder_text, LEASE_UNTIL: lease.until}


def message_row(partition: str, message: Message) -> Row:
    """Returns the row of a message."""
    parts = _split(message.content.text)
    row: Row = {
        "PartitionKey": partition,
        "RowKey": message_key(message.index),
        "Content": parts[0],
        "Role": ROLES[message.role],
        "CreatedAt": message.create_time,
        REQUEST_ID: message.request_id,
        **_tool_calls(message.skill_calls),
    }
    if message.skill_call_id:
        row["Name"] = message.skill_call_id
        row[IS_ERROR] = message.is_error
    if extras := dump_extras(message):
        row |= _columns("Extras", _split(extras), first=0)
    if len(parts) > 1:
        row |= _columns("Content", parts, first=1)
    return row


def turn_row(partition: str, turn: FinishedTurn, first_index: int, last_index: int) -> Row:
    """Returns the row of a stored turn."""
    return {
        "PartitionKey": partition,
        "RowKey": turn_key(turn.request_id),
        REQUEST_ID: turn.request_id,
        "RequestHash": turn.request_hash,
        "FirstIndex": first_index,
        "LastIndex": last_index,
        "FinishReason": turn.finish_reason.value,
        "Usage": dump_usage(turn.usage),
        "ChatModel": turn.chat_model,
        "Parameters": dump_parameters(turn.parameters),
    }


@reading("the state of the assistant")
def assistant(row: Mapping[str, Any]) -> Assistant:
    """Returns the assistant of a `state` row."""
    return Assistant(
        id=row["PartitionKey"],
        create_time=_utc(row["CreatedAt"]),
        update_time=_utc(row["LastUpdatedAt"]),
        total_messages=count(row["TotalMessages"], MAX_MESSAGES),
        total_tokens=count(row.get("TotalTokens") or 0),
    )


@reading("the lease of the assistant")
def stored_lease(row: Mapping[str, Any]) -> StoredLease:
    """Returns the lease in a `state` row."""
    until = row.get(LEASE_UNTIL)
    return StoredLease.parse(row.get(LEASE_HOLDER) or "", _utc(until) if isinstance(until, datetime) else NEVER)


def identity(row: Mapping[str, Any]) -> tuple[object, object]:
    """Returns a value that identifies the conversation. After a reset, the assistant has a different one."""
    return row.get(CREATION_ID), row.get("CreatedAt")


@reading("a stored message")
def message(row: Mapping[str, Any]) -> Message:
    """Returns the message of a row."""
    parts = [row.get("Content") or "", *_parts(row, "Content", first=1)]
    role_name, name = row["Role"].lower(), text(row.get("Name") or "")
    is_function = role_name == FUNCTION
    role = Role.TOOL if is_function else ROLES_BY_NAME.get(role_name, Role.UNKNOWN)
    return load_message(
        content="".join(parts),
        extras="".join(_parts(row, "Extras")),
        role=role,
        skill_calls=_skill_calls(row),
        skill_call_id="" if is_function or role is Role.UNKNOWN else name,
        skill_name=name if is_function else "",
        is_error=bool(row.get(IS_ERROR)),
        index=_index(row),
        create_time=_utc(row["CreatedAt"]),
        request_id=text(row.get(REQUEST_ID) or ""),
    )


@reading("a stored message")
def indexes(found: Iterable[Mapping[str, Any]]) -> list[int]:
    """Returns the indexes of messages in ascending order, from the keys of their rows."""
    return sorted(map(_index, found))


@reading("a stored turn")
def turn_indexes(row: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the indexes of the first and the last message of a turn."""
    return count(row["FirstIndex"], MAX_MESSAGES), count(row["LastIndex"], MAX_MESSAGES)


@reading("a stored turn")
def found_turn(row: Mapping[str, Any], assistant: Assistant, messages: tuple[Message, ...]) -> FoundTurn:
    """Returns the turn of a row, with the current state of its assistant."""
    return load_found_turn(
        assistant,
        messages,
        request_hash=row["RequestHash"],
        finish_reason=row["FinishReason"],
        usage=row["Usage"],
        chat_model=row["ChatModel"],
        parameters=row.get("Parameters"),
    )


def _index(row: Mapping[str, Any]) -> int:
    number = count(int(row["RowKey"].removeprefix("msg-"), 16), MAX_MESSAGES)
    if number == 0:
        raise ValueError(number)
    return number


def _split(text: str) -> list[str]:
    """Splits a text into parts that each fit into a column. A character is never split."""
    parts = []
    encoded = text.encode("utf-16-le")
    start, limit = 0, 2 * MAX_PROPERTY_UNITS
    while len(encoded) - start > limit:
        end = start + limit
        if 0xD8 <= encoded[end - 1] <= 0xDB:  # a high surrogate, whose other half would be in the next part
            end -= 2
        parts.append(encoded[start:end].decode("utf-16-le"))
        start = end
    parts.append(encoded[start:].decode("utf-16-le"))
    return parts


def _columns(name: str, parts: list[str], first: int) -> Row:
    """Returns the columns for the parts of a text, starting at part `first`, and the column with their number."""
    columns: Row = {f"{name}_{number:02}": part for number, part in enumerate(parts) if number >= first}
    return columns | {f"{name}Parts": len(parts)}


def _parts(row: Mapping[str, Any], name: str, first: int = 0) -> list[str]:
    """Returns the parts of a text that `_columns` has written, starting at part `first`."""
    return [row[f"{name}_{number:02}"] for number in range(first, row.get(f"{name}Parts") or first)]


def _tool_calls(calls: tuple[SkillCall, ...]) -> Row:
    if not calls:
        return {"ToolCalls": ""}
    parts = _split(_tool_calls_json(calls))
    if len(parts) == 1:
        return {"ToolCalls": parts[0]}
    # The extension parses its column as JSON, so the column must hold complete JSON, even if without the arguments.
    stubs = tuple(replace(call, arguments_json="{}") for call in calls)
    return {"ToolCalls": _tool_calls_json(stubs), **_columns("ToolCalls", parts, first=0)}


def _tool_calls_json(calls: tuple[SkillCall, ...]) -> str:
    return json.dumps(
        [
            {"id": call.id, "functionName": call.name, "functionArguments": call.arguments_json, "kind": "Function"}
            for call in calls
        ],
        ensure_ascii=False,
    )


def _skill_calls(row: Mapping[str, Any]) -> tuple[SkillCall, ...]:
    stored = "".join(_parts(row, "ToolCalls")) or row.get("ToolCalls")
    calls = json.loads(stored) if stored else []
    names = ("id", "functionName", "functionArguments")
    return tuple(SkillCall(*(text(call[name]) for name in names)) for call in calls)


def _utc(time: datetime) -> datetime:
    # The SDK returns a subclass of datetime that also keeps the service's text; this returns a plain datetime.
    return datetime.combine(time.date(), time.time(), time.tzinfo or timezone.utc).astimezone(timezone.utc)
