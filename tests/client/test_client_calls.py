"""The methods of the clients: their requests and results."""

from __future__ import annotations

import itertools
import math
from datetime import datetime, timedelta, timezone

import pytest

import palaver
from palaver.v1 import assistant_pb2, assistant_service_pb2
from tests.support import replies

STORAGE = {"chat_storage_connection_setting": "Archive", "collection_name": "Chats"}


async def test_create_assistant(driver, server):
    server.script(
        "CreateAssistant",
        assistant_service_pb2.CreateAssistantResponse(assistant=replies.assistant("support"), created=True),
    )
    result = await driver.call(
        "create_assistant", "support", instructions="Be kind.", if_exists=palaver.IfExists.RESET, **STORAGE
    )
    assert result == palaver.CreateAssistantResult(
        palaver.Assistant("support", replies.TIME, replies.TIME, total_messages=3, total_tokens=42), created=True
    )
    assert result.assistant.create_time.tzinfo is timezone.utc
    assert server.requests("CreateAssistant") == [
        assistant_service_pb2.CreateAssistantRequest(
            id="support",
            instructions="Be kind.",
            if_exists=assistant_service_pb2.IF_EXISTS_RESET,
            chat_storage_connection_setting="Archive",
            collection_name="Chats",
        )
    ]


async def test_empty_instructions_differ_from_unset_ones(driver, server):
    server.script(
        "CreateAssistant", assistant_service_pb2.CreateAssistantResponse(assistant=replies.assistant(), created=False)
    )
    await driver.call("create_assistant", "support")
    await driver.call("create_assistant", "support", instructions="", if_exists="keep")
    unset, empty = server.requests("CreateAssistant")
    assert not unset.HasField("instructions")
    assert unset.if_exists == assistant_service_pb2.IF_EXISTS_FAIL
    assert empty.HasField("instructions")
    assert empty.if_exists == assistant_service_pb2.IF_EXISTS_KEEP


async def test_get_assistant(driver, server):
    server.script("GetAssistant", assistant_service_pb2.GetAssistantResponse(assistant=replies.assistant("support")))
    assert (await driver.call("get_assistant", "support", **STORAGE)).id == "support"
    assert server.requests("GetAssistant") == [assistant_service_pb2.GetAssistantRequest(id="support", **STORAGE)]


async def test_delete_assistant(driver, server):
    server.script("DeleteAssistant", assistant_service_pb2.DeleteAssistantResponse())
    assert await driver.call("delete_assistant", "support", **STORAGE) is None
    assert server.requests("DeleteAssistant") == [assistant_service_pb2.DeleteAssistantRequest(id="support", **STORAGE)]


async def test_cancel_turn(driver, server):
    server.script("CancelTurn", assistant_service_pb2.CancelTurnResponse())
    assert await driver.call("cancel_turn", "support", "r1", **STORAGE) is None
    assert server.requests("CancelTurn") == [
        assistant_service_pb2.CancelTurnRequest(id="support", request_id="r1", **STORAGE)
    ]


async def test_list_messages(driver, server):
    server.script(
        "ListMessages",
        assistant_service_pb2.ListMessagesResponse(
            messages=[
                replies.message(
                    4,
                    assistant_pb2.ROLE_ASSISTANT,
                    "",
                    skill_calls=[assistant_pb2.SkillCall(id="c1", name="clock", arguments_json="{}")],
                    request_id="r1",
                ),
                replies.message(5, assistant_pb2.ROLE_TOOL, "noon", skill_call_id="c1"),
            ]
        ),
    )
    after = datetime(2026, 1, 2, 4, 4, 5, 678901, tzinfo=timezone(timedelta(hours=1)))
    messages = await driver.collect(
        "list_messages", "support", after_time=after, order="newest_first", page_size=7, **STORAGE
    )
    assert messages == [
        palaver.Message(
            index=4,
            role=palaver.Role.ASSISTANT,
            content="",
            create_time=replies.TIME,
            skill_calls=(palaver.SkillCall("c1", "clock", "{}"),),
            request_id="r1",
        ),
        palaver.Message(5, palaver.Role.TOOL, "noon", replies.TIME, skill_call_id="c1"),
    ]
    assert server.requests("ListMessages") == [
        assistant_service_pb2.ListMessagesRequest(
            id="support",
            after_time=replies.timestamp(),  # the same moment, in UTC
            order=assistant_service_pb2.ORDER_NEWEST_FIRST,
            page_size=7,
            **STORAGE,
        )
    ]


