"""Creating, reading and deleting assistants, over a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from palaver.v1 import assistant_pb2
from palaver.v1 import assistant_service_pb2 as pb
from tests.support.calls import contents
from tests.support.palaver_server import Served, palaver_server
from tests.support.statuses import failure_of


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with palaver_server(tmp_path, offline_model=True) as running:
        yield running


async def test_a_new_assistant_has_only_its_instructions(served: Served):
    response = await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a", instructions="Be brief."))
    assert response.created
    assert (response.assistant.id, response.assistant.total_messages, response.assistant.total_tokens) == ("a", 1, 0)
    assert response.assistant.create_time == response.assistant.update_time
    [message] = (await served.stub.ListMessages(pb.ListMessagesRequest(id="a"))).messages
    assert (message.index, message.role, message.content) == (1, assistant_pb2.ROLE_SYSTEM, "Be brief.")
    assert message.create_time == response.assistant.create_time


@pytest.mark.parametrize(
    ("instructions", "stored"),
    [(None, ["You are a helpful assistant."]), ("", []), (" \n", []), ("Be brief.", ["Be brief."])],
)
async def test_unset_instructions_are_not_blank_instructions(
    served: Served, instructions: str | None, stored: list[str]
):
    await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a", instructions=instructions))
    assert await contents(served) == stored


@pytest.mark.parametrize("if_exists", [pb.IF_EXISTS_UNSPECIFIED, pb.IF_EXISTS_FAIL])
async def test_creating_an_assistant_again_fails_and_changes_nothing(served: Served, if_exists: pb.IfExists):
    await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a", instructions="first"))
    request = pb.CreateAssistantRequest(id="a", instructions="second", if_exists=if_exists)
    failure = await failure_of(served.stub.CreateAssistant(request))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ASSISTANT_EXISTS")
    assert failure.retry_delay is None
    assert await contents(served) == ["first"]


async def test_keep_returns_the_assistant_as_it_is(served: Served):
    first = await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a", instructions="first"))
    request = pb.CreateAssistantRequest(id="a", instructions="second", if_exists=pb.IF_EXISTS_KEEP)
    kept = await served.stub.CreateAssistant(request)
    assert not kept.created
    assert kept.assistant == first.assistant
    assert await contents(served) == ["first"]


async def test_reset_starts_over(served: Served):
    await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a", instructions="first"))
    await served.stub.PostUserQueryUnary(pb.PostUserQueryRequest(id="a", user_message="Hello", max_tokens=1))
    request = pb.CreateAssistantRequest(id="a", instructions="second", if_exists=pb.IF_EXISTS_RESET)
    reset = await served.stub.CreateAssistant(request)
    assert reset.created
    assert (reset.assistant.total_messages, reset.assistant.total_tokens) == (1, 0)
    assert await contents(served) == ["second"]


async def test_an_invalid_reset_deletes_nothing(served: Served):
    await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a", instructions="first"))
    request = pb.CreateAssistantRequest(id="a", instructions="x" * 450_001, if_exists=pb.IF_EXISTS_RESET)
    assert (await failure_of(served.stub.CreateAssistant(request))).violations.keys() == {"instructions"}
    assert await contents(served) == ["first"]


async def test_an_unknown_assistant_is_not_found(served: Served):
    await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a"))
    for call in (
        served.stub.GetAssistant(pb.GetAssistantRequest(id="b")),
        served.stub.ListMessages(pb.ListMessagesRequest(id="b")),
        served.stub.DeleteAssistant(pb.DeleteAssistantRequest(id="b")),
        served.stub.PostUserQueryUnary(pb.PostUserQueryRequest(id="b", user_message="Hello")),
        served.stub.GetAssistant(pb.GetAssistantRequest(id="a", collection_name="Elsewhere")),
    ):
        failure = await failure_of(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "ASSISTANT_NOT_FOUND")
        assert failure.domain == "palaver.v1"


async def test_a_deleted_assistant_is_gone_and_can_be_created_again(served: Served):
    await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a"))
    await served.stub.PostUserQueryUnary(pb.PostUserQueryRequest(id="a", user_message="Hello", max_tokens=1))
    assert await served.stub.DeleteAssistant(pb.DeleteAssistantRequest(id="a")) == pb.DeleteAssistantResponse()
    failure = await failure_of(served.stub.GetAssistant(pb.GetAssistantRequest(id="a")))
    assert failure.reason == "ASSISTANT_NOT_FOUND"
    created = await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a"))
    assert created.assistant.total_messages == 1


async def test_collections_are_separate(served: Served):
    for collection in ("", "Archive"):
        request = pb.CreateAssistantRequest(id="a", instructions=collection or "default", collection_name=collection)
        await served.stub.CreateAssistant(request)
    assert await contents(served) == await contents(served, collection_name="ChatState") == ["default"]
    assert await contents(served, collection_name="Archive") == ["Archive"]
    await served.stub.DeleteAssistant(pb.DeleteAssistantRequest(id="a", collection_name="Archive"))
    assert await contents(served) == ["default"]


async def test_storage_connections_are_separate_and_only_configured_ones_can_be_used(tmp_path: Path):
    async with palaver_server(
        tmp_path / "default",
        environment={"Second": f"sqlite:{tmp_path / 'second.db'}", "Hidden": f"sqlite:{tmp_path / 'hidden.db'}"},
        storage_connections=("AzureWebJobsStorage", "Second"),
    ) as served:
        for connection in ("", "Second"):
            request = pb.CreateAssistantRequest(
                id="a", instructions=connection or "default", chat_storage_connection_setting=connection
            )
            await served.stub.CreateAssistant(request)
        assert await contents(served, chat_storage_connection_setting="Second") == ["Second"]
        assert await contents(served, chat_storage_connection_setting="AzureWebJobsStorage") == ["default"]
        for connection in ("Hidden", "PATH", "second"):
            request = pb.GetAssistantRequest(id="a", chat_storage_connection_setting=connection)
            failure = await failure_of(served.stub.GetAssistant(request))
            assert (failure.code, failure.reason) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "CONNECTION_NOT_CONFIGURED",
            )
    assert not (tmp_path / "hidden.db").exists()


async def test_messages_are_paged_in_both_orders(served: Served):
    await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a"))
    for number in range(3):
        query = pb.PostUserQueryRequest(id="a", user_message=f"message {number}", max_tokens=1)
        await served.stub.PostUserQueryUnary(query)
    for order, expected in (
        (pb.ORDER_UNSPECIFIED, [1, 2, 3, 4, 5, 6, 7]),
        (pb.ORDER_NEWEST_FIRST, [7, 6, 5, 4, 3, 2, 1]),
    ):
        request = pb.ListMessagesRequest(id="a", order=order, page_size=3)
        pages = []
        while True:
            response = await served.stub.ListMessages(request)
            pages.append([message.index for message in response.messages])
            if not response.next_page_token:
                break
            request.page_token = response.next_page_token
            request.page_size = 2
        assert [index for page in pages for index in page] == expected
        assert [len(page) for page in pages] == [3, 2, 2]


async def test_a_caller_that_polls_by_time_misses_nothing(served: Served):
    created = await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a"))
    after, seen = created.assistant.create_time, []
    for number in range(2):
        query = pb.PostUserQueryRequest(id="a", user_message=f"message {number}", max_tokens=1)
        await served.stub.PostUserQueryUnary(query)
        # One message at a time: the messages of a turn must have different times.
        while True:
            request = pb.ListMessagesRequest(id="a", after_time=after, page_size=1)
            page = (await served.stub.ListMessages(request)).messages
            if not page:
                break
            seen.append(page[0].index)
            after = page[0].create_time
    assert seen == [2, 3, 4, 5]


async def test_after_time_is_exact_to_the_nanosecond(served: Served):
    created = await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a"))
    request = pb.ListMessagesRequest(id="a", after_time=created.assistant.create_time)
    assert not (await served.stub.ListMessages(request)).messages
    before = created.assistant.create_time.ToDatetime() - timedelta(microseconds=1)
    request.after_time.FromDatetime(before)
    request.after_time.nanos += 999
    assert len((await served.stub.ListMessages(request)).messages) == 1


async def test_a_page_token_is_valid_only_for_its_own_listing(served: Served):
    await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a"))
    await served.stub.PostUserQueryUnary(pb.PostUserQueryRequest(id="a", user_message="Hello", max_tokens=1))
    page = await served.stub.ListMessages(pb.ListMessagesRequest(id="a", page_size=1))
    for request in (
        pb.ListMessagesRequest(id="b", page_token=page.next_page_token),
        pb.ListMessagesRequest(id="a", page_token=page.next_page_token, order=pb.ORDER_NEWEST_FIRST),
        pb.ListMessagesRequest(id="a", page_token="nonsense"),
        pb.ListMessagesRequest(id="a", page_token="é"),
        pb.ListMessagesRequest(id="a", page_token=page.next_page_token[:-4]),
    ):
        failure = await failure_of(served.stub.ListMessages(request))
        assert failure.violations.keys() == {"page_token"}


async def test_a_page_fits_into_a_grpc_message_of_default_size(served: Served):
    await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a", instructions=""))
    for _ in range(4):
        query = pb.PostUserQueryRequest(id="a", user_message="文" * 450_000, max_tokens=1)
        await served.stub.PostUserQueryUnary(query)
    indexes, request = [], pb.ListMessagesRequest(id="a")
    while True:
        response = await served.stub.ListMessages(request)
        indexes += [message.index for message in response.messages]
        request.page_token = response.next_page_token
        if not request.page_token:
            break
    assert indexes == list(range(1, 9))
