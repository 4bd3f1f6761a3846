"""Credentials of Azure identities, for stores and models. This is the only module that imports `azure.identity`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential, get_bearer_token_provider

from palaver_server.connections import Identity
from palaver_server.domain.errors import ModelCredentialsRejected

AI_SCOPE = "https://cognitiveservices.azure.com/.default"

TokenProvider = Callable[[], Awaitable[str]]
Credential = DefaultAzureCredential | ManagedIdentityCredential


def credential(identity: Identity) -> Credential:
    """Returns a credential, which renews its tokens before they expire. The caller must close it."""
    if identity.is_managed:
        return ManagedIdentityCredential(client_id=identity.client_id)
    if identity.client_id is not None:
        return DefaultAzureCredential(managed_identity_client_id=identity.client_id)
    return DefaultAzureCredential()


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
