"""Azure OpenAI by key and by identity: what its endpoint is sent, and that tokens are renewed and never told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from palaver.v1 import assistant_service_pb2 as pb
from tests.support.endpoint import Call, Endpoint, Refusal
from tests.support.managed_identity import SECRET, ManagedIdentity
from tests.support.palaver_server import Served, palaver_server
from tests.support.statuses import failure_of

AI_RESOURCE = "https://cognitiveservices.azure.com"


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with Endpoint() as running:
        yield running


@pytest.fixture
async def identity(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ManagedIdentity]:
    async with ManagedIdentity() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@asynccontextmanager
async def serving(folder: Path, variables: dict[str, str], *names: str) -> AsyncIterator[Served]:
    async with palaver_server(folder, environment=variables, ai_connections=names) as served:
        await served.stub.CreateAssistant(pb.CreateAssistantRequest(id="a", instructions=""))
        yield served


def resource(endpoint: Endpoint) -> str:
    """The address that Azure shows for the resource."""
    return endpoint.url.removesuffix("/v1") + "/"


async def ask(served: Served, **fields: Any) -> pb.TurnStarted:
    """Runs a turn to its end, and returns what it began with."""
    call = served.stub.PostUserQuery(pb.PostUserQueryRequest(id="a", user_message="Hello", **fields))
    events = [event async for event in call]
    assert events[-1].WhichOneof("event") == "completed"
    return events[0].started


def bearer(call: Call) -> str:
    return call.headers["authorization"].removeprefix("bearer ")


async def test_a_key_goes_to_the_v1_path_and_the_model_names_the_deployment(tmp_path: Path, endpoint: Endpoint):
    variables = {"Mine__Endpoint": resource(endpoint), "Mine__Key": "azure-key"}
    async with serving(tmp_path, variables, "Mine") as served:
        started = await ask(served, ai_connection_name="Mine", chat_model="my-deployment")
    assert started.ai_connection_name == "Mine"
    [call] = endpoint.calls
    assert call.path == "/openai/v1/chat/completions"
    assert call.body["model"] == "my-deployment"
    assert bearer(call) == "azure-key"


async def test_the_identity_of_the_machine_is_used_without_a_key(
    tmp_path: Path, endpoint: Endpoint, identity: ManagedIdentity
):
    variables = {"Mine__Endpoint": resource(endpoint), "Mine__credential": "managedidentity", "Mine__clientId": "c-1"}
    async with serving(tmp_path, variables, "Mine") as served:
        started = await ask(served, ai_connection_name="Mine")
        await ask(served, ai_connection_name="Mine")
    assert started.ai_connection_name == "Mine"
    [request] = identity.requests  # the second turn had the same token
    assert (request.resource, request.client_id) == (AI_RESOURCE, "c-1")
    assert [bearer(call) for call in endpoint.calls] == [request.token.lower()] * 2


async def test_a_token_that_expires_is_renewed(tmp_path: Path, endpoint: Endpoint, identity: ManagedIdentity):
    identity.lifetimes.extend([0, 0])  # over as soon as they are there
    variables = {"Mine__Endpoint": resource(endpoint), "Mine__credential": "managedidentity"}
    async with serving(tmp_path, variables, "Mine") as served:
        for _ in range(4):
            await ask(served, ai_connection_name="Mine")
    first, second, third = (request.token.lower() for request in identity.requests)
    assert [bearer(call) for call in endpoint.calls] == [first, second, third, third]


async def test_the_default_credential_finds_the_identity_for_the_fallback(
    tmp_path: Path, endpoint: Endpoint, identity: ManagedIdentity
):
    async with serving(tmp_path, {"AZURE_OPENAI_ENDPOINT": resource(endpoint)}) as served:
        started = await ask(served, ai_connection_name="Unknown")
    assert started.ai_connection_name == "AZURE_OPENAI"
    assert [request.resource for request in identity.requests] == [AI_RESOURCE]
    assert bearer(endpoint.calls[0]) == identity.requests[0].token.lower()


@pytest.mark.parametrize("key", ["azure-key", ""])
async def test_a_dated_api_version_has_the_deployment_in_the_path(
    tmp_path: Path, endpoint: Endpoint, identity: ManagedIdentity, key: str
):
    variables = {"Mine__Endpoint": resource(endpoint), "Mine__ApiVersion": "2024-10-21", "Mine__Key": key}
    async with serving(tmp_path, variables, "Mine") as served:
        await ask(served, ai_connection_name="Mine", chat_model="my-deployment")
    [call] = endpoint.calls
    assert call.path == "/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21"
    if key:
        assert call.headers["api-key"] == "azure-key"
    else:
        assert bearer(call) == identity.requests[0].token.lower()


@pytest.mark.parametrize("status", [400, 403, 500])
async def test_without_a_token_nothing_is_called_and_nothing_stored(
    tmp_path: Path, endpoint: Endpoint, identity: ManagedIdentity, status: int
):
    identity.status = status
    variables = {"Mine__Endpoint": resource(endpoint), "Mine__credential": "managedidentity"}
    async with serving(tmp_path, variables, "Mine") as served:
        failure = await failure_of(ask(served, ai_connection_name="Mine"))
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "MODEL_CREDENTIALS_REJECTED",
        )
        assert not any(secret in failure.text for secret in ("127.0.0.1", SECRET, "no identity for you"))
        assert endpoint.calls == []
        identity.status = 200
        await ask(served, ai_connection_name="Mine")
        response = await served.stub.GetAssistant(pb.GetAssistantRequest(id="a"))
    assert response.assistant.total_messages == 2


async def test_a_token_that_the_endpoint_repeats_is_not_passed_on(
    tmp_path: Path, endpoint: Endpoint, identity: ManagedIdentity
):
    variables = {"Mine__Endpoint": resource(endpoint), "Mine__credential": "managedidentity"}
    async with serving(tmp_path, variables, "Mine") as served:
        await ask(served, ai_connection_name="Mine")
        token = identity.requests[0].token
        endpoint.script(Refusal(400, f"can't use {token} here"), Refusal(401, f"expired: {token}"))
        for _ in range(2):
            failure = await failure_of(ask(served, ai_connection_name="Mine"))
            assert "eyJ" not in failure.text
