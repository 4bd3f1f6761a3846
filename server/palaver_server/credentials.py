"""Credentials of Azure identities, for stores and models. This is the only module that imports `azure.identity`."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential, get_bearer_token_provider

from palaver_server.connections import Identity
from palaver_server.domain.errors import ModelCredentialsRejected

AI_SCOPE = "https://cognitiveservices.azure.com/.default"

TokenProvider = Callable[[], Awaitable[str]]
Credential = DefaultAzureCredential | ManagedIdentityCredential


def credential(identity: Identity) -> Credential:
    """Returns a credential, which renews its tokens before they expire. The caller must close it."""
    if identity.resource_id is not None:
        return ManagedIdentityCredential(identity_config={_resource_id_parameter(): identity.resource_id})
    if identity.is_managed:
        return ManagedIdentityCredential(client_id=identity.client_id)
    if identity.client_id is not None:
        return DefaultAzureCredential(managed_identity_client_id=identity.client_id)
    return DefaultAzureCredential()


def _resource_id_parameter() -> str:
    """Returns the name under which the platform expects the resource id of an identity.

    The SDK's asynchronous credential always sends `resource_id`, except in Azure Arc. App Service and virtual machines
    ignore that, and answer with a token of the system-assigned identity.
    """
    if not os.environ.get("IDENTITY_ENDPOINT"):
        return "msi_res_id"
    is_arc = not os.environ.get("IDENTITY_HEADER")
    return "resource_id" if is_arc else "mi_res_id"


def token_provider(credential: Credential) -> TokenProvider:
    """Returns a function that returns the token for each request to an AI connection."""
    provider = get_bearer_token_provider(credential, AI_SCOPE)

    async def token() -> str:
        try:
            return await provider()
        except Exception as error:
            # Some credentials raise the errors of the network, of files or of unreadable responses as they are.
            raise ModelCredentialsRejected("the server has no credentials for the AI connection") from error

    return token