def _pages(*sizes):
    indices = itertools.count(1)
    for number, size in enumerate(sizes, start=1):
        yield assistant_service_pb2.ListMessagesResponse(
            messages=[replies.message(next(indices)) for _ in range(size)],
            next_page_token=f"page {number + 1}" if number < len(sizes) else "",
        )


async def test_all_pages_are_fetched_even_if_one_is_empty(driver, server):
    server.script("ListMessages", *_pages(2, 0, 1))
    messages = await driver.collect("list_messages", "support", collection_name="Chats")
    assert [message.index for message in messages] == [1, 2, 3]
    requests = server.requests("ListMessages")
    assert [request.page_token for request in requests] == ["", "page 2", "page 3"]
    assert {(request.id, request.collection_name) for request in requests} == {("support", "Chats")}
    assert not requests[0].HasField("after_time")
    assert requests[0].page_size == 0


def test_pages_are_fetched_lazily(server):
    server.script("ListMessages", *_pages(2, 2))
    with palaver.Client(server.target) as client:
        messages = client.list_messages("support")
        assert server.calls == []
        assert [next(messages).index, next(messages).index] == [1, 2]
        assert len(server.calls) == 1
        assert next(messages).index == 3
        assert len(server.calls) == 2


async def test_pages_are_fetched_lazily_by_the_async_client(server):
    server.script("ListMessages", *_pages(2, 2))
    async with palaver.AsyncClient(server.target) as client:
        messages = client.list_messages("support")
        assert server.calls == []
        assert [(await messages.__anext__()).index, (await messages.__anext__()).index] == [1, 2]
        assert len(server.calls) == 1
        assert (await messages.__anext__()).index == 3
        assert len(server.calls) == 2
        await messages.aclose()


async def test_post_user_query_sends_only_the_given_options_and_a_request_id(driver, server):
    server.script("PostUserQuery", replies.turn("Hi"))
    reply, _ = await driver.post("support", "Hello!")
    assert server.requests("PostUserQuery") == [
        assistant_service_pb2.PostUserQueryRequest(id="support", user_message="Hello!", request_id=reply.request_id)
    ]


async def test_post_user_query_sends_zeros(driver, server):
    server.script("PostUserQuery", replies.turn("Hi"))
    await driver.post("support", "Hello!", temperature=0, top_p=0.0, max_tokens=0, max_history_messages=0)
    (request,) = server.requests("PostUserQuery")
    assert all(request.HasField(field) for field in ("temperature", "top_p", "max_tokens", "history"))
    assert request.history.HasField("max_messages")


ALL_OPTIONS = {
    "chat_model": "gpt-x",
    "temperature": 0.25,
    "top_p": 0.75,
    "max_tokens": 500,
    "is_reasoning_model": True,
    "ai_connection_name": "Main",
    "request_id": "r1",
    "on_disconnect": "continue",
    "max_history_messages": 12,
    "caller_skills": [palaver.Skill("clock", "Tells the time.", '{"type":"object"}')],
    "skill_names": ["weather"],
    "skill_results": [
        palaver.SkillResult("c1", content="noon"),
        palaver.SkillResult("c2", error="broken"),
        palaver.SkillResult("c3", content=""),
    ],
    **STORAGE,
}
FULL_REQUEST = assistant_service_pb2.PostUserQueryRequest(
    id="support",
    user_message="Hello!",
    chat_model="gpt-x",
    temperature=0.25,
    top_p=0.75,
    max_tokens=500,
    is_reasoning_model=True,
    ai_connection_name="Main",
    request_id="r1",
    on_disconnect=assistant_service_pb2.ON_DISCONNECT_CONTINUE,
    history=assistant_service_pb2.History(max_messages=12),
    caller_skills=[
        assistant_pb2.Skill(name="clock", description="Tells the time.", parameters_json_schema='{"type":"object"}')
    ],
    skill_names=["weather"],
    skill_results=[
        assistant_pb2.SkillResult(id="c1", content="noon"),
        assistant_pb2.SkillResult(id="c2", error="broken"),
        assistant_pb2.SkillResult(id="c3", content=""),
    ],
    **STORAGE,
)


def test_query_options_cover_the_whole_request():
    fields = {field.name for field in assistant_service_pb2.PostUserQueryRequest.DESCRIPTOR.fields}
    options = set(palaver.QueryOptions.__annotations__)
    assert fields - {"id", "user_message", "history"} == options - {"max_history_messages"}
    assert options == set(ALL_OPTIONS)


async def test_post_user_query_sends_every_option(driver, server):
    server.script("PostUserQuery", replies.turn("Hi"))
    await driver.post("support", "Hello!", **ALL_OPTIONS)
    assert server.requests("PostUserQuery") == [FULL_REQUEST]


