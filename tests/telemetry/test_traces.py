"""Traces: from the caller through the turn to the endpoint and the skill hosts, with nothing of a message in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from tests.support.azurite import Azurite
from tests.support.calls import create_assistant, query
from tests.support.collector import Collector, SpanSeen, collector
from tests.support.endpoint import Endpoint, Refusal, Stream, skill_calls
from tests.support.server_process import ServerProcess, server_process
from tests.support.skill_host import SkillHost, content

CANARY = "canary-4711"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALLER_SPAN = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{CALLER_SPAN}-01"
POST = "palaver.v1.AssistantService/PostUserQueryUnary"


@asynccontextmanager
async def traced(folder: Path, endpoint: Endpoint, **variables: str) -> AsyncIterator[tuple[ServerProcess, Collector]]:
    async with collector() as collected:
        chosen = {**collected.variables(), **variables}
        async with server_process(folder, endpoint.url, **chosen) as server:
            await create_assistant(server)
            yield server, collected


async def post(server: ServerProcess, *metadata: tuple[str, str]) -> grpc.StatusCode:
    try:
        await server.stub.PostUserQueryUnary(query(CANARY), metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def of_trace(collected: Collector, root: SpanSeen) -> list[SpanSeen]:
    return [span for span in collected.spans if span.trace_id == root.trace_id]


async def test_a_trace_runs_from_the_caller_to_the_endpoint_and_the_skill_host(
    tmp_path: Path, endpoint: Endpoint, azurite: Azurite
):
    endpoint.script(skill_calls(("lookup", f'{{"task": "{CANARY}"}}')), Stream(CANARY))
    store = azurite.account().connection_string
    async with (
        SkillHost(lookup=lambda _request: content(CANARY)) as host,
        traced(tmp_path, endpoint, AzureWebJobsStorage=store, PALAVER_SKILL_HOSTS=host.target) as (server, collected),
    ):
        metadata = (("traceparent", TRACEPARENT), ("tracestate", "shop=7"), ("baggage", "user=4711"))
        assert await post(server, *metadata) is grpc.StatusCode.OK
        call = await collected.named(POST)
        assert (call.trace_id, call.parent_id, call.kind) == (TRACE_ID, CALLER_SPAN, "SERVER")
        tool = await collected.named("execute_tool lookup")
        chats = sorted(
            (span for span in of_trace(collected, call) if span.name == "chat gpt-3.5-turbo"),
            key=lambda span: span.attributes["gen_ai.response.finish_reasons"],
        )
        stores = {
            span.name.partition(" ")[0]: span
            for span in of_trace(collected, call)
            if "AzureWebJobsStorage" in span.name
        }
        assert {span.parent_id for span in (tool, *chats, *stores.values())} == {call.span_id}
        assert {"read_window", "commit_turn"} <= stores.keys()
        requests = [request.headers for request in endpoint.calls]
        assert {headers["traceparent"] for headers in requests} == {
            f"00-{TRACE_ID}-{chat.span_id}-01" for chat in chats
        }
        assert host.metadata[0]["traceparent"] == f"00-{TRACE_ID}-{tool.span_id}-01"
        for passed in (*requests, *host.metadata):
            assert passed["tracestate"] == "shop=7"
            assert "baggage" not in passed
    assert len(chats) == 2
    assert chats[0].attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-3.5-turbo",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 100,
        "gen_ai.response.model": "gpt-3.5-turbo-2026",
        "gen_ai.response.finish_reasons": ["skill_calls"],
        "gen_ai.response.time_to_first_chunk": chats[0].attributes["gen_ai.response.time_to_first_chunk"],
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.conversation.id": "a",
        "palaver.ai_connection": "OPENAI",
        "palaver.request_id": chats[0].attributes["palaver.request_id"],
        "server.address": "127.0.0.1",
        "server.port": int(endpoint.url.split(":")[2].split("/")[0]),
    }
    assert tool.attributes["palaver.skill_host"] == host.target
    assert (call.attributes["rpc.system.name"], call.attributes["rpc.method"]) == ("grpc", POST)
    assert call.attributes["rpc.response.status_code"] == "OK"
    assert call.resource["service.name"] == "palaver-server"
    assert not any(CANARY.encode() in request or b"4711" in request for request in collected.raw)


async def test_the_service_has_the_name_that_the_operator_gives_it(tmp_path: Path, endpoint: Endpoint):
    variables = {"OTEL_SERVICE_NAME": "chat", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"}
    async with traced(tmp_path, endpoint, **variables) as (server, collected):
        await post(server)
        span = await collected.named(POST)
    assert span.resource["service.name"] == "chat"
    assert span.resource["deployment.environment.name"] == "test"
    assert {"service.version", "service.instance.id"} <= span.resource.keys()


@pytest.mark.parametrize(
    "traceparent", [None, "", "garbage", "00-0-0-01", f"00-{'0' * 32}-{CALLER_SPAN}-01", "x" * 4000]
)
async def test_a_caller_without_a_trace_gets_one_of_its_own(
    tmp_path: Path, endpoint: Endpoint, traceparent: str | None
):
    async with traced(tmp_path, endpoint) as (server, collected):
        metadata = () if traceparent is None else (("traceparent", traceparent),)
        assert await post(server, *metadata) is grpc.StatusCode.OK
        call, chat = await collected.named(POST), await collected.named("chat gpt-3.5-turbo")
    assert call.parent_id == ""
    assert chat.parent_id == call.span_id


async def test_a_trace_that_the_caller_does_not_record_is_passed_on_and_not_exported(
    tmp_path: Path, endpoint: Endpoint
):
    async with traced(tmp_path, endpoint) as (server, collected):
        await post(server, ("traceparent", f"00-{TRACE_ID}-{CALLER_SPAN}-00"))
        await post(server)
        await collected.named(POST)  # of the second call
    [header, _] = [call.headers["traceparent"] for call in endpoint.calls]
    assert header.startswith(f"00-{TRACE_ID}-")
    assert header.endswith("-00")
    assert TRACE_ID not in {span.trace_id for span in collected.spans}


async def test_each_attempt_of_a_model_call_has_a_span(tmp_path: Path, endpoint: Endpoint):
    endpoint.script(Refusal(503, CANARY), Stream("Fine"))
    async with traced(tmp_path, endpoint) as (server, collected):
        await post(server)
        good = await collected.span(lambda span: span.name.startswith("chat") and not span.is_error)
        bad = await collected.span(lambda span: span.name.startswith("chat") and span.is_error)
    assert bad.attributes["error.type"] == "MODEL_UNAVAILABLE"
    assert bad.description == "the endpoint failed with HTTP status 503: code error"
    assert good.attributes["palaver.retry"] == 1
    assert bad.parent_id == good.parent_id


@pytest.mark.parametrize(
    ("refusal", "status", "is_error"),
    [
        (Refusal(400), "INVALID_ARGUMENT", False),
        (Refusal(401), "FAILED_PRECONDITION", False),
        (Refusal(503), "UNAVAILABLE", True),
    ],
)
async def test_a_failed_call_has_its_status(
    tmp_path: Path, endpoint: Endpoint, refusal: Refusal, status: str, is_error: bool
):
    endpoint.default = refusal
    async with traced(tmp_path, endpoint) as (server, collected):
        await post(server)
        call = await collected.named(POST)
    assert (call.attributes["rpc.response.status_code"], call.is_error) == (status, is_error)


async def test_a_collector_that_is_away_does_not_hold_up_anything(tmp_path: Path, endpoint: Endpoint):
    async with collector() as collected:
        variables = collected.variables()
    async with server_process(tmp_path, endpoint.url, **variables) as server:
        await create_assistant(server)
        assert await post(server) is grpc.StatusCode.OK
        server.process.terminate()
        assert await server.process.wait() == 0
