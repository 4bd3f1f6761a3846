"""Storage and AI connections, in the variables that the Azure Functions extension uses.

`<NAME>` and `<NAME>__<key>` are read from the environment only for the names in the settings. A caller must not be able
to make the server read any other variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from palaver_server.domain.conversation import DEFAULT_STORAGE_CONNECTION
from palaver_server.settings import Settings, SettingsError

DATABASE_NAME = "palaver.db"
MANAGED_IDENTITY = "managedidentity"

OPENAI, AZURE_OPENAI, OFFLINE = "OPENAI", "AZURE_OPENAI", "OFFLINE"
"""The names of the fallbacks, as `started` reports them."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity that the server uses in Azure, for a connection without a key."""

    is_managed: bool = False
    """True for the managed identity of the machine, False for the one that DefaultAzureCredential finds."""
    client_id: str | None = None
    """The client id of a user-assigned managed identity. None: the system-assigned one."""


@dataclass(frozen=True, slots=True)
class Database:
    """A SQLite file."""

    path: Path


@dataclass(frozen=True, slots=True)
class TableAccount:
    """An account of Azure Table Storage or Cosmos DB for Table, by connection string or by URI and identity."""

    connection_string: str = field(default="", repr=False)
    uri: str = ""
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class AIConnection:
    """An endpoint that speaks OpenAI's protocol, and the key or the identity for it."""

    name: str
    base_url: str | None
    """The address that OpenAI's paths are relative to, or with an API version, the Azure resource. None: OpenAI."""
    api_key: str | None = field(default=None, repr=False)
    identity: Identity | None = None
    api_version: str | None = None
    """A dated version of Azure OpenAI's older API, with deployments in its paths."""


def storage_connections(settings: Settings, environment: Mapping[str, str]) -> dict[str, Database | TableAccount]:
    """Returns the storage connections that callers may name; raises `SettingsError`."""
    return {name: _storage(name, settings, environment) for name in settings.storage_connections}


def _storage(name: str, settings: Settings, environment: Mapping[str, str]) -> Database | TableAccount:
    value, uri = environment.get(name, ""), environment.get(f"{name}__tableServiceUri", "")
    if value and uri:
        raise SettingsError(f"{name}, {name}__tableServiceUri: set one of them")
    if value.startswith("sqlite:"):
        if path := value.removeprefix("sqlite:"):
            return Database(Path(path))
        raise SettingsError(f'{name}: write "sqlite:PATH"')
    if value:
        return TableAccount(connection_string=value)
    if uri:
        # Without TLS, anybody on the network path could read the token.
        if not uri.startswith("https://"):
            raise SettingsError(f"{name}__tableServiceUri: must begin with https://, not {uri!r}")
        return TableAccount(uri=uri, identity=_identity(name, environment))
    if name == DEFAULT_STORAGE_CONNECTION:
        return Database(settings.data_dir / DATABASE_NAME)
    raise SettingsError(
        f"{name}: PALAVER_STORAGE_CONNECTIONS lists it, but it has no value: set it to a connection string or to "
        f'"sqlite:PATH", or set {name}__tableServiceUri'
    )


def ai_connections(settings: Settings, environment: Mapping[str, str]) -> list[AIConnection]:
    """Returns the AI connections that callers may name; raises `SettingsError`."""
    for name in (OPENAI, AZURE_OPENAI, OFFLINE):
        if name in settings.ai_connections:
            raise SettingsError(f"PALAVER_AI_CONNECTIONS: {name} is the name of a fallback; choose another one")
    return [
        _azure_openai(
            name,
            f"{name}__Endpoint",
            environment,
            api_key=environment.get(f"{name}__Key"),
            api_version=environment.get(f"{name}__ApiVersion"),
        )
        for name in settings.ai_connections
    ]


def fallback_connection(environment: Mapping[str, str]) -> AIConnection | None:
    """Returns the connection for requests that name none, or an unknown one; raises `SettingsError`."""
    if api_key := environment.get("OPENAI_API_KEY"):
        return AIConnection(OPENAI, environment.get("OPENAI_BASE_URL") or None, api_key)
    if environment.get("AZURE_OPENAI_ENDPOINT"):
        return _azure_openai(
            AZURE_OPENAI, "AZURE_OPENAI_ENDPOINT", environment, api_key=environment.get("AZURE_OPENAI_KEY")
        )
    return None


def _azure_openai(
    name: str,
    endpoint_variable: str,
    environment: Mapping[str, str],
    *,
    api_key: str | None,
    api_version: str | None = None,
) -> AIConnection:
    endpoint = environment.get(endpoint_variable, "").rstrip("/")
    if not endpoint.startswith(("https://", "http://")):
        raise SettingsError(f"{endpoint_variable}: the AI connection {name} needs the URL of its endpoint here")
    return AIConnection(
        name,
        base_url=endpoint if api_version else f"{endpoint}/openai/v1/",
        api_key=api_key or None,
        identity=None if api_key else _identity(name, environment),
        api_version=api_version or None,
    )


def _identity(name: str, environment: Mapping[str, str]) -> Identity:
    kind = environment.get(f"{name}__credential", "")
    if kind.lower() not in ("", MANAGED_IDENTITY):
        raise SettingsError(f'{name}__credential: must be "{MANAGED_IDENTITY}" or unset, not {kind!r}')
    return Identity(is_managed=bool(kind), client_id=environment.get(f"{name}__clientId") or None)
