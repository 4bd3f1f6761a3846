"""A managed identity from end to end: its endpoint, `azure-identity`, and Azurite over https that checks the tokens."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import trustme

from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub
from tests.support.azurite import Account, Azurite, why_missing
from tests.support.endpoint import Endpoint
from tests.support.managed_identity import ManagedIdentity
from tests.support.statuses import failure_of

COMMAND = Path(sys.executable).with_name("palaver-server")
STORAGE_RESOURCE = "https://storage.azure.com"


@dataclass(frozen=True)
class Cloud:
    """Azurite over https, and the authority whose certificate it has."""

    azurite: Azurite
    authority: Path


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    if missing := why_missing():
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("tls")
    authority, certificate, key = folder / "ca.pem", folder / "certificate.pem", folder / "key.pem"
    issuer = trustme.CA()
    issued = issuer.issue_cert("127.0.0.1")
    issuer.cert_pem.write_to_path(authority)
    issued.private_key_pem.write_to_path(key)
    for part in issued.cert_chain_pems:
        part.write_to_path(certificate, append=True)
    with Azurite(certificate, key) as azurite:
        yield Cloud(azurite, authority)


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
) -> AsyncIterator[AssistantServiceStub]:
    """A server process that trusts the authority, and has the identity for its store and for its model."""
    environment = os.environ | (identity.vm_environment if on_vm else identity.environment) | variables
    environment |= {
        "SSL_CERT_FILE": str(cloud.authority),
        "AzureWebJobsStorage__tableServiceUri": account.url,
        "AZURE_OPENAI_ENDPOINT": endpoint.url.removesuffix("/v1"),
        "PALAVER_DATA_DIR": str(folder),
    }
    process = await asyncio.create_subprocess_exec(
        COMMAND, "--listen", "127.0.0.1:0", env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        address = (await process.stdout.readline()).decode().split()[-1]
        async with grpc.aio.insecure_channel(address) as channel:
            yield AssistantServiceStub(channel)
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("credential", ["managedidentity", ""])
async def test_a_conversation_needs_no_key_at_all(
    cloud: Cloud, endpoint: Endpoint, identity: ManagedIdentity, tmp_path: Path, credential: str
):
    variables = {"AzureWebJobsStorage__credential": credential, "AzureWebJobsStorage__clientId": "c-1"}
    account = cloud.azurite.account()
    async with serving(cloud, account, endpoint, identity, tmp_path, **variables) as stub:
        await stub.CreateAssistant(pb.CreateAssistantRequest(id="a", instructions="Be brief."))
        response = await stub.PostUserQueryUnary(pb.PostUserQueryRequest(id="a", user_message="Hello"))
        listed = await stub.ListMessages(pb.ListMessagesRequest(id="a"))
    assert response.completed.assistant.total_messages == 3
    assert [message.content for message in listed.messages] == ["Be brief.", "Hello", "Hello, world"]
    [request] = [request for request in identity.requests if request.resource == STORAGE_RESOURCE]
    assert request.client_id == "c-1"  # one token has served all calls
    assert len(endpoint.calls) == 1


@pytest.mark.parametrize("on_vm", [False, True])
async def test_an_identity_may_be_named_by_its_resource_id(
    cloud: Cloud, endpoint: Endpoint, identity: ManagedIdentity, tmp_path: Path, on_vm: bool
):
    resource_id = "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/mine"
    variables = {
        "AzureWebJobsStorage__credential": "managedidentity",
        "AzureWebJobsStorage__managedIdentityResourceId": resource_id,
        "AZURE_OPENAI__ManagedIdentityResourceId": resource_id,
    }
    account = cloud.azurite.account()
    async with serving(cloud, account, endpoint, identity, tmp_path, on_vm=on_vm, **variables) as stub:
        await stub.CreateAssistant(pb.CreateAssistantRequest(id="a"))
        await stub.PostUserQueryUnary(pb.PostUserQueryRequest(id="a", user_message="Hello"))
    # The machine would answer a request that names no identity, too, with the token of its own one.
    assert [(request.resource_id, request.client_id) for request in identity.requests] == [(resource_id, None)] * 2


async def test_a_token_that_expires_is_renewed(
    cloud: Cloud, endpoint: Endpoint, identity: ManagedIdentity, tmp_path: Path
):
    identity.lifetimes.append(1)
    account = cloud.azurite.account()
    async with serving(cloud, account, endpoint, identity, tmp_path) as stub:
        # Azurite refuses a token that is over, so every call must have had a good one.
        while len(identity.requests) < 2:
            await stub.CreateAssistant(pb.CreateAssistantRequest(id="a", if_exists=pb.IF_EXISTS_RESET))
        for _ in range(5):
            await stub.GetAssistant(pb.GetAssistantRequest(id="a"))
    assert [request.resource for request in identity.requests] == [STORAGE_RESOURCE] * 2


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, (grpc.StatusCode.FAILED_PRECONDITION, "STORE_CREDENTIALS_REJECTED")),
        (403, (grpc.StatusCode.FAILED_PRECONDITION, "STORE_CREDENTIALS_REJECTED")),
        (500, (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")),
    ],
)
async def test_without_a_token_the_caller_hears_why_in_time(
    cloud: Cloud,
    endpoint: Endpoint,
    identity: ManagedIdentity,
    tmp_path: Path,
    status: int,
    expected: tuple[grpc.StatusCode, str],
):
    identity.status = status
    variables = {"AzureWebJobsStorage__credential": "managedidentity"}
    async with serving(cloud, cloud.azurite.account(), endpoint, identity, tmp_path, **variables) as stub:
        failure = await failure_of(stub.GetAssistant(pb.GetAssistantRequest(id="a"), timeout=5.0))
    assert (failure.code, failure.reason) == expected
    assert "no identity for you" not in failure.text
