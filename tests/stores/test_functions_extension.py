"""A chat begun by the Azure Functions OpenAI extension goes on here, and one begun here goes on there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.data.tables.aio import TableClient, TableServiceClient

from palaver.v1 import assistant_pb2
from palaver.v1 import assistant_service_pb2 as pb
from tests.support import functions_extension as extension
from tests.support.azurite import Account, Azurite
from tests.support.endpoint import Endpoint, Stream
from tests.support.functions_extension import Call, Line
from tests.support.palaver_server import Served, palaver_server
from tests.support.statuses import failure_of

CALL = Call("call_1", "AddTodo", '{"task": "call dad"}')
BEGUN = (
    Line("System", "Be brief."),
    Line("User", "Remind me to call my dad"),
    Line("Assistant", "Let me note that.", (CALL,)),
    Line("Tool", "Done: 1 to-do", answers="call_1"),
    Line("Assistant", "I will remind you."),
)
PROMPT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Remind me to call my dad"},
    {
        "role": "assistant",
        "content": "Let me note that.",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "AddTodo", "arguments": '{"task": "call dad"}'},
            }
        ],
    },
    {"role": "tool", "content": "Done: 1 to-do", "tool_call_id": "call_1"},
    {"role": "assistant", "content": "I will remind you."},
]


@pytest.fixture
def account(azurite: Azurite) -> Account:
    return azurite.account()


@pytest.fixture
async def table(account: Account) -> AsyncIterator[TableClient]:
    """The table that both use."""
    async with TableServiceClient.from_connection_string(account.connection_string) as service:
        yield await service.create_table("ChatState")


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with Endpoint() as running:
        yield running


@pytest.fixture
async def served(tmp_path: Path, account: Account, endpoint: Endpoint) -> AsyncIterator[Served]:
    async with palaver_server(tmp_path, endpoint.url, {"AzureWebJobsStorage": account.connection_string}) as running:
        yield running


async def post(served: Served, user_message: str, name: str = "a", **fields: Any) -> pb.TurnCompleted:
    request = pb.PostUserQueryRequest(id=name, user_message=user_message, **fields)
    # Less than the lease of a dead server lasts, which no turn here may have to wait for.
    return (await served.stub.PostUserQueryUnary(request, timeout=8)).completed


async def messages(served: Served, name: str = "a", **fields: Any) -> list[assistant_pb2.Message]:
    return list((await served.stub.ListMessages(pb.ListMessagesRequest(id=name, **fields))).messages)


class TestBegunThere:
    async def test_its_messages_are_shown(self, served: Served, table: TableClient):
        time = datetime(2026, 1, 2, 3, 4, 5, 123456, timezone.utc)
        await extension.create(table, "a", BEGUN, time)
        state = (await served.stub.GetAssistant(pb.GetAssistantRequest(id="a"))).assistant
        assert (state.total_messages, state.total_tokens) == (5, 77)
        assert state.create_time.ToDatetime(timezone.utc) == time
        system, user, calling, tool, last = await messages(served)
        assert [message.index for message in (system, user, calling, tool, last)] == [1, 2, 3, 4, 5]
        assert (system.role, system.content) == (assistant_pb2.ROLE_SYSTEM, "Be brief.")
        assert (user.role, user.content) == (assistant_pb2.ROLE_USER, "Remind me to call my dad")
        assert (calling.role, calling.content) == (assistant_pb2.ROLE_ASSISTANT, "Let me note that.")
        [call] = calling.skill_calls
        assert (call.id, call.name, call.arguments_json) == ("call_1", "AddTodo", '{"task": "call dad"}')
        assert (tool.role, tool.content, tool.skill_call_id) == (assistant_pb2.ROLE_TOOL, "Done: 1 to-do", "call_1")
        assert last.create_time.ToDatetime(timezone.utc) == time + timedelta(milliseconds=5)
        assert last.request_id == ""

    @pytest.mark.parametrize("change_role", [str, str.lower, str.upper])
    async def test_it_goes_on_with_the_right_prompt(
        self, served: Served, endpoint: Endpoint, table: TableClient, change_role: Any
    ):
        lines = [Line(change_role(line.role), line.content, line.calls, line.answers) for line in BEGUN]
        await extension.create(table, "a", lines)
        completed = await post(served, "What do I have to do?")
        assert [message.index for message in completed.messages] == [6, 7]
        [call] = endpoint.calls
        assert call.body["messages"] == [*PROMPT, {"role": "user", "content": "What do I have to do?"}]
        assert (await extension.read(table, "a"))[5:] == [
            Line("User", "What do I have to do?"),
            Line("Assistant", "Hello, world"),
        ]

    async def test_it_may_begin_without_instructions(self, served: Served, endpoint: Endpoint, table: TableClient):
        await extension.create(table, "a", BEGUN[1:])
        await post(served, "And now?")
        assert endpoint.calls[0].body["messages"] == [*PROMPT[1:], {"role": "user", "content": "And now?"}]

    async def test_both_take_turns(self, served: Served, endpoint: Endpoint, table: TableClient):
        await extension.create(table, "a", BEGUN)
        await post(served, "First here")
        await extension.append(table, "a", [Line("User", "Then there"), Line("Assistant", "Indeed")])
        await post(served, "And here again")
        assert [message.content for message in await messages(served)][5:] == [
            "First here", "Hello, world", "Then there", "Indeed", "And here again", "Hello, world",
        ]  # fmt: skip
        assert [message["content"] for message in endpoint.calls[1].body["messages"]][5:] == [
            "First here", "Hello, world", "Then there", "Indeed", "And here again",
        ]  # fmt: skip
        times = [message.create_time.ToNanoseconds() for message in await messages(served)]
        assert times == sorted(set(times))
        assert len(await extension.read(table, "a")) == 11
        assert (await messages(served))[5].request_id  # their merge has left our columns alone

    async def test_what_it_writes_during_a_turn_ends_the_turn(
        self, served: Served, endpoint: Endpoint, table: TableClient
    ):
        await extension.create(table, "a", BEGUN)
        gate = asyncio.Event()
        endpoint.script(Stream("Too ", gate, "late"))
        turn = asyncio.ensure_future(failure_of(post(served, "Mine")))
        await endpoint.call()
        await extension.append(table, "a", [Line("User", "Theirs"), Line("Assistant", "Indeed")])
        gate.set()
        failure = await turn
        assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, "CONCURRENT_WRITE")
        assert [line.content for line in await extension.read(table, "a")][5:] == ["Theirs", "Indeed"]
        await post(served, "Mine again")
        assert [line.content for line in await extension.read(table, "a")][7:] == ["Mine again", "Hello, world"]

    async def test_who_polls_by_time_sees_each_of_its_messages_once(self, served: Served, table: TableClient):
        await extension.create(table, "a", BEGUN)
        seen: list[int] = []
        request: dict[str, Any] = {}
        while page := await messages(served, page_size=1, **request):
            seen += [message.index for message in page]
            request["after_time"] = page[-1].create_time
        assert seen == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("count", [1, 250])
    async def test_it_can_be_started_over_and_deleted(self, served: Served, table: TableClient, count: int):
        await extension.create(table, "a", [Line("User", "old")] * count)
        await extension.create(table, "b", BEGUN)
        await served.stub.CreateAssistant(
            pb.CreateAssistantRequest(id="a", instructions="New", if_exists=pb.IF_EXISTS_RESET)
        )
        assert await extension.read(table, "a") == [Line("System", "New")]
        await served.stub.DeleteAssistant(pb.DeleteAssistantRequest(id="a"))
        assert await extension.read(table, "b") == list(BEGUN)
        assert {row["PartitionKey"] async for row in table.list_entities()} == {"b"}

    async def test_messages_without_a_state_are_no_assistant_and_part_of_none(self, served: Served, table: TableClient):
        await extension.create(table, "a", BEGUN)
        await table.delete_entity("a", "state")
        failure = await failure_of(messages(served))
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "ASSISTANT_NOT_FOUND")
        await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a", instructions="New"))
        assert await extension.read(table, "a") == [Line("System", "New")]

    @pytest.mark.parametrize(
        "change", [{"Role": "Narrator"}, {"Role": 1}, {"ToolCalls": "no JSON"}, {"ToolCalls": '[{"id": 1}]'}]
    )
    async def test_a_damaged_row_is_said_and_harms_no_other_assistant(
        self, served: Served, endpoint: Endpoint, table: TableClient, change: dict[str, Any]
    ):
        for name in ("a", "b"):
            await extension.create(table, name, BEGUN)
        await table.update_entity({"PartitionKey": "a", "RowKey": "msg-0003", **change})
        for call in (messages(served), post(served, "Hello")):
            failure = await failure_of(call)
            assert (failure.code, failure.reason) == (grpc.StatusCode.DATA_LOSS, "STORE_CORRUPT")
        assert endpoint.calls == []
        await post(served, "Hello", "b")


class TestBegunHere:
    @pytest.mark.parametrize("instructions", ["Be brief.", ""])
    async def test_its_reader_reads_all(self, served: Served, account: Account, instructions: str):
        await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a", instructions=instructions))
        for number in range(3):
            await post(served, f"Question {number}")
        async with TableServiceClient.from_connection_string(account.connection_string) as service:
            lines = await extension.read(service.get_table_client("ChatState"), "a")
        begin = [Line("System", instructions)] if instructions else []
        assert lines == begin + [
            line
            for number in range(3)
            for line in (Line("User", f"Question {number}"), Line("Assistant", "Hello, world"))
        ]

    @pytest.mark.parametrize("shift", ["", "x"])
    @pytest.mark.parametrize("character", ["a", "é", "語", "😀", "'%\\"])
    async def test_its_reader_reads_the_start_of_a_long_message(
        self, served: Served, endpoint: Endpoint, account: Account, character: str, shift: str
    ):
        long = (shift + character * 400_000)[:400_000]
        long = long if character != "😀" else long[:200_000]
        await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a", instructions=""))
        endpoint.script(Stream(long[::-1][:100_000]))
        await post(served, long)
        async with TableServiceClient.from_connection_string(account.connection_string) as service:
            question, _ = await extension.read(service.get_table_client("ChatState"), "a")
        assert question.content
        assert long.startswith(question.content)
        assert len(question.content.encode("utf-16-le")) in (65_536, 65_534)
        assert [message.content for message in await messages(served)] == [long, long[::-1][:100_000]]
        await post(served, "Did you get that?")
        assert endpoint.calls[1].body["messages"][0]["content"] == long

    async def test_it_goes_on_there_and_comes_back(self, served: Served, endpoint: Endpoint, account: Account):
        await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a", instructions="Be brief."))
        await post(served, "Hello")
        async with TableServiceClient.from_connection_string(account.connection_string) as service:
            await extension.append(service.get_table_client("ChatState"), "a", BEGUN[1:])
        await post(served, "And now?")
        prompt = endpoint.calls[1].body["messages"]
        assert prompt[3:7] == PROMPT[1:]
        assert prompt[7] == {"role": "user", "content": "And now?"}

    async def test_reading_makes_no_table(self, served: Served, account: Account):
        for call in (
            messages(served, collection_name="Unused"),
            post(served, "Hello", collection_name="Unused"),
            served.stub.DeleteAssistant(pb.DeleteAssistantRequest(id="a", collection_name="Unused")),
        ):
            assert (await failure_of(call)).reason == "ASSISTANT_NOT_FOUND"
        async with TableServiceClient.from_connection_string(account.connection_string) as service:
            with pytest.raises(ResourceNotFoundError):
                await service.get_table_client("Unused").get_entity("a", "state")


async def test_each_collection_and_each_connection_has_its_own_conversations(
    tmp_path: Path, azurite: Azurite, endpoint: Endpoint
):
    accounts = {"AzureWebJobsStorage": azurite.account(), "Second": azurite.account()}
    variables = {name: account.connection_string for name, account in accounts.items()}
    variables["Third"] = f"sqlite:{tmp_path / 'third.db'}"
    places = [(name, collection) for name in variables for collection in ("ChatState", "Other")]
    async with palaver_server(tmp_path, endpoint.url, variables, storage_connections=tuple(variables)) as served:
        for name, collection in places:
            fields = {"chat_storage_connection_setting": name, "collection_name": collection}
            await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a", instructions="", **fields))
            await post(served, f"To {name}, {collection}", **fields)
        for name, collection in places:
            found = await messages(served, chat_storage_connection_setting=name, collection_name=collection)
            assert found[0].content == f"To {name}, {collection}"
            assert len(found) == 2
    for name, account in accounts.items():
        async with TableServiceClient.from_connection_string(account.connection_string) as service:
            for collection in ("ChatState", "Other"):
                lines = await extension.read(service.get_table_client(collection), "a")
                assert lines[0] == Line("User", f"To {name}, {collection}")
