"""A managed identity from end to end: its endpoint, `azure-identity`, and Azurite over https, which checks tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from palaver.v1 import assistant_service_pb2 as pb
from tests.support.azurite import Account, Azurite, why_missing
from tests.support.calls import contents, create_assistant, query
from tests.support.certificates import issue_certificates
from tests.support.endpoint import Endpoint
from tests.support.managed_identity import ManagedIdentity
from tests.support.server_process import ServerProcess, server_process
from tests.support.statuses import failure_of

STORAGE_RESOURCE = "https://storage.azure.com"


@dataclass(frozen=True)
class Cloud:
    """Azurite over https, and the authority that issued its certificate."""

    azurite: Azurite
    authority: Path


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    if missing := why_missing():
        pytest.skip(missing)
    certificates = issue_certificates(tmp_path_factory.mktemp("tls"))
    with Azurite(certificates.certificate, certificates.key) as azurite:
        yield Cloud(azurite, certificates.authority)


@pytest.fixture
async def identity() -> AsyncIterator[ManagedIdentity]:
    async with ManagedIdentity() as running:
        yield running


@asynccontextmanager
async def serving(
    cloud: Cloud,
    account: Account,
    endpoint: Endpoint,
    identity: ManagedIdentity,
    folder: Path,
    *,
    on_vm: bool = False,
    **variables: str,
) -> AsyncIterator[ServerProcess]:
    """Runs a server process that trusts the authority, and that uses the identity for its store and its model."""
    variables |= (identity.vm_environment if on_vm else identity.environment) | {
        "OPENAI_API_KEY": "",
        "OPENAI_BASE_URL": "",
        "SSL_CERT_FILE": str(cloud.authority),
        "AzureWebJobsStorage__tableServiceUri": account.url,
        "AZURE_OPENAI_ENDPOINT": endpoint.url.removesuffix("/v1"),
    }
    async with server_process(folder, endpoint.url, **variables) as server:
        yield server


@pytest.mark.parametrize("credential", ["managedidentity", ""])
async def test_a_conversation_needs_no_key_at_all(
    cloud: Cloud, endpoint: Endpoint, identity: ManagedIdentity, tmp_path: Path, credential: str
):
    variables = {"AzureWebJobsStorage__credential": credential, "AzureWebJobsStorage__clientId": "c-1"}
    account = cloud.azurite.account()
    async with serving(cloud, account, endpoint, identity, tmp_path, **variables) as server:
        await create_assistant(server, instructions="Be brief.")
        response = await server.stub.PostUserQueryUnary(query())
        assert response.completed.assistant.total_messages == 3
        assert await contents(server) == ["Be brief.", "Hello", "Hello, world"]
    [request] = [request for request in identity.requests if request.resource == STORAGE_RESOURCE]
    assert request.client_id == "c-1"  # one token serves all calls
    assert len(endpoint.calls) == 1


@pytest.mark.parametrize("on_vm", [False, True])
async def test_an_identity_can_be_named_by_its_resource_id(
    cloud: Cloud, endpoint: Endpoint, identity: ManagedIdentity, tmp_path: Path, on_vm: bool
):
    resource_id = "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/mine"
    variables = {
        "AzureWebJobsStorage__credential": "managedidentity",
        "AzureWebJobsStorage__managedIdentityResourceId": resource_id,
        "AZURE_OPENAI__ManagedIdentityResourceId": resource_id,
    }
    account = cloud.azurite.account()
    async with serving(cloud, account, endpoint, identity, tmp_path, on_vm=on_vm, **variables) as server:
        await create_assistant(server)
        await server.stub.PostUserQueryUnary(query())
    # Without the resource id, the machine would have returned a token of its own identity.
    assert [(request.resource_id, request.client_id) for request in identity.requests] == [(resource_id, None)] * 2


async def test_a_token_that_expires_is_renewed(
    cloud: Cloud, endpoint: Endpoint, identity: ManagedIdentity, tmp_path: Path
):
    identity.lifetimes.append(1)
    account = cloud.azurite.account()
    async with serving(cloud, account, endpoint, identity, tmp_path) as server:
        # Azurite refuses an expired token, so every call has had a valid one.
        while len(identity.requests) < 2:
            await create_assistant(server, if_exists=pb.IF_EXISTS_RESET)
        for _ in range(5):
            await server.stub.GetAssistant(pb.GetAssistantRequest(id="a"))
    assert [request.resource for request in identity.requests] == [STORAGE_RESOURCE] * 2


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, (grpc.StatusCode.FAILED_PRECONDITION, "STORE_CREDENTIALS_REJECTED")),
        (403, (grpc.StatusCode.FAILED_PRECONDITION, "STORE_CREDENTIALS_REJECTED")),
        (500, (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")),
    ],
)
async def test_without_a_token_calls_fail_in_time_and_say_why(
    cloud: Cloud,
    endpoint: Endpoint,
    identity: ManagedIdentity,
    tmp_path: Path,
    status: int,
    expected: tuple[grpc.StatusCode, str],
):
    identity.status = status
    variables = {"AzureWebJobsStorage__credential": "managedidentity"}
    async with serving(cloud, cloud.azurite.account(), endpoint, identity, tmp_path, **variables) as server:
        failure = await failure_of(server.stub.GetAssistant(pb.GetAssistantRequest(id="a"), timeout=5.0))
    assert (failure.code, failure.reason) == expected
    assert "no identity for you" not in failure.text
