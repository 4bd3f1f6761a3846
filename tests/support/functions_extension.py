"""The Azure Functions OpenAI extension on the wire: the rows as it writes them, and a reader of the service's raw JSON.

Both follow the published table layout and share no code with the server. For the writer and for the reader, a
conversation is the list of messages that the model receives:

    await write_conversation(table, "a", [{"role": "user", "content": "Hello"}])
    await continue_conversation(table, "a", [{"role": "assistant", "content": "Hi"}])
    assert read_conversation(await raw_rows(table, "a"))[1]["content"] == "Hi"
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from azure.data.tables import EdmType, EntityProperty, UpdateMode
from azure.data.tables.aio import TableClient

ChatMessage = dict[str, Any]
RawRow = dict[str, Any]

MAX_UNITS = 32_768
"""The UTF-16 code units of a message that it reads."""

MAX_OPERATIONS = 100

STATE_COLUMNS = {
    "Exists": "Edm.Boolean",
    "CreatedAt": "Edm.DateTime",
    "LastUpdatedAt": "Edm.DateTime",
    "TotalMessages": "Edm.Int32",
    "TotalTokens": "Edm.Int32",
}
EDM_TYPES = {bool: "Edm.Boolean", int: "Edm.Int32", float: "Edm.Double", str: "Edm.String"}
"""The types of plain JSON values. Any other type is annotated in a property of its own."""


class Unreadable(Exception):
    """A row breaks a rule. The text has the key of the row, and the rule."""


async def write_conversation(
    table: TableClient,
    assistant_id: str,
    messages: Sequence[ChatMessage],
    *,
    time: datetime | None = None,
    ticks: Sequence[int] = (7,),
    role: Callable[[str], str] = str.capitalize,
) -> None:
    """Writes a conversation. If there is one already, it is replaced.

    The messages are a millisecond apart. The last of their seven fractional digits cycles through `ticks`.
    """
    time = time or datetime.now(timezone.utc)
    keys = [row["RowKey"] for row in await raw_rows(table, assistant_id)]
    await _submit(table, [("delete", {"PartitionKey": assistant_id, "RowKey": key}) for key in keys])
    rows = _message_rows(assistant_id, 0, messages, time, ticks, role)
    state = _state_row(assistant_id, _time(time, ticks[0]), rows, 0)
    await _submit(table, [("create", row) for row in (*rows, state)])


async def write_older_conversation(
    table: TableClient,
    assistant_id: str,
    messages: Sequence[ChatMessage],
    *,
    role: Callable[[str], str] = str.lower,
) -> None:
    """Writes a conversation as the extension did before version 0.19.

    What a function returned is a message with the role "function" and the function's `name`. There are no tool calls.
    """
    time = datetime.now(timezone.utc)
    rows = _message_rows(assistant_id, 0, messages, time, (7,), role)
    for row in rows:
        del row["ToolCalls"]
    await _submit(table, [("create", row) for row in (*rows, _state_row(assistant_id, _time(time, 7), rows, 0))])


async def continue_conversation(
    table: TableClient,
    assistant_id: str,
    messages: Sequence[ChatMessage],
    *,
    state: RawRow | None = None,
    time: datetime | None = None,
    ticks: Sequence[int] = (7,),
) -> None:
    """Commits a turn: adds its messages and merges the state, without checking that it is still as it was read."""
    time = time or datetime.now(timezone.utc)
    if state is None:
        state = await table.get_entity(assistant_id, "state")
    rows = _message_rows(assistant_id, state["TotalMessages"], messages, time, ticks, str.capitalize)
    update = _state_row(assistant_id, state["CreatedAt"], rows, state["TotalMessages"])
    await table.submit_transaction([*(("create", row) for row in rows), ("update", update, {"mode": UpdateMode.MERGE})])


def _message_rows(
    assistant_id: str,
    count: int,
    messages: Sequence[ChatMessage],
    time: datetime,
    ticks: Sequence[int],
    role: Callable[[str], str],
) -> list[RawRow]:
    return [
        {
            "PartitionKey": assistant_id,
            "RowKey": f"msg-{count + number + 1:04X}",
            "Content": EntityProperty(message["content"], EdmType.STRING),
            "Role": EntityProperty(role(message["role"]), EdmType.STRING),
            "Name": EntityProperty(message.get("tool_call_id", message.get("name")), EdmType.STRING),
            "CreatedAt": _time(time + timedelta(milliseconds=number), ticks[number % len(ticks)]),
            "ToolCalls": EntityProperty(_tool_calls(message.get("tool_calls", [])), EdmType.STRING),
        }
        for number, message in enumerate(messages)
    ]


def _state_row(assistant_id: str, created: object, rows: Sequence[RawRow], count: int) -> RawRow:
    return {
        "PartitionKey": assistant_id,
        "RowKey": "state",
        "Exists": EntityProperty(True, EdmType.BOOLEAN),
        "CreatedAt": created,
        "LastUpdatedAt": rows[-1]["CreatedAt"] if rows else created,
        "TotalMessages": EntityProperty(count + len(rows), EdmType.INT32),
        "TotalTokens": EntityProperty(77, EdmType.INT32),
    }


async def _submit(table: TableClient, operations: Sequence[tuple[str, RawRow]]) -> None:
    for start in range(0, len(operations), MAX_OPERATIONS):
        await table.submit_transaction(operations[start : start + MAX_OPERATIONS])


def _time(time: datetime, tick: int) -> EntityProperty:
    """Returns a time with the seven fractional digits of .NET, one more than Python has."""
    return EntityProperty(f"{time:%Y-%m-%dT%H:%M:%S.%f}{tick}Z", EdmType.DATETIME)


def _tool_calls(calls: Sequence[ChatMessage]) -> str:
    if not calls:
        return ""
    return json.dumps(
        [
            {
                "id": call["id"],
                "functionName": call["function"]["name"],
                "functionArguments": call["function"]["arguments"],
                "kind": "Function",
            }
            for call in calls
        ]
    )


async def raw_rows(table: TableClient, assistant_id: str) -> list[RawRow]:
    """Returns the rows of an assistant as the service sends them, including types."""
    bodies: list[bytes] = []
    found = table.query_entities(
        "PartitionKey eq @id",
        parameters={"id": assistant_id},
        headers={"Accept": "application/json;odata=fullmetadata"},
        raw_response_hook=lambda response: bodies.append(response.http_response.body()),
    )
    async for _ in found:
        pass
    return [row for body in bodies for row in json.loads(body)["value"]]


def read_conversation(raw_rows: Sequence[RawRow]) -> list[ChatMessage]:
    """Parses the rows of a conversation and checks every type; raises `Unreadable`.

    It is as strict as the reader of the extension, and stricter where that would accept a wrong value.
    """
    by_key = {row["RowKey"]: row for row in raw_rows}
    if "state" not in by_key:
        raise Unreadable("state: it is missing")
    state = by_key["state"]
    for column, type_ in STATE_COLUMNS.items():
        _expect(state, column, type_)
    _require(state, state["Exists"], "Exists is true")
    _require(state, state["TotalTokens"] >= 0, "TotalTokens is not negative")
    rows = [by_key[key] for key in sorted(by_key) if key.startswith("msg-")]
    messages: list[ChatMessage] = []
    times = [_ticks(state, "CreatedAt")]
    calls: set[str] = set()
    for number, row in enumerate(rows, start=1):
        message = _read_message(row, calls)
        calls |= {call["id"] for call in message.get("tool_calls", [])}
        messages.append(message)
        _require(row, row["RowKey"] == f"msg-{number:04X}", "the keys have no gap and are in upper-case hex")
        times.append(_ticks(row, "CreatedAt"))
        _require(row, times[-1] >= times[-2], "CreatedAt is not before the one of the row before")
    _require(state, state["TotalMessages"] == len(rows), "TotalMessages is the index of the newest message")
    _require(state, _ticks(state, "LastUpdatedAt") >= times[-1], "LastUpdatedAt is not before the newest message")
    return messages


def _read_message(row: RawRow, calls_before: set[str]) -> ChatMessage:
    for column in ("Role", "Content", "ToolCalls"):
        _expect(row, column, "Edm.String")
    _expect(row, "CreatedAt", "Edm.DateTime")
    role = row["Role"].lower()
    _require(row, role in ("system", "user", "assistant", "tool"), "Role is one of the four")
    _require(row, len(row["Content"].encode("utf-16-le")) <= 2 * MAX_UNITS, "Content has 32,768 units at most")
    message: ChatMessage = {"role": role, "content": row["Content"]}
    if role == "tool":
        _expect(row, "Name", "Edm.String")
        _require(row, row["Name"] in calls_before, "Name is the id of a tool call before it")
        message["tool_call_id"] = row["Name"]
    else:
        _require(row, row.get("Name") is None, "Name is for tool messages alone")
    if row["ToolCalls"]:
        _require(row, role == "assistant", "ToolCalls are for the assistant's messages alone")
        message["tool_calls"] = _read_tool_calls(row)
    return message


def _read_tool_calls(row: RawRow) -> list[ChatMessage]:
    found = _parsed(row, row["ToolCalls"], "ToolCalls is empty or JSON")
    _require(row, isinstance(found, list) and found, "ToolCalls is an array")
    calls = []
    for call in found:
        _require(row, isinstance(call, dict), "a tool call is an object")
        texts = [call.get(name) for name in ("id", "functionName", "functionArguments", "kind")]
        _require(row, all(isinstance(text, str) for text in texts), "a tool call has four texts")
        id_, name, arguments, kind = texts
        _require(row, kind == "Function", "the kind of a tool call is Function")
        _parsed(row, arguments, "functionArguments is JSON in a text")
        calls.append({"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}})
    return calls


def _expect(row: RawRow, column: str, type_: str) -> None:
    _require(row, row.get(column) is not None, f"there is a {column}")
    found = row.get(f"{column}@odata.type", EDM_TYPES.get(type(row[column])))
    _require(row, found == type_, f"{column} is {type_}, not {found}")


def _ticks(row: RawRow, column: str) -> tuple[str, str]:
    """Returns a comparable form of a time with up to seven fractional digits."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,7}))?Z", row[column])
    _require(row, found, f"{column} is a time in UTC")
    assert found is not None
    return found[1], (found[2] or "").ljust(7, "0")


def _parsed(row: RawRow, text: str, rule: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise Unreadable(f"{row['RowKey']}: {rule}") from error


def _no_constant(name: str) -> None:
    """Rejects NaN and the infinities, which only Python accepts in JSON."""
    raise ValueError(name)


def _require(row: RawRow, holds: object, rule: str) -> None:
    if not holds:
        raise Unreadable(f"{row['RowKey']}: {rule}")
