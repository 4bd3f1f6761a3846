"""A stored turn is replayed by any server on its store, even by one that could not have run it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from azure.data.tables import TableServiceClient, UpdateMode

from palaver.v1 import assistant_service_pb2 as pb
from tests.support.calls import contents, create_assistant, read_rest
from tests.support.calls import query_with_id as query
from tests.support.endpoint import HANG_UP, Endpoint, Stream, skill_calls
from tests.support.palaver_server import Served, palaver_server, server_with_assistant
from tests.support.skill_host import SkillHost, content
from tests.support.statuses import failure_of

TASK = '{"task": "call dad"}'
QUERY = query("Remind me to call my dad", ai_connection_name="Sweden", skill_names=["add_todo"], top_p=0.25)
EVERY_OPTION = query(ai_connection_name="Sweden", chat_model="gpt-x", temperature=0.25, top_p=0.5, max_tokens=7)


@asynccontextmanager
async def server_that_can_run_it(
    folder: Path, endpoint: Endpoint, variables: dict[str, str], **settings: Any
) -> AsyncIterator[Served]:
    """Serves with a skill host, a named AI connection, and defaults of its own."""
    connection = {"Sweden__Endpoint": endpoint.url.removesuffix("/v1"), "Sweden__Key": "azure-key"}
    async with (
        SkillHost(add_todo=lambda _: content("Noted")) as host,
        server_with_assistant(
            folder,
            endpoint.url,
            variables | connection,
            ai_connections=("Sweden",),
            skill_hosts=(host.target,),
            **{"default_chat_model": "gpt-of-a", "default_temperature": 1.5, "default_max_tokens": 55, **settings},
        ) as served,
    ):
        yield served


async def events(served: Served, request: pb.PostUserQueryRequest) -> list[pb.PostUserQueryResponse]:
    return await read_rest(served.stub.PostUserQuery(request, timeout=20))


def with_replayed(started: pb.TurnStarted) -> pb.TurnStarted:
    expected = pb.TurnStarted()
    expected.CopyFrom(started)
    expected.replayed = True
    return expected


def remove_parameters(folder: Path, variables: dict[str, str]) -> None:
    """Leaves the turns as a server stored them that did not store parameters yet."""
    if "AzureWebJobsStorage" not in variables:
        with closing(sqlite3.connect(folder / "palaver.db")) as connection:
            connection.execute("DROP TABLE turn_parameters")
        return
    with TableServiceClient.from_connection_string(variables["AzureWebJobsStorage"]) as service:
        table = service.get_table_client("ChatState")
        for row in table.query_entities("RowKey ge 'done-' and RowKey lt 'done.'"):
            del row["Parameters"]
            table.update_entity(row, mode=UpdateMode.REPLACE)


def keep_parameters(folder: Path, variables: dict[str, str]) -> None:
    pass


async def test_a_turn_is_replayed_with_its_parameters_by_a_server_that_lacks_its_skill_and_its_connection(
    tmp_path: Path, endpoint: Endpoint, variables: dict[str, str]
):
    async with server_that_can_run_it(tmp_path, endpoint, variables) as one:
        endpoint.script(skill_calls(("add_todo", TASK), text="One moment. "), Stream("I will."))
        first = await events(one, QUERY)
    async with palaver_server(tmp_path, None, variables) as other:  # neither skills nor any AI connection
        replayed = await events(other, QUERY)
        unary = await other.stub.PostUserQueryUnary(QUERY)
    started = replayed[0].started
    assert started == with_replayed(first[0].started)
    assert (started.ai_connection_name, started.chat_model) == ("Sweden", "gpt-of-a")
    assert (started.max_tokens, started.top_p, started.HasField("temperature")) == (55, 0.25, False)
    assert [event.WhichOneof("event") for event in replayed] == [
        "started", "text_delta", "skill_call", "skill_result", "text_delta", "completed",
    ]  # fmt: skip
    assert replayed[-1].completed == first[-1].completed == unary.completed
    assert len(endpoint.calls) == 2


async def test_every_parameter_is_replayed(tmp_path: Path, endpoint: Endpoint, variables: dict[str, str]):
    async with server_that_can_run_it(tmp_path, endpoint, variables, max_tokens_cap=5) as one:
        first = await events(one, EVERY_OPTION)
    async with palaver_server(tmp_path, endpoint.url, variables, default_temperature=0.0) as other:
        [started, *_] = await events(other, EVERY_OPTION)
    assert started.started == with_replayed(first[0].started)
    assert started.started.max_tokens == 5


async def test_a_reasoning_model_is_replayed_without_parameters_that_were_not_sent(
    tmp_path: Path, endpoint: Endpoint, variables: dict[str, str]
):
    request = query(is_reasoning_model=True, temperature=1)
    async with server_that_can_run_it(tmp_path, endpoint, variables) as one:
        first = await events(one, request)
    async with palaver_server(tmp_path, endpoint.url, variables) as other:
        [started, *_] = await events(other, request)
    assert started.started == with_replayed(first[0].started)
    assert not any(started.started.HasField(name) for name in ("temperature", "top_p", "max_tokens"))


async def test_a_turn_that_an_older_server_stored_is_replayed_with_what_the_request_says(
    tmp_path: Path, endpoint: Endpoint, variables: dict[str, str]
):
    async with server_that_can_run_it(tmp_path, endpoint, variables) as one:
        endpoint.script(skill_calls(("add_todo", TASK)), Stream("I will."))
        first = await events(one, QUERY)
        await create_assistant(one, "b")
        other_query = query(id="b")
        await events(one, other_query)
    remove_parameters(tmp_path, variables)
    async with palaver_server(tmp_path, endpoint.url, variables, default_max_tokens=9) as other:
        replayed = await events(other, QUERY)
        [without_options, *_] = await events(other, other_query)
    assert replayed[-1].completed == first[-1].completed
    assert replayed[0].started == pb.TurnStarted(
        request_id="r",
        ai_connection_name="Sweden",  # as requested; this server does not know it
        chat_model="gpt-3.5-turbo",  # this server's default, because the request names none
        top_p=0.25,
        max_tokens=9,
        replayed=True,
    )
    assert without_options.started.ai_connection_name == "OPENAI"
    async with palaver_server(tmp_path, None, variables) as without_models:
        [started, *_] = await events(without_models, other_query)
    assert started.started.ai_connection_name == ""


@pytest.mark.parametrize("ends_well", [True, False])
async def test_a_turn_that_another_server_runs_is_awaited_by_a_server_that_could_not_run_it(
    tmp_path: Path, endpoint: Endpoint, variables: dict[str, str], ends_well: bool
):
    go_on = asyncio.Event()
    async with (
        server_that_can_run_it(tmp_path, endpoint, variables) as one,
        palaver_server(tmp_path, None, variables) as other,
    ):
        endpoint.script(Stream("Hel", go_on, "lo") if ends_well else Stream("Hel", go_on, HANG_UP))
        running = one.stub.PostUserQuery(QUERY)
        assert (await running.read()).HasField("started")
        posted_again = asyncio.ensure_future(events(other, QUERY))
        assert (await contents(other), await contents(other)) == ([], [])  # the call has had time to fail
        go_on.set()
        if ends_well:
            *_, last = await read_rest(running)
            replayed = await posted_again
            assert replayed[-1].completed == last.completed
            assert replayed[0].started.replayed
        else:
            await failure_of(read_rest(running))
            failure = await failure_of(posted_again)
            assert (failure.reason, list(failure.violations)) == ("CONNECTION_NOT_CONFIGURED", [])


@pytest.mark.parametrize("parameters", [keep_parameters, remove_parameters])
async def test_another_request_with_the_id_of_a_stored_turn_is_refused_before_anything_else(
    tmp_path: Path,
    endpoint: Endpoint,
    variables: dict[str, str],
    parameters: Callable[[Path, dict[str, str]], None],
):
    async with server_that_can_run_it(tmp_path, endpoint, variables) as one:
        await events(one, EVERY_OPTION)
    parameters(tmp_path, variables)
    async with palaver_server(tmp_path, None, variables) as other:
        # Neither the skill nor an AI connection is there, but the id decides.
        failure = await failure_of(other.stub.PostUserQueryUnary(QUERY))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")


async def test_a_new_turn_still_needs_its_skill_and_its_connection(
    tmp_path: Path, endpoint: Endpoint, variables: dict[str, str]
):
    async with server_that_can_run_it(tmp_path, endpoint, variables) as one:
        await events(one, EVERY_OPTION)
    async with palaver_server(tmp_path, endpoint.url, variables) as other:
        new = query(request_id="new", skill_names=["add_todo"])
        failure = await failure_of(other.stub.PostUserQueryUnary(new))
        assert (failure.reason, list(failure.violations)) == ("INVALID_FIELD", ["skill_names[0]"])
    async with palaver_server(tmp_path, None, variables) as other:
        failure = await failure_of(other.stub.PostUserQueryUnary(query(request_id="new")))
        assert failure.reason == "CONNECTION_NOT_CONFIGURED"
    assert len(endpoint.calls) == 1
