"""The Azure Functions OpenAI extension as far as its rows go: how it writes them, and what its reader accepts.

Written from the facts about its table layout. `append` writes as the extension does at the end of a turn, without
asking whether the state is as it was read; `read` is as strict as its reader, and a little stricter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from azure.data.tables import EdmType, EntityProperty, TableEntity
from azure.data.tables.aio import TableClient

MAX_UNITS = 32_768
ROLES = ("system", "user", "assistant", "tool")


class ReaderCrashed(Exception):
    """The extension's reader can't read a row: which one, and why."""


@dataclass(frozen=True)
class Call:
    """A tool call of the model."""

    id: str
    function: str
    arguments: str


@dataclass(frozen=True)
class Line:
    """A message of a conversation."""

    role: str
    content: str | None
    calls: tuple[Call, ...] = ()
    answers: str | None = None
    """For a tool message: the id of the call."""


def dotnet_time(time: datetime) -> EntityProperty:
    """A time with the seven fractional digits of .NET."""
    return EntityProperty(time.strftime("%Y-%m-%dT%H:%M:%S.%f7Z"), EdmType.DATETIME)


def int32(value: int) -> EntityProperty:
    return EntityProperty(value, EdmType.INT32)


def string(value: str | None) -> EntityProperty:
    return EntityProperty(value, EdmType.STRING)


async def create(table: TableClient, name: str, lines: Sequence[Line] = (), time: datetime | None = None) -> None:
    """Starts a conversation, with some messages if there are any."""
    time = time or datetime.now(timezone.utc)
    await table.upsert_entity(
        {
            "PartitionKey": name,
            "RowKey": "state",
            "Exists": EntityProperty(True, EdmType.BOOLEAN),
            "CreatedAt": dotnet_time(time),
            "LastUpdatedAt": dotnet_time(time),
            "TotalMessages": int32(0),
            "TotalTokens": int32(0),
        }
    )
    if lines:
        await append(table, name, lines, time=time)


async def append(table: TableClient, name: str, lines: Sequence[Line], time: datetime | None = None) -> None:
    """Ends a turn: new messages, and a merge of the state, in one transaction and without an ETag."""
    time = time or datetime.now(timezone.utc)
    state = await table.get_entity(name, "state")
    count = state["TotalMessages"]
    rows = [
        (
            "upsert",
            {
                "PartitionKey": name,
                "RowKey": f"msg-{count + number:04X}",
                "Content": string(line.content),
                "Role": string(line.role),
                "Name": string(line.answers),
                "CreatedAt": dotnet_time(time + timedelta(milliseconds=number)),
                "ToolCalls": string(tool_calls(line.calls)),
            },
        )
        for number, line in enumerate(lines, start=1)
    ]
    update = {
        "PartitionKey": name,
        "RowKey": "state",
        "LastUpdatedAt": dotnet_time(time + timedelta(milliseconds=len(lines))),
        "TotalMessages": int32(count + len(lines)),
        "TotalTokens": int32(77),
    }
    for start in range(0, len(rows), 99):
        await table.submit_transaction(rows[start : start + 99])
    await table.submit_transaction([("upsert", update, {"mode": "merge"})])


def tool_calls(calls: Sequence[Call]) -> str:
    if not calls:
        return ""
    return json.dumps(
        [
            {"id": call.id, "functionName": call.function, "functionArguments": call.arguments, "kind": "Function"}
            for call in calls
        ]
    )


async def read(table: TableClient, name: str) -> list[Line]:
    """Reads a conversation row by row and type by type; raises `ReaderCrashed`."""
    found = table.query_entities("PartitionKey eq @name", parameters={"name": name})
    rows = {row["RowKey"]: row async for row in found}
    if "state" not in rows:
        raise ReaderCrashed("state: it is missing")
    state = rows["state"]
    expect(state, "Exists", bool)
    for column in ("TotalMessages", "TotalTokens"):
        expect(state, column, int)  # an Int64 would be an EntityProperty
    for column in ("CreatedAt", "LastUpdatedAt"):
        expect(state, column, datetime)
    if state["Exists"] is not True:
        raise ReaderCrashed("state: Exists is not true")
    keys = sorted(key for key in rows if key.startswith("msg-"))
    if keys != [f"msg-{number:04X}" for number in range(1, state["TotalMessages"] + 1)]:
        raise ReaderCrashed(f"{keys[-3:]}: not the {state['TotalMessages']} messages that the state tells of")
    lines: list[Line] = []
    last: datetime | None = None
    for key in keys:
        row = rows[key]
        lines.append(read_line(row, [call.id for line in lines for call in line.calls]))
        if last is not None and row["CreatedAt"] < last:
            raise ReaderCrashed(f"{key}: CreatedAt is before that of the message before")
        last = row["CreatedAt"]
    if last is not None and state["LastUpdatedAt"] < last:
        raise ReaderCrashed("state: LastUpdatedAt is before the last message")
    return lines


def read_line(row: TableEntity, calls_before: list[str]) -> Line:
    key = row["RowKey"]
    expect(row, "Role", str)
    expect(row, "CreatedAt", datetime)
    if not re.fullmatch("msg-[0-9A-F]{4}", key):
        raise ReaderCrashed(f"{key}: not the key of a message")
    role = row["Role"].lower()
    if role not in ROLES:
        raise ReaderCrashed(f"{key}: no role {role}")
    content = row.get("Content")
    if content is not None:
        expect(row, "Content", str)
        if len(content.encode("utf-16-le")) > 2 * MAX_UNITS:
            raise ReaderCrashed(f"{key}: Content is too long")
    calls = read_calls(key, row.get("ToolCalls") or "")
    if calls and role != "assistant":
        raise ReaderCrashed(f"{key}: ToolCalls of a {role} message")
    answers = row.get("Name")
    if role == "tool" and answers not in calls_before:
        raise ReaderCrashed(f"{key}: Name is not a tool call before it")
    return Line(row["Role"], content, calls, answers)


def read_calls(key: str, text: str) -> tuple[Call, ...]:
    try:
        calls = [
            (call["id"], call["functionName"], call["functionArguments"], call["kind"])
            for call in (json.loads(text) if text else [])
        ]
        for *texts, kind in calls:
            if kind != "Function" or not all(isinstance(part, str) for part in texts):
                raise ReaderCrashed(f"{key}: a tool call that is none")
            json.loads(texts[2])
    except (KeyError, TypeError, ValueError) as error:
        raise ReaderCrashed(f"{key}: ToolCalls is not JSON of tool calls") from error
    return tuple(Call(id_, function, arguments) for id_, function, arguments, _ in calls)


def expect(row: TableEntity, column: str, type_: type[Any]) -> None:
    value = row.get(column)
    # A bool is an int to Python, but not to the service.
    if not isinstance(value, type_) or isinstance(value, bool) is not (type_ is bool):
        raise ReaderCrashed(f"{row['RowKey']}: {column} is {value!r}, not of the type {type_.__name__}")
    if isinstance(value, datetime) and value.utcoffset() != timedelta(0):
        raise ReaderCrashed(f"{row['RowKey']}: {column} is not in UTC")
