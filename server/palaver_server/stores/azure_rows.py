"""The rows of a conversation in Azure Table Storage, which are those of the Azure Functions extension.

A chat begun there goes on here and the other way round, so names, types and the order of rows are fixed:

| RowKey | what it is | columns that are ours |
| --- | --- | --- |
| `state` | the assistant | `CreationId`, `LeaseHolder`, `LeaseUntil` |
| `msg-0001` … `msg-FFFF` | a message | `RequestId`, `IsError`; `ContentParts`, `Content_01`…, `ToolCallsParts`… |
| `done-<hash of request_id>` | a turn that is stored | all of them |

The extension passes over columns and rows that it does not know, and its merges keep them. A row of ours must not begin
with `msg-`, and it must sort before that, so that reading the newest messages never meets it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

from typing_extensions import Self

from palaver_server.errors import StoreCorrupt
from palaver_server.models import Assistant, FinishReason, Message, Role, SkillCall, Usage
from palaver_server.stores.store import MAX_MESSAGES, FinishedTurn, FoundTurn

Row = dict[str, Any]

STATE = "state"
FIRST_MESSAGE = "msg-0001"
PAST_MESSAGES = "msg-G"
"""Sorts behind all messages and before the state."""

MAX_PROPERTY_UNITS = 32_768
"""UTF-16 code units of a text column."""

MAX_INT32 = 2**31 - 1
"""The extension's reader takes no wider integers."""

NEVER = datetime(1970, 1, 1, tzinfo=timezone.utc)
CREATION_ID = "CreationId"
LEASE_HOLDER = "LeaseHolder"
LEASE_UNTIL = "LeaseUntil"
REQUEST_ID = "RequestId"
IS_ERROR = "IsError"

ROLES = {Role.SYSTEM: "System", Role.USER: "User", Role.ASSISTANT: "Assistant", Role.TOOL: "Tool"}
ROLES_BY_NAME = {name.lower(): role for role, name in ROLES.items()}