async def test_post_user_query_unary(driver, server):
    server.script(
        "PostUserQueryUnary",
        assistant_service_pb2.PostUserQueryUnaryResponse(completed=replies.turn_completed("Hi there")),
    )
    completed = await driver.call("post_user_query_unary", "support", "Hello!", **ALL_OPTIONS)
    assert completed.text == "Hi there"
    assert completed.finish_reason is palaver.FinishReason.STOP
    assert server.requests("PostUserQueryUnary") == [FULL_REQUEST]


async def test_the_timeout_of_a_call_overrides_that_of_the_client(connect, server):
    server.script("GetAssistant", assistant_service_pb2.GetAssistantResponse(assistant=replies.assistant()))
    server.script("PostUserQuery", replies.turn("Hi"))
    driver = await connect(server.target, timeout=1000)
    await driver.call("get_assistant", "support")
    await driver.call("get_assistant", "support", timeout=5000)
    await driver.call("get_assistant", "support", timeout=math.inf)
    await driver.post("support", "Hello!", timeout=5000)
    by_client, by_call, without, streamed = (call.time_remaining for call in server.calls)
    # gRPC rounds deadlines up to a few digits.
    assert by_client < 1100 < by_call < 5500
    assert without is None or without > 1e6
    assert 1100 < streamed < 5500


async def test_long_text_in_many_scripts_arrives_unchanged(driver, server):
    text = "Grüße 😀 مرحبا\x00\r\n" + "x" * 5_000_000  # more than gRPC's default limit of 4 MiB
    server.script(
        "PostUserQueryUnary", assistant_service_pb2.PostUserQueryUnaryResponse(completed=replies.turn_completed(text))
    )
    assert (await driver.call("post_user_query_unary", "support", text[:100])).text == text
    assert server.requests("PostUserQueryUnary")[0].user_message == text[:100]


async def test_enum_values_of_a_newer_server_are_unknown(driver, server):
    completed = replies.turn_completed(finish_reason=77)
    completed.messages[-1].role = 77
    server.script("PostUserQueryUnary", assistant_service_pb2.PostUserQueryUnaryResponse(completed=completed))
    result = await driver.call("post_user_query_unary", "support", "Hello!")
    assert result.finish_reason is palaver.FinishReason.UNKNOWN
    assert result.messages[-1].role is palaver.Role.UNKNOWN


@pytest.mark.parametrize(
    ("method", "arguments", "options", "error"),
    [
        ("list_messages", ["a"], {"after_time": datetime(2026, 1, 1)}, ValueError),  # noqa: DTZ001 - it must have no time zone
        ("list_messages", ["a"], {"order": "random"}, ValueError),
        ("create_assistant", ["a"], {"if_exists": "replace"}, ValueError),
        ("create_assistant", [7], {}, TypeError),
        ("post_user_query", ["a", "\ud800"], {}, ValueError),
        ("post_user_query", ["a", "b"], {"max_tokens": 2**40}, ValueError),
        ("post_user_query", ["a", "b"], {"temprature": 1}, TypeError),
        ("post_user_query", ["a", "b"], {"on_disconnect": "stay"}, ValueError),
    ],
)
def test_invalid_arguments_are_rejected_before_the_call(server, method, arguments, options, error):
    with palaver.Client(server.target) as client, pytest.raises(error):
        getattr(client, method)(*arguments, **options)
    assert server.calls == []


def test_a_skill_result_must_not_have_both_content_and_error():
    with pytest.raises(ValueError, match="both a content and an error"):
        palaver.SkillResult("c1", content="noon", error="broken")


async def test_a_closed_client_raises_runtime_error(connect, server):
    driver = await connect(server.target)
    await driver.call("close") if not isinstance(driver.client, palaver.Client) else driver.client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        await driver.call("get_assistant", "support")


def test_an_async_client_can_be_created_without_an_event_loop():
    client = palaver.AsyncClient("127.0.0.1:1")
    with pytest.raises(RuntimeError, match="no running event loop"):
        _ = client.stub


async def test_the_stub_can_be_used_directly(server):
    server.script("GetAssistant", assistant_service_pb2.GetAssistantResponse(assistant=replies.assistant("support")))
    request = assistant_service_pb2.GetAssistantRequest(id="support")
    with palaver.Client(server.target) as client:
        assert client.stub.GetAssistant(request).assistant.id == "support"
    async with palaver.AsyncClient(server.target) as async_client:
        assert (await async_client.stub.GetAssistant(request)).assistant.id == "support"
