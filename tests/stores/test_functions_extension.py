"""Conversations of the Azure Functions OpenAI extension continue here, and ours continue there, row by row."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.data.tables import EdmType, EntityProperty, TableTransactionError, UpdateMode
from azure.data.tables.aio import TableClient, TableServiceClient
from google.protobuf.timestamp_pb2 import Timestamp

from palaver.v1 import admin_service_pb2 as admin_pb
from palaver.v1 import assistant_pb2, skill_host_service_pb2
from palaver.v1 import assistant_service_pb2 as pb
from palaver_server.domain import strict_json
from palaver_server.llm import history
from tests.support.azurite import Account, Azurite
from tests.support.calls import create_assistant, messages_of, query
from tests.support.endpoint import Endpoint, Stream, skill_calls
from tests.support.functions_extension import (
    ChatMessage,
    RawRow,
    Unreadable,
    continue_conversation,
    raw_rows,
    read_conversation,
    write_conversation,
    write_older_conversation,
)
from tests.support.palaver_server import Served, palaver_server
from tests.support.skill_host import SkillHost
from tests.support.statuses import failure_of

TIME = datetime(2026, 1, 2, 3, 4, 5, 123456, timezone.utc)


def chat_message(role: str, content: str, **fields: Any) -> ChatMessage:
    return {"role": role, "content": content, **fields}


def tool_call(id_: str, arguments: str = '{"task": "call dad"}') -> ChatMessage:
    return {"id": id_, "type": "function", "function": {"name": "AddTodo", "arguments": arguments}}


CHAT = [
    chat_message("system", "Be brief."),
    chat_message("user", "Remind me to call my dad"),
    chat_message("assistant", "", tool_calls=[tool_call("call_1")]),
    chat_message("tool", "Done: 1 to-do", tool_call_id="call_1"),
    chat_message("assistant", "I will remind you."),
]
CHATS = {
    "of all roles": CHAT,
    "without instructions": CHAT[1:],
    "with text beside the tool call": [*CHAT[:2], CHAT[2] | {"content": "Let me note that."}, *CHAT[3:]],
    "with several tool calls": [
        *CHAT[:2],
        chat_message(
            "assistant", "", tool_calls=[tool_call("1"), tool_call("2", "[]"), tool_call("3", '"\\ud83d\\ude00 \\"é"')]
        ),
        *[chat_message("tool", f"result '{id_}'", tool_call_id=id_) for id_ in "132"],
        *CHAT[4:],
    ],
    "of instructions alone": CHAT[:1],
    "of nothing": [],
}
REPLY = chat_message("assistant", "Hello, world")
"""The reply of the endpoint unless a test scripts another one."""

OLDER_CHAT = [
    chat_message("system", "Be brief."),
    chat_message("user", "Remind me to call my dad"),
    chat_message("function", "Done: 1 to-do", name="AddTodo"),
    chat_message("function", "1 to-do: call dad", name="GetTodos"),
    chat_message("assistant", "I will remind you."),
]
"""As stored before version 0.19 of the extension."""

THEIRS = [chat_message("user", "Over there"), chat_message("assistant", "Indeed, over there")]


@pytest.fixture
async def table(account: Account) -> AsyncIterator[TableClient]:
    """The table that the extension and the server share."""
    async with TableServiceClient.from_connection_string(account.connection_string) as service:
        yield await service.create_table("ChatState")


async def post(served: Served, user_message: str, name: str = "a", **fields: Any) -> pb.TurnCompleted:
    # Less than the duration of a lease: no turn here has to wait for one to expire.
    return (await served.stub.PostUserQueryUnary(query(user_message, id=name, **fields), timeout=8)).completed


async def read(table: TableClient, name: str = "a") -> list[ChatMessage]:
    return read_conversation(await raw_rows(table, name))


def prompt(endpoint: Endpoint, *stored_ids: str) -> list[ChatMessage]:
    """Returns the messages of the latest model call, as they are stored.

    That is without the forms and the placeholders that strict providers insist on; `tests/llm/test_history.py` has
    these.
    """
    stored = {
        history.call_id(f"{stored}{repeated}"): stored
        for stored in ("call_1", "1", "2", "3", *stored_ids)
        for repeated in ("", "#1", "#2")
    }
    messages: list[ChatMessage] = json.loads(json.dumps(endpoint.calls[-1].body["messages"]))
    for message in messages:
        message["content"] = message["content"] or ""
        for function in (call["function"] for call in message.get("tool_calls", ())):
            function["arguments"] = json.loads(function["arguments"]).get("arguments", function["arguments"])
        for holder, name in [(message, "tool_call_id"), *((call, "id") for call in message.get("tool_calls", ()))]:
            if name in holder:
                holder[name] = stored.get(holder[name], holder[name])
    return [message for message in messages if message["content"] not in (history.EARLIER, history.GO_ON)]


def time_of(message: assistant_pb2.Message) -> datetime:
    return message.create_time.ToDatetime(timezone.utc)


class TestBegunThere:
    async def test_a_conversation_of_the_extension_is_listed_as_it_is(self, served: Served, table: TableClient):
        await write_conversation(table, "a", CHATS["with text beside the tool call"], time=TIME)
        assistant = (await served.stub.GetAssistant(pb.GetAssistantRequest(id="a"))).assistant
        assert (assistant.id, assistant.total_messages, assistant.total_tokens) == ("a", 5, 77)
        # The seventh digit of their times, 100 ns, is truncated and not rounded.
        assert assistant.create_time.ToDatetime(timezone.utc) == TIME
        assert assistant.update_time.ToDatetime(timezone.utc) == TIME + timedelta(milliseconds=4)
        messages = await messages_of(served)
        assert [(message.index, message.role, message.content) for message in messages] == [
            (1, assistant_pb2.ROLE_SYSTEM, "Be brief."),
            (2, assistant_pb2.ROLE_USER, "Remind me to call my dad"),
            (3, assistant_pb2.ROLE_ASSISTANT, "Let me note that."),
            (4, assistant_pb2.ROLE_TOOL, "Done: 1 to-do"),
            (5, assistant_pb2.ROLE_ASSISTANT, "I will remind you."),
        ]
        call = assistant_pb2.SkillCall(id="call_1", name="AddTodo", arguments_json='{"task": "call dad"}')
        assert [list(message.skill_calls) for message in messages] == [[], [], [call], [], []]
        assert [message.skill_call_id for message in messages] == ["", "", "", "call_1", ""]
        assert [time_of(message) - TIME for message in messages] == [timedelta(milliseconds=n) for n in range(5)]
        assert {message.request_id for message in messages} == {""}

    async def test_its_assistants_are_listed_beside_those_of_this_server(self, served: Served, table: TableClient):
        await write_conversation(table, "theirs", CHAT)
        await write_older_conversation(table, "older", OLDER_CHAT)
        await create_assistant(served, "ours")
        response = await served.admin.ListAssistants(admin_pb.ListAssistantsRequest())
        ids = ("older", "ours", "theirs")
        states = [(await served.stub.GetAssistant(pb.GetAssistantRequest(id=name))).assistant for name in ids]
        assert list(response.assistants) == states
        assert not response.damaged_ids

    @pytest.mark.parametrize("role", [str.capitalize, str.lower, str.upper])
    @pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS.keys())
    async def test_a_conversation_of_the_extension_continues_here(
        self,
        served: Served,
        endpoint: Endpoint,
        table: TableClient,
        chat: list[ChatMessage],
        role: Callable[[str], str],
    ):
        await write_conversation(table, "a", chat, time=TIME, role=role)
        completed = await post(served, "And now?")
        assert prompt(endpoint) == [*chat, chat_message("user", "And now?")]
        assert await read(table) == [*chat, chat_message("user", "And now?"), REPLY]
        assert [message.index for message in completed.messages] == [len(chat) + 1, len(chat) + 2]
        assert completed.assistant.create_time.ToDatetime(timezone.utc) == TIME
        assert completed.assistant.total_messages == len(chat) + 2

    @pytest.mark.parametrize(
        ("max_messages", "kept"), [(0, []), (1, CHAT[4:]), (2, CHAT[4:]), (3, CHAT[2:]), (4, CHAT[1:])]
    )
    async def test_the_window_never_begins_with_the_result_of_a_tool(
        self, served: Served, endpoint: Endpoint, table: TableClient, max_messages: int, kept: list[ChatMessage]
    ):
        await write_conversation(table, "a", CHAT)
        await post(served, "And now?", history=pb.History(max_messages=max_messages))
        assert prompt(endpoint) == [CHAT[0], *kept, chat_message("user", "And now?")]

    async def test_both_write_in_turn(self, served: Served, endpoint: Endpoint, table: TableClient):
        expected = list(CHAT)
        # Their clock is an hour ahead of ours, and the times must still grow.
        await write_conversation(table, "a", expected, time=datetime.now(timezone.utc) + timedelta(hours=1))
        for number in range(3):
            question = chat_message("user", f"Question {number}")
            endpoint.script(Stream(f"Answer {number}"))
            await post(served, question["content"])
            assert prompt(endpoint) == [*expected, question]
            expected += [question, chat_message("assistant", f"Answer {number}")]
            assert await read(table) == expected
            later = (await served.stub.GetAssistant(pb.GetAssistantRequest(id="a"))).assistant.update_time
            await continue_conversation(table, "a", CHAT[1:], time=later.ToDatetime(timezone.utc))
            expected += CHAT[1:]
            assert await read(table) == expected
        messages = await messages_of(served)
        assert [message.index for message in messages] == list(range(1, len(expected) + 1))
        assert [message.content for message in messages] == [message["content"] for message in expected]

    async def test_our_columns_and_rows_survive_turns_of_the_extension(
        self, served: Served, endpoint: Endpoint, table: TableClient
    ):
        await write_conversation(table, "a", CHAT)
        long = "x" * 32_767 + "😀" * 32_768
        first = await post(served, long, request_id="mine")
        before = {row["RowKey"]: columns(row) for row in await raw_rows(table, "a")}
        await continue_conversation(table, "a", THEIRS)
        after = {row["RowKey"]: columns(row) for row in await raw_rows(table, "a")}
        theirs = {"Exists", "LastUpdatedAt", "TotalMessages", "TotalTokens"}
        for key, row in before.items():
            kept = {
                name: value for name, value in row.items() if key != "state" or name.partition("@")[0] not in theirs
            }
            assert after[key].items() >= kept.items()
        assert len([key for key in after if key.startswith("done-")]) == 1
        # The caller of our turn can still post again and gets all of it, without a model call.
        again = await post(served, long, request_id="mine")
        assert list(again.messages) == list(first.messages)
        assert again.assistant.total_messages == 9
        assert len(endpoint.calls) == 1
        assert [message.content for message in await messages_of(served)][5:] == [
            long, "Hello, world", "Over there", "Indeed, over there",
        ]  # fmt: skip
        await post(served, "And here")
        assert prompt(endpoint) == [*CHAT, chat_message("user", long), REPLY, *THEIRS, chat_message("user", "And here")]

    @pytest.mark.parametrize("ticks", [(0,), (9,), (9, 0, 5)])
    async def test_polling_by_time_returns_every_message_once(
        self, served: Served, table: TableClient, ticks: tuple[int, ...]
    ):
        await write_conversation(table, "a", CHAT, ticks=ticks)
        seen: list[assistant_pb2.Message] = []

        async def poll() -> None:
            """Reads the new messages one by one, each by the time of the one before."""
            while new := await messages_of(
                served, page_size=1, **({"after_time": seen[-1].create_time} if seen else {})
            ):
                seen.extend(new)

        await poll()
        assert [message.index for message in seen] == [1, 2, 3, 4, 5]
        await continue_conversation(table, "a", THEIRS, time=time_of(seen[-1]) + timedelta(milliseconds=1), ticks=ticks)
        await poll()
        await post(served, "And here")
        await poll()
        assert [message.index for message in seen] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
        assistant = (await served.stub.GetAssistant(pb.GetAssistantRequest(id="a"))).assistant
        assert await messages_of(served, after_time=assistant.update_time) == []

    @pytest.mark.parametrize("count", [1, 98, 99, 100, 250])
    async def test_a_conversation_of_the_extension_is_reset_and_deleted_whole(
        self, served: Served, table: TableClient, count: int
    ):
        await write_conversation(table, "b", CHAT)
        for reset in (True, False):
            await write_conversation(table, "a", [chat_message("user", "old")] * count)
            await post(served, "also old")
            if reset:
                await create_assistant(served, instructions="New.", if_exists=pb.IF_EXISTS_RESET)
                assert await read(table) == [chat_message("system", "New.")]
                assert {row["RowKey"] for row in await raw_rows(table, "a")} == {"msg-0001", "state"}
        await served.stub.DeleteAssistant(pb.DeleteAssistantRequest(id="a"))
        assert await raw_rows(table, "a") == []
        assert await read(table, "b") == CHAT

    @pytest.mark.parametrize("instructions", ["New.", ""])
    async def test_messages_without_a_state_row_are_ignored(
        self, served: Served, endpoint: Endpoint, table: TableClient, instructions: str
    ):
        await write_conversation(table, "a", CHAT * 30)
        await table.delete_entity("a", "state")
        for call in (
            served.stub.GetAssistant(pb.GetAssistantRequest(id="a")),
            messages_of(served),
            post(served, "Hello"),
        ):
            failure = await failure_of(call)
            assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "ASSISTANT_NOT_FOUND")
        assert endpoint.calls == []
        await create_assistant(served, instructions=instructions)
        begin = [chat_message("system", instructions)] if instructions else []
        assert await read(table) == begin
        await post(served, "Hello")
        assert prompt(endpoint) == [*begin, chat_message("user", "Hello")]
        assert len(await messages_of(served)) == len(begin) + 2


async def test_half_a_surrogate_pair_is_replaced_and_the_chat_goes_on(
    served: Served, endpoint: Endpoint, table: TableClient
):
    half = "A \ud83d"  # .NET can store what no other program can read as UTF-8
    calling = chat_message("assistant", half, tool_calls=[tool_call("1", json.dumps({"task": half}))])
    await write_conversation(table, "a", [CHAT[0], chat_message("user", half), calling])
    assert [message.content for message in await messages_of(served)] == ["Be brief.", "A \ufffd", "A \ufffd"]
    await post(served, "And now?")
    sent = endpoint.calls[-1].body["messages"]
    assert [message["content"] for message in sent if message["role"] in ("user", "assistant")][:2] == ["A \ufffd"] * 2
    strict_json.load_object(sent[2]["tool_calls"][0]["function"]["arguments"])


class TestBegunThereBeforeVersion19:
    @pytest.mark.parametrize("role", [str.capitalize, str.lower, str.upper])
    async def test_results_of_functions_are_listed_as_tool_messages_without_a_call(
        self, served: Served, table: TableClient, role: Callable[[str], str]
    ):
        await write_older_conversation(table, "a", OLDER_CHAT, role=role)
        messages = await messages_of(served)
        assert [(message.role, message.content) for message in messages] == [
            (assistant_pb2.ROLE_SYSTEM, "Be brief."),
            (assistant_pb2.ROLE_USER, "Remind me to call my dad"),
            (assistant_pb2.ROLE_TOOL, "Done: 1 to-do"),
            (assistant_pb2.ROLE_TOOL, "1 to-do: call dad"),
            (assistant_pb2.ROLE_ASSISTANT, "I will remind you."),
        ]
        assert {message.skill_call_id for message in messages} == {""}

    @pytest.mark.parametrize("length", range(1, len(OLDER_CHAT) + 1))
    @pytest.mark.parametrize("max_messages", [0, 1, 2, 100])
    async def test_it_goes_on_here_wherever_it_ends(
        self, served: Served, endpoint: Endpoint, table: TableClient, length: int, max_messages: int
    ):
        chat = OLDER_CHAT[:length]
        await write_older_conversation(table, "a", chat)
        before = {row["RowKey"]: columns(row) for row in await raw_rows(table, "a") if row["RowKey"] != "state"}
        for number in range(2):
            completed = await post(served, f"Question {number}", history=pb.History(max_messages=max_messages))
            assert [message.content for message in completed.messages] == [f"Question {number}", REPLY["content"]]
        # The results belong to no call that a smaller window would have cut off.
        texts = [message["content"] for message in [*chat[1:], chat_message("user", "Question 0"), REPLY]]
        sent = json.dumps([message["content"] for message in prompt(endpoint)])
        assert [text for text in texts if text in sent] == texts[max(len(texts) - max_messages, 0) :]
        assert {message["role"] for message in prompt(endpoint)} <= {"system", "user", "assistant"}
        assert len(await messages_of(served)) == length + 4
        after = {row["RowKey"]: columns(row) for row in await raw_rows(table, "a")}
        assert before.items() <= after.items()

    async def test_a_result_without_a_call_is_not_taken_for_the_answer_of_one(
        self, served: Served, endpoint: Endpoint, table: TableClient
    ):
        await write_older_conversation(table, "a", OLDER_CHAT)
        await continue_conversation(table, "a", [chat_message("assistant", "", tool_calls=[tool_call("1")])])
        await post(served, "And now?")
        assert prompt(endpoint)[-3:] == [
            chat_message("assistant", "I will remind you.", tool_calls=[tool_call("1")]),
            chat_message("tool", "The caller did not answer this call.", tool_call_id="1"),
            chat_message("user", "And now?"),
        ]


class TestUnknownRoles:
    @pytest.mark.parametrize("role", ["narrator", "developer", ""])
    @pytest.mark.parametrize("number", range(len(CHAT)))
    async def test_a_message_of_an_unknown_role_is_listed_and_the_chat_goes_on(
        self, served: Served, endpoint: Endpoint, table: TableClient, role: str, number: int
    ):
        unknown = chat_message(role, "Meanwhile, at home", name="somebody")
        await write_conversation(table, "a", [*CHAT[:number], unknown, *CHAT[number + 1 :]])
        messages = await messages_of(served)
        assert [message.role for message in messages].count(assistant_pb2.ROLE_UNSPECIFIED) == 1
        shown = messages[number]
        assert (shown.role, shown.content) == (assistant_pb2.ROLE_UNSPECIFIED, "Meanwhile, at home")
        assert shown.skill_call_id == ""
        await post(served, "And now?")
        [sent] = [message for message in prompt(endpoint) if "Meanwhile, at home" in message["content"]]
        assert sent["role"] == "user"


def columns(row: RawRow) -> RawRow:
    """Returns the columns that the service does not change with each write."""
    return {name: value for name, value in row.items() if name not in ("odata.etag", "Timestamp")}


BROKEN_MESSAGES: dict[str, RawRow] = {
    "no Role": {"Role": None},
    "a Role that is no text": {"Role": 1},
    "a Content that is no text": {"Content": 1},
    "no CreatedAt": {"CreatedAt": None},
    "a CreatedAt that is a text": {"CreatedAt": "yesterday"},
    "a Name that is no text": {"Name": 1},
    "ToolCalls that are not JSON": {"ToolCalls": "no JSON"},
    "ToolCalls that are cut off": {"ToolCalls": '[{"id": "1", "functionName": "f"'},
    "ToolCalls that are no array": {"ToolCalls": '"a text"'},
    "ToolCalls without names": {"ToolCalls": '[{"id": "1"}]'},
    "arguments that are no text": {
        "ToolCalls": '[{"id": "1", "functionName": "f", "functionArguments": {"a": 1}, "kind": "Function"}]'
    },
    "an id of a tool call that is no text": {
        "ToolCalls": '[{"id": 1, "functionName": "f", "functionArguments": "{}", "kind": "Function"}]'
    },
    "tool calls that are nested too deeply": {"ToolCalls": "[" * 20_000},
    "a RequestId that is a number": {"RequestId": 7},
}
BROKEN_STATES: dict[str, RawRow] = {
    "no CreatedAt": {"CreatedAt": None},
    "a CreatedAt that is a text": {"CreatedAt": "yesterday"},
    "no TotalMessages": {"TotalMessages": None},
    "a TotalMessages that is a text": {"TotalMessages": "many"},
    "a TotalMessages below zero": {"TotalMessages": -1},
    "a TotalMessages that is too high": {"TotalMessages": 65_536},
    "a TotalTokens that is too high": {"TotalTokens": EntityProperty(2**31, EdmType.INT64)},
}
BROKEN_LEASES: dict[str, RawRow] = {
    "a LeaseHolder that is a number": {"LeaseHolder": 7},
    "a LeaseHolder that is a boolean": {"LeaseHolder": True},
}


class TestBroken:
    async def break_row(self, table: TableClient, key: str, change: RawRow) -> None:
        row = dict(await table.get_entity("a", key)) | change
        row = {name: value for name, value in row.items() if value is not None}
        await table.update_entity(row, mode=UpdateMode.REPLACE)

    async def expect_data_loss(self, served: Served, endpoint: Endpoint, *calls: Any) -> None:
        failures = await asyncio.gather(*map(failure_of, calls))
        assert {(failure.code, failure.reason) for failure in failures} == {
            (grpc.StatusCode.DATA_LOSS, "STORE_CORRUPT")
        }
        assert endpoint.calls == []
        # Other assistants are not affected, and this one can be reset.
        await post(served, "Hello", "b")
        await create_assistant(served, instructions=None, if_exists=pb.IF_EXISTS_RESET)
        await post(served, "Hello")

    @pytest.mark.parametrize("change", BROKEN_MESSAGES.values(), ids=BROKEN_MESSAGES.keys())
    async def test_a_broken_message_is_reported(
        self, served: Served, endpoint: Endpoint, table: TableClient, change: RawRow
    ):
        for name in ("a", "b"):
            await write_conversation(table, name, CHAT)
        await self.break_row(table, "msg-0003", change)
        await self.expect_data_loss(served, endpoint, messages_of(served), post(served, "Hello"))

    async def test_a_message_whose_key_is_no_index_is_reported(
        self, served: Served, endpoint: Endpoint, table: TableClient
    ):
        for name in ("a", "b"):
            await write_conversation(table, name, CHAT)
        await table.create_entity({**await table.get_entity("a", "msg-0003"), "RowKey": "msg-00ZZ"})
        assert len(await messages_of(served)) == 5
        since_long_ago = messages_of(served, after_time=Timestamp(seconds=1))
        await self.expect_data_loss(served, endpoint, since_long_ago)

    @pytest.mark.parametrize("change", BROKEN_STATES.values(), ids=BROKEN_STATES.keys())
    async def test_a_broken_state_is_reported(
        self, served: Served, endpoint: Endpoint, table: TableClient, change: RawRow
    ):
        for name in ("a", "b"):
            await write_conversation(table, name, CHAT)
        await self.break_row(table, "state", change)
        listed = await served.admin.ListAssistants(admin_pb.ListAssistantsRequest())
        assert ([assistant.id for assistant in listed.assistants], listed.damaged_ids) == (["b"], ["a"])
        await self.expect_data_loss(
            served,
            endpoint,
            served.stub.GetAssistant(pb.GetAssistantRequest(id="a")),
            messages_of(served),
            post(served, "Hello"),
        )

    @pytest.mark.parametrize("change", BROKEN_LEASES.values(), ids=BROKEN_LEASES.keys())
    async def test_a_broken_lease_is_reported_by_turns_and_hides_no_messages(
        self, served: Served, endpoint: Endpoint, table: TableClient, change: RawRow
    ):
        for name in ("a", "b"):
            await write_conversation(table, name, CHAT)
        await self.break_row(table, "state", change)
        assert len(await messages_of(served)) == 5
        await self.expect_data_loss(served, endpoint, post(served, "Hello"))

    async def test_a_row_with_an_unknown_prefix_is_ignored(
        self, served: Served, endpoint: Endpoint, table: TableClient
    ):
        await write_conversation(table, "a", CHAT)
        for key in ("aaa", "note-0001", "zzz"):
            await table.create_entity({"PartitionKey": "a", "RowKey": key, "Content": "not a message"})
        assert len(await messages_of(served)) == 5
        await post(served, "And now?")
        assert prompt(endpoint) == [*CHAT, chat_message("user", "And now?")]
        assert await read(table) == [*CHAT, chat_message("user", "And now?"), REPLY]


class TestAtOnce:
    @pytest.mark.parametrize("started_over", [False, True])
    async def test_a_write_of_the_extension_during_a_turn_fails_the_turn(
        self, served: Served, endpoint: Endpoint, table: TableClient, started_over: bool
    ):
        await write_conversation(table, "a", CHAT)
        gate = asyncio.Event()
        endpoint.script(Stream("Too ", gate, "late"))
        turn = asyncio.ensure_future(failure_of(post(served, "Mine", request_id="mine")))
        await endpoint.call()
        # A reset conversation may be as long as before.
        expected = [chat_message("system", "Anew."), *CHAT[1:]] if started_over else [*CHAT, *THEIRS]
        await (write_conversation(table, "a", expected) if started_over else continue_conversation(table, "a", THEIRS))
        gate.set()
        failure = await turn
        assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, "CONCURRENT_WRITE")
        assert await read(table) == expected
        assert {row["RowKey"][:4] for row in await raw_rows(table, "a")} == {"msg-", "stat"}
        # The next turn does not wait, and it reads what the extension wrote.
        await asyncio.wait_for(post(served, "Mine", request_id="mine"), 5)
        assert prompt(endpoint) == [*expected, chat_message("user", "Mine")]
        assert await read(table) == [*expected, chat_message("user", "Mine"), REPLY]

    async def test_the_extension_can_not_overwrite_a_turn_that_it_has_not_read(
        self, served: Served, table: TableClient
    ):
        await write_conversation(table, "a", CHAT)
        state = await table.get_entity("a", "state")
        await post(served, "Mine")
        with pytest.raises(TableTransactionError, match="EntityAlreadyExists"):
            await continue_conversation(table, "a", THEIRS, state=state)
        await post(served, "And mine")
        assert await read(table) == [
            *CHAT,
            chat_message("user", "Mine"),
            REPLY,
            chat_message("user", "And mine"),
            REPLY,
        ]


class TestBegunHere:
    @pytest.mark.parametrize("fields", [{}, {"instructions": "Be brief."}, {"instructions": " "}])
    async def test_the_extension_continues_a_conversation_of_ours(
        self, served: Served, endpoint: Endpoint, account: Account, fields: dict[str, str]
    ):
        await create_assistant(served, instructions=fields.get("instructions"))
        instructions = fields.get("instructions", "You are a helpful assistant.")
        expected = [chat_message("system", instructions)] if instructions.strip() else []
        async with TableServiceClient.from_connection_string(account.connection_string) as service:
            table = service.get_table_client("ChatState")
            assert await read(table) == expected
            for number in range(20):
                endpoint.script(Stream(f"Answer {number}"))
                await post(served, f"Question {number}")
                expected += [chat_message("user", f"Question {number}"), chat_message("assistant", f"Answer {number}")]
            assert await read(table) == expected
            await continue_conversation(table, "a", CHAT[1:])
            await post(served, "And here")
            expected += [*CHAT[1:], chat_message("user", "And here")]
            assert prompt(endpoint) == expected
            assert await read(table) == [*expected, REPLY]

    @pytest.mark.parametrize(
        ("long", "start"),
        [
            ("x" * 32_768, "x" * 32_768),
            ("x" * 32_769, "x" * 32_768),
            ("x" * 32_766 + "😀" + "y" * 9, "x" * 32_766 + "😀"),
            ("x" * 32_767 + "😀" + "y" * 9, "x" * 32_767),
            ("😀" * 200_000, "😀" * 16_384),
            ("x" + "😀" * 199_999, "x" + "😀" * 16_383),
            ("語" * 400_000, "語" * 32_768),
            ('\\"\n\x00' * 100_000, '\\"\n\x00' * 8_192),
        ],
        ids=lambda text: f"{text[:1]!a}…{text[-1:]!a} of {len(text)}",
    )
    async def test_the_extension_reads_the_start_of_a_long_message(
        self, served: Served, endpoint: Endpoint, account: Account, long: str, start: str
    ):
        await create_assistant(served, instructions="")
        endpoint.script(Stream(long[:40_000]))
        await post(served, long)
        async with TableServiceClient.from_connection_string(account.connection_string) as service:
            table = service.get_table_client("ChatState")
            assert await read(table) == [chat_message("user", start), chat_message("assistant", start)]
            await continue_conversation(table, "a", THEIRS)
        await post(served, "And here")
        assert prompt(endpoint) == [
            chat_message("user", long), chat_message("assistant", long[:40_000]), *THEIRS,
            chat_message("user", "And here"),
        ]  # fmt: skip


class TestSkills:
    TODO = '{"task": "call dad"}'

    async def test_the_extension_reads_a_turn_with_skills(
        self, tmp_path: Path, account: Account, endpoint: Endpoint, table: TableClient
    ):
        variables = {"AzureWebJobsStorage": account.connection_string}
        async with (
            SkillHost(AddTodo=lambda _: skill_host_service_pb2.InvokeSkillResponse(content="Done: 1 to-do")) as host,
            palaver_server(tmp_path, endpoint.url, variables, skill_hosts=(host.target,)) as served,
        ):
            await write_conversation(table, "a", CHAT)
            broken = ("AddTodo", '{"task": "call')
            endpoint.script(skill_calls(("AddTodo", self.TODO), broken, text="Let me see. "), Stream("Noted"))
            await post(served, "Again")
            *before, calling, done, failed, reply = await read(table)
            assert before == [*CHAT, chat_message("user", "Again")]
            [good, bad] = calling["tool_calls"]
            assert calling == chat_message(
                "assistant", "Let me see. ", tool_calls=[tool_call(good["id"], self.TODO), tool_call(bad["id"], "{}")]
            )
            assert done == chat_message("tool", "Done: 1 to-do", tool_call_id=good["id"])
            assert failed["tool_call_id"] == bad["id"]
            assert failed["content"].startswith("The arguments are not the JSON text of an object")
            assert reply == chat_message("assistant", "Noted")
            await continue_conversation(table, "a", CHAT[1:])
            await post(served, "And here")
            assert prompt(endpoint, good["id"], bad["id"]) == [
                *before,
                calling,
                done,
                failed,
                reply,
                *CHAT[1:],
                chat_message("user", "And here"),
            ]

    async def test_calls_that_the_extension_left_open_are_closed(
        self, served: Served, endpoint: Endpoint, table: TableClient
    ):
        calls = [tool_call("1"), tool_call("2")]
        await write_conversation(
            table,
            "a",
            [*CHAT[:2], chat_message("assistant", "", tool_calls=calls), chat_message("tool", "x", tool_call_id="2")],
        )
        await post(served, "And now?")
        unanswered = chat_message("tool", "The caller did not answer this call.", tool_call_id="1")
        assert prompt(endpoint)[2:] == [
            chat_message("assistant", "", tool_calls=calls), chat_message("tool", "x", tool_call_id="2"), unanswered,
            chat_message("user", "And now?"),
        ]  # fmt: skip
        assert await read(table) == [*prompt(endpoint), REPLY]


async def test_reading_creates_no_table(served: Served, account: Account):
    for call in (
        messages_of(served, collection_name="Unused"),
        post(served, "Hello", collection_name="Unused"),
        served.stub.DeleteAssistant(pb.DeleteAssistantRequest(id="a", collection_name="Unused")),
    ):
        assert (await failure_of(call)).reason == "ASSISTANT_NOT_FOUND"
    await served.admin.ListAssistants(admin_pb.ListAssistantsRequest(collection_name="Unused"))
    async with TableServiceClient.from_connection_string(account.connection_string) as service:
        with pytest.raises(ResourceNotFoundError):
            await service.get_table_client("Unused").get_entity("a", "state")


async def test_each_collection_and_each_connection_has_its_own_conversations(
    tmp_path: Path, azurite: Azurite, endpoint: Endpoint
):
    accounts = {"AzureWebJobsStorage": azurite.account(), "Second": azurite.account()}
    variables = {name: account.connection_string for name, account in accounts.items()}
    places = [(name, collection) for name in accounts for collection in ("ChatState", "OtherChats")]
    async with palaver_server(tmp_path, endpoint.url, variables, storage_connections=tuple(variables)) as served:
        for name, collection in places:
            async with TableServiceClient.from_connection_string(variables[name]) as service:
                table = await service.create_table(collection)
                await write_conversation(table, "a", [chat_message("system", f"{name} {collection}")])
        fields = [{"chat_storage_connection_setting": name, "collection_name": table} for name, table in places]
        await asyncio.gather(*[post(served, f"Hello, {place}", **place) for place in fields])
        prompts = [json.dumps(call.body["messages"]) for call in endpoint.calls]
        expected = [
            [chat_message("system", f"{name} {collection}"), chat_message("user", f"Hello, {place}")]
            for (name, collection), place in zip(places, fields, strict=True)
        ]
        assert sorted(prompts) == sorted(map(json.dumps, expected))
        # Changes of one conversation do not affect the others.
        await served.stub.DeleteAssistant(pb.DeleteAssistantRequest(id="a", **fields[0]))
        await create_assistant(served, instructions="Anew.", if_exists=pb.IF_EXISTS_RESET, **fields[1])
    for place, messages in zip(places, [None, [chat_message("system", "Anew.")], *expected[2:]], strict=True):
        async with TableServiceClient.from_connection_string(variables[place[0]]) as service:
            table = service.get_table_client(place[1])
            if messages is None:
                assert await raw_rows(table, "a") == []
            else:
                assert await read(table) == [*messages, *[REPLY] * (len(messages) - 1)]


UNREADABLE: list[tuple[str, RawRow, str]] = [
    ("state", {"Exists": False}, "Exists is true"),
    ("state", {"Exists": "true"}, "Exists is Edm.Boolean"),
    ("state", {"TotalMessages": "5", "TotalMessages@odata.type": "Edm.Int64"}, "TotalMessages is Edm.Int32"),
    ("state", {"TotalMessages": 4}, "TotalMessages is the index"),
    ("state", {"TotalTokens": None}, "there is a TotalTokens"),
    ("state", {"LastUpdatedAt": "2026-01-02T03:04:05.1274566Z"}, "LastUpdatedAt is not before"),
    ("msg-0001", {"Role": None}, "there is a Role"),
    ("msg-0001", {"Role": "Function"}, "Role is one of the four"),
    ("msg-0005", {"RowKey": "msg-0006"}, "the keys have no gap"),
    ("msg-0002", {"Content": None}, "there is a Content"),
    ("msg-0002", {"Content": "😀" * 16_384 + "x"}, "Content has 32,768 units"),
    ("msg-0002", {"CreatedAt@odata.type": "Edm.String"}, "CreatedAt is Edm.DateTime"),
    ("msg-0002", {"CreatedAt": "2026-01-02T03:04:05.1234566Z"}, "CreatedAt is not before"),
    ("msg-0002", {"CreatedAt": "2026-01-02T03:04:05+01:00"}, "CreatedAt is a time in UTC"),
    ("msg-0002", {"Name": "call_1"}, "Name is for tool messages"),
    ("msg-0002", {"ToolCalls": '[{"id": "1"}]'}, "ToolCalls are for the assistant"),
    ("msg-0003", {"ToolCalls": ""}, "Name is the id of a tool call before it"),
    ("msg-0003", {"ToolCalls": "[{"}, "ToolCalls is empty or JSON"),
    ("msg-0003", {"ToolCalls": "{}"}, "ToolCalls is an array"),
    ("msg-0003", {"ToolCalls": "[1]"}, "a tool call is an object"),
    ("msg-0003", {"ToolCalls": '[{"id": "1"}]'}, "a tool call has four texts"),
    ("msg-0004", {"Name": None}, "there is a Name"),
    ("msg-0004", {"Name": "call_2"}, "Name is the id of a tool call before it"),
]


@pytest.mark.parametrize(("key", "change", "rule"), UNREADABLE)
async def test_the_reader_of_these_tests_is_strict(table: TableClient, key: str, change: RawRow, rule: str):
    await write_conversation(table, "a", CHAT, time=TIME)
    rows = await raw_rows(table, "a")
    assert read_conversation(rows) == CHAT
    assert {row["CreatedAt"][-2:] for row in rows} == {"7Z"}
    with pytest.raises(Unreadable, match=rule):
        read_conversation([row | change if row["RowKey"] == key else row for row in rows])


@pytest.mark.parametrize("arguments", ["", "{", "{'a': 1}", "NaN"])
async def test_the_reader_of_these_tests_checks_the_arguments_of_tool_calls(table: TableClient, arguments: str):
    await write_conversation(table, "a", [chat_message("assistant", "", tool_calls=[tool_call("1", arguments)])])
    with pytest.raises(Unreadable, match="functionArguments is JSON in a text"):
        await read(table)