@dataclass(frozen=True, slots=True)
class Version:
    """What a turn must know of the conversation that it is added to, so that committing it reads nothing."""

    etag: str
    holder: str
    """Who has the lease of the assistant; empty: nobody who would know of this version."""
    create_time: datetime
    update_time: datetime
    total_messages: int

    @classmethod
    def of(cls, assistant: Assistant, etag: str | None, holder: str = "") -> Self:
        """Names the state that an assistant has now."""
        return cls(etag or "", holder, assistant.create_time, assistant.update_time, assistant.total_messages)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what `str` has written."""
        etag, holder, create_time, update_time, total_messages = json.loads(text)
        return cls(
            etag, holder, datetime.fromisoformat(create_time), datetime.fromisoformat(update_time), total_messages
        )

    def __str__(self) -> str:
        return json.dumps([self.etag, self.holder, str(self.create_time), str(self.update_time), self.total_messages])


def message_key(index: int) -> str:
    """Names the row of a message; an index that no message can have is past all of them."""
    return f"msg-{index:04X}" if index <= MAX_MESSAGES else PAST_MESSAGES


def turn_key(request_id: str) -> str:
    """Names the row of a turn. A request id may hold what a key must not."""
    return f"done-{hashlib.sha256(request_id.encode()).hexdigest()}"


def state_row(assistant: Assistant, creation_id: str) -> Row:
    """Makes the row of a new assistant."""
    return state_update(assistant) | {"Exists": True, "CreatedAt": assistant.create_time, CREATION_ID: creation_id}


def state_update(assistant: Assistant) -> Row:
    """Makes what tells of the messages in the row of an assistant."""
    return {
        "PartitionKey": assistant.id,
        "RowKey": STATE,
        "LastUpdatedAt": assistant.update_time,
        "TotalMessages": assistant.total_messages,
        "TotalTokens": min(assistant.total_tokens, MAX_INT32),
    }


def turn_end(assistant: Assistant) -> Row:
    """Makes what the commit of a turn changes in the row of an assistant: its lease ends, too."""
    return state_update(assistant) | {LEASE_HOLDER: ""}


def lease_update(partition: str, holder: str, until: datetime) -> Row:
    """Makes what taking, renewing and ending a lease change in the row of an assistant."""
    return {"PartitionKey": partition, "RowKey": STATE, LEASE_HOLDER: holder, LEASE_UNTIL: until}


def message_row(partition: str, message: Message) -> Row:
    """Makes the row of a message."""
    parts = _split(message.content)
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
    if len(parts) > 1:
        row |= _columns("Content", parts, first=1)
    return row


def turn_row(partition: str, turn: FinishedTurn, first_index: int, last_index: int) -> Row:
    """Makes the row that says that a turn is stored, and how it ended."""
    return {
        "PartitionKey": partition,
        "RowKey": turn_key(turn.request_id),
        REQUEST_ID: turn.request_id,
        "RequestHash": turn.request_hash,
        "FirstIndex": first_index,
        "LastIndex": last_index,
        "FinishReason": turn.finish_reason.value,
        "Usage": json.dumps(asdict(turn.usage)),
        "ChatModel": turn.chat_model,
    }


def assistant(row: Mapping[str, Any]) -> Assistant:
    """Reads the row of an assistant."""
    try:
        return Assistant(
            id=row["PartitionKey"],
            create_time=_utc(row["CreatedAt"]),
            update_time=_utc(row["LastUpdatedAt"]),
            total_messages=int(row["TotalMessages"]),
            total_tokens=int(row.get("TotalTokens") or 0),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreCorrupt("the state of the assistant can't be read") from error


def lease(row: Mapping[str, Any]) -> tuple[str, datetime]:
    """Reads who has the lease of an assistant, and until when."""
    until = row.get(LEASE_UNTIL)
    return row.get(LEASE_HOLDER) or "", _utc(until) if isinstance(until, datetime) else NEVER


def creation(row: Mapping[str, Any]) -> tuple[object, object]:
    """Tells an assistant that was started over from what it was before."""
    return row.get(CREATION_ID), row.get("CreatedAt")


def message(row: Mapping[str, Any]) -> Message:
    """Reads the row of a message."""
    try:
        parts = [row.get("Content") or ""]
        parts += (row[f"Content_{number:02}"] for number in range(1, row.get("ContentParts") or 1))
        return Message(
            role=ROLES_BY_NAME[row["Role"].lower()],
            content="".join(parts),
            skill_calls=_skill_calls(row),
            skill_call_id=_text(row.get("Name") or ""),
            is_error=bool(row.get(IS_ERROR)),
            index=index(row),
            create_time=_utc(row["CreatedAt"]),
            request_id=row.get(REQUEST_ID) or "",
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreCorrupt("a stored message can't be read") from error


def turn_indexes(row: Mapping[str, Any]) -> tuple[int, int]:
    """Reads the indexes of the first and the last message of a turn."""
    try:
        return int(row["FirstIndex"]), int(row["LastIndex"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreCorrupt("a stored turn can't be read") from error


def found_turn(row: Mapping[str, Any], assistant: Assistant, messages: tuple[Message, ...]) -> FoundTurn:
    """Reads the row of a turn."""
    try:
        return FoundTurn(
            assistant=assistant,
            messages=messages,
            request_hash=row["RequestHash"],
            finish_reason=FinishReason(row["FinishReason"]),
            usage=Usage(**json.loads(row["Usage"])),
            chat_model=row["ChatModel"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreCorrupt("a stored turn can't be read") from error


def index(row: Mapping[str, Any]) -> int:
    """Reads the index of a message from its key."""
    number = int(row["RowKey"].removeprefix("msg-"), 16)
    if not 1 <= number <= MAX_MESSAGES:
        raise ValueError(number)
    return number


def _split(text: str) -> list[str]:
    """Cuts a text into parts that fit into a column each, none of them within a character."""
    parts = []
    encoded = text.encode("utf-16-le")
    start, limit = 0, 2 * MAX_PROPERTY_UNITS
    while len(encoded) - start > limit:
        end = start + limit
        if 0xD8 <= encoded[end - 1] <= 0xDB:  # the first half of a character outside the basic plane
            end -= 2
        parts.append(encoded[start:end].decode("utf-16-le"))
        start = end
    parts.append(encoded[start:].decode("utf-16-le"))
    return parts


def _columns(name: str, parts: list[str], first: int) -> Row:
    """Makes the columns of a text in parts, from the part with this number, and the column with their number."""
    columns: Row = {f"{name}_{number:02}": part for number, part in enumerate(parts) if number >= first}
    return columns | {f"{name}Parts": len(parts)}


def _tool_calls(calls: tuple[SkillCall, ...]) -> Row:
    if not calls:
        return {"ToolCalls": ""}
    parts = _split(_tool_calls_json(calls))
    if len(parts) == 1:
        return {"ToolCalls": parts[0]}
    # The extension reads its column as JSON, so it must be whole, if only without the arguments.
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
    parts = [row[f"ToolCalls_{number:02}"] for number in range(row.get("ToolCallsParts") or 0)]
    text = "".join(parts) or row.get("ToolCalls")
    calls = json.loads(text) if text else []
    names = ("id", "functionName", "functionArguments")
    return tuple(SkillCall(*(_text(call[name]) for name in names)) for call in calls)


def _text(value: object) -> str:
    """Returns a value that must be a text; what is none would fail only where it is sent."""
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _utc(time: datetime) -> datetime:
    # The SDK's own kind of datetime holds the service's text as well.
    return datetime.combine(time.date(), time.time(), time.tzinfo or timezone.utc).astimezone(timezone.utc)
