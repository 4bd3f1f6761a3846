"""Tokens of Azure identities, for stores and models alike. The only importer of `azure.identity`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential, get_bearer_token_provider

from palaver_server.connections import Identity
from palaver_server.errors import ModelCredentialsRejected

AI_SCOPE = "https://cognitiveservices.azure.com/.default"

TokenProvider = Callable[[], Awaitable[str]]
Credential = DefaultAzureCredential | ManagedIdentityCredential


def credential(identity: Identity) -> Credential:
    """Makes what gets tokens and renews them before they expire. Its maker must close it."""
    if identity.is_managed:
        return ManagedIdentityCredential(client_id=identity.client_id)
    if identity.client_id is not None:
        return DefaultAzureCredential(managed_identity_client_id=identity.client_id)
    return DefaultAzureCredential()


def token_provider(credential: Credential) -> TokenProvider:
    """Makes what an AI connection asks for the token of each request."""
    provider = get_bearer_token_provider(credential, AI_SCOPE)

    async def token() -> str:
        try:
            return await provider()
        except Exception as error:
            # Not every credential wraps what the network, a file or an answer that can't be read did to it.
            raise ModelCredentialsRejected("the server has no credentials for the AI connection") from error

    return token
