"""Azure OpenAI with keys and identities: the requests to its endpoint, and tokens, which stay fresh and secret."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from palaver.v1 import assistant_service_pb2 as pb
from tests.support.calls import is_whole, query, read_rest
from tests.support.endpoint import Call, Endpoint, Refusal
from tests.support.managed_identity import SECRET, ManagedIdentity
from tests.support.palaver_server import Served, server_with_assistant
from tests.support.statuses import failure_of

AI_RESOURCE = "https://cognitiveservices.azure.com"
READ_BY_SDKS = ("AZURE_", "OPENAI_", "IDENTITY_", "IMDS_", "MSI_")
"""The prefixes of the variables that the SDKs of OpenAI and Azure read on their own."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Removes the variables of the machine that the SDKs would read."""
    for name in list(os.environ):
        if name.startswith(READ_BY_SDKS):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
async def identity(environment: pytest.MonkeyPatch) -> AsyncIterator[ManagedIdentity]:
    async with ManagedIdentity() as running:
        for name, value in running.environment.items():
            environment.setenv(name, value)
        yield running


@asynccontextmanager
async def serving(folder: Path, variables: dict[str, str], *names: str, **settings: Any) -> AsyncIterator[Served]:
    async with server_with_assistant(folder, environment=variables, ai_connections=names, **settings) as served:
        yield served


def resource(endpoint: Endpoint) -> str:
    """Returns the address of the resource, as Azure shows it."""
    return endpoint.url.removesuffix("/v1") + "/"


async def ask(served: Served, **fields: Any) -> pb.TurnStarted:
    """Runs a turn to its end and returns its first event."""
    events = await read_rest(served.stub.PostUserQuery(query(**fields)))
    assert is_whole(events)
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


@pytest.mark.parametrize("name", ["", "Unknown"])
async def test_the_fallback_uses_its_own_key(tmp_path: Path, endpoint: Endpoint, name: str):
    variables = {"AZURE_OPENAI_ENDPOINT": resource(endpoint), "AZURE_OPENAI_KEY": "fallback-key"}
    variables |= {"Mine__Endpoint": resource(endpoint), "Mine__Key": "azure-key"}
    async with serving(tmp_path, variables, "Mine") as served:
        started = await ask(served, ai_connection_name=name)
    assert started.ai_connection_name == "AZURE_OPENAI"
    assert [bearer(call) for call in endpoint.calls] == ["fallback-key"]


async def test_the_identity_of_the_machine_is_used_without_a_key(
    tmp_path: Path, endpoint: Endpoint, identity: ManagedIdentity
):
    variables = {"Mine__Endpoint": resource(endpoint), "Mine__credential": "managedidentity", "Mine__clientId": "c-1"}
    async with serving(tmp_path, variables, "Mine") as served:
        started = await ask(served, ai_connection_name="Mine")
        await ask(served, ai_connection_name="Mine")
    assert started.ai_connection_name == "Mine"
    [request] = identity.requests  # the second turn used the same token
    assert (request.resource, request.client_id) == (AI_RESOURCE, "c-1")
    assert [bearer(call) for call in endpoint.calls] == [request.token.lower()] * 2


async def test_a_token_that_expires_is_renewed(tmp_path: Path, endpoint: Endpoint, identity: ManagedIdentity):
    identity.lifetimes.extend([0, 0])  # expired from the start
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
async def test_a_dated_api_version_puts_the_deployment_into_the_path(
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


async def test_a_deployment_name_can_not_escape_its_path_segment(tmp_path: Path, endpoint: Endpoint):
    variables = {"Mine__Endpoint": resource(endpoint), "Mine__ApiVersion": "2024-10-21", "Mine__Key": "azure-key"}
    async with serving(tmp_path, variables, "Mine") as served:
        for name, part in (("../../x", "..%2F..%2Fx"), ("a?b#c", "a%3Fb%23c"), ("%2e%2e", "%252e%252e")):
            await ask(served, ai_connection_name="Mine", chat_model=name)
            assert endpoint.calls[-1].path.startswith(f"/openai/deployments/{part}/chat/completions?")
        calls = len(endpoint.calls)
        for name in (".", ".."):
            failure = await failure_of(ask(served, ai_connection_name="Mine", chat_model=name))
            assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MODEL_NOT_FOUND")
        assert len(endpoint.calls) == calls


@pytest.mark.parametrize("status", [400, 403, 500])
async def test_without_a_token_no_model_is_called_and_nothing_is_stored(
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


@pytest.mark.parametrize("credential", ["managedidentity", ""])
async def test_an_identity_endpoint_that_goes_down_is_not_an_internal_error(
    tmp_path: Path, endpoint: Endpoint, environment: pytest.MonkeyPatch, credential: str
):
    variables = {"Mine__Endpoint": resource(endpoint), "Mine__credential": credential}
    async with AsyncExitStack() as machine:
        identity = await machine.enter_async_context(ManagedIdentity())
        identity.lifetimes.append(0)
        for name, value in identity.environment.items():
            environment.setenv(name, value)
        async with serving(tmp_path, variables, "Mine") as served:
            await ask(served, ai_connection_name="Mine")
            await machine.aclose()
            failure = await failure_of(ask(served, ai_connection_name="Mine"))
            response = await served.stub.GetAssistant(pb.GetAssistantRequest(id="a"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_CREDENTIALS_REJECTED")
    assert not any(secret in failure.text for secret in ("127.0.0.1", SECRET, "eyJ"))
    assert (len(endpoint.calls), response.assistant.total_messages) == (1, 2)


@pytest.mark.parametrize("version", ["", "2024-10-21"])
async def test_an_identity_endpoint_that_never_answers_ends_the_turn_in_time(
    tmp_path: Path, endpoint: Endpoint, environment: pytest.MonkeyPatch, version: str
):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never reads
        environment.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}/msi/token")
        environment.setenv("IDENTITY_HEADER", SECRET)
        variables = {"Mine__Endpoint": resource(endpoint), "Mine__credential": "managedidentity"}
        variables["Mine__ApiVersion"] = version
        async with serving(tmp_path, variables, "Mine", first_token_timeout=0.4) as served:
            failure = await failure_of(ask(served, ai_connection_name="Mine"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "MODEL_TIMEOUT")
    assert "did not begin" in failure.text
    assert endpoint.calls == []


async def test_a_token_in_the_words_of_the_endpoint_is_redacted(
    tmp_path: Path, endpoint: Endpoint, identity: ManagedIdentity
):
    variables = {"Mine__Endpoint": resource(endpoint), "Mine__credential": "managedidentity"}
    async with serving(tmp_path, variables, "Mine") as served:
        await ask(served, ai_connection_name="Mine")
        token = identity.requests[0].token
        refusals = {
            "MODEL_REJECTED_REQUEST": Refusal(400, f"can't use {token} here"),
            "MODEL_NOT_FOUND": Refusal(404, f"Authorization: Bearer {token}"),
            "MODEL_CREDENTIALS_REJECTED": Refusal(401, f"expired: {token}"),
        }
        endpoint.script(*refusals.values())
        for reason in refusals:
            failure = await failure_of(ask(served, ai_connection_name="Mine"))
            assert failure.reason == reason
            assert not any(part in failure.text for part in token.split("."))
