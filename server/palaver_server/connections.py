"""Storage and AI connections, in the variables that the Azure Functions extension uses.

`<NAME>` and `<NAME>__<key>` are read from the environment only for the names in the settings. A caller must not be able
to make the server read any other variable.

A setting that can't be used as it is stops the start: nothing falls back to another store or another identity.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from palaver_server.domain.conversation import DEFAULT_STORAGE_CONNECTION
from palaver_server.settings import Settings, SettingsError
from palaver_server.variables import (
    Section,
    Variable,
    check_alternatives,
    check_base_url,
    check_key,
    check_name,
    check_plain_url,
    names_of,
    parse_url,
    read_in_any_case,
    read_section,
)

logger = logging.getLogger(__name__)

DATABASE_NAME = "palaver.db"
MANAGED_IDENTITY = "managedidentity"

OPENAI, AZURE_OPENAI, OFFLINE = "OPENAI", "AZURE_OPENAI", "OFFLINE"
"""The names of the fallbacks, as `started` reports them."""

OPENAI_URL = "https://api.openai.com/v1"
"""Given to the SDK explicitly, which would take an empty OPENAI_BASE_URL for the address."""

IDENTITY_KEYS = ("credential", "clientId", "managedIdentityResourceId")
ADDRESS_KEYS = ("tableServiceUri", "accountName")
HOST_KEYS = ("blobServiceUri", "queueServiceUri")
"""Keys for the other services of a storage account. The host of a function app needs them, and Palaver ignores them."""
STORAGE_KEYS = ("", *ADDRESS_KEYS, *HOST_KEYS, *IDENTITY_KEYS)
AI_KEYS = ("Endpoint", "Key", "ApiVersion", *IDENTITY_KEYS)

ACCOUNT_NAME = re.compile(r"[a-z0-9]{3,24}")
RESOURCE_PATH = re.compile(r"(/openai(/v1)?)?/*$", re.IGNORECASE)
"""The end of an endpoint's address that is not part of the resource's address."""
DEPLOYMENT_PATH = re.compile(r"/openai/deployments(/|$)", re.IGNORECASE)
"""Part of the address of a deployment, which is not that of its resource."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity that the server uses in Azure, for a connection without a key."""

    is_managed: bool = False
    """True for the managed identity of the machine, False for the one that DefaultAzureCredential finds."""
    client_id: str | None = None
    """The client id of a user-assigned managed identity."""
    resource_id: str | None = None
    """The resource id of a user-assigned managed identity. Without either id, it is the system-assigned one."""


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
    variable: str = field(default="", compare=False)
    """The variable that names the account, for errors about its identity."""


@dataclass(frozen=True, slots=True)
class AIConnection:
    """An endpoint that speaks OpenAI's protocol, and the key or the identity for it."""

    name: str
    base_url: str
    """The address that OpenAI's paths are relative to. With an API version, the Azure resource."""
    api_key: str | None = field(default=None, repr=False)
    identity: Identity | None = None
    api_version: str | None = None
    """A dated version of Azure OpenAI's older API, with deployments in its paths."""


def storage_connections(settings: Settings, environment: Mapping[str, str]) -> dict[str, Database | TableAccount]:
    """Returns the storage connections that callers may name; raises `SettingsError`."""
    return {name: storage_connection(name, settings, environment) for name in settings.storage_connections}


def storage_connection(name: str, settings: Settings, environment: Mapping[str, str]) -> Database | TableAccount:
    """Returns the storage connection with a name; raises `SettingsError`."""
    is_shared = _lists(settings.ai_connections, name)
    section = read_section(name, environment, STORAGE_KEYS, AI_KEYS if is_shared else ())
    identity_keys = () if is_shared else IDENTITY_KEYS  # a shared name may have its identity for the endpoint
    value = section[""]
    if value:
        check_alternatives(value, (section[key] for key in (*ADDRESS_KEYS, *identity_keys)))
        return _storage_value(value)
    if uri := _table_uri(section):
        variable = next(section[key].name for key in ADDRESS_KEYS if section[key])
        return TableAccount(uri=uri, identity=_identity(section, environment), variable=variable)
    if unused := [section[key] for key in (*HOST_KEYS, *identity_keys) if section[key]]:
        raise SettingsError(
            f"{names_of(unused)}: the storage connection {name} has no address: set {name}__tableServiceUri or "
            f"{name}__accountName"
        )
    if name == DEFAULT_STORAGE_CONNECTION:
        return Database(settings.data_dir / DATABASE_NAME)
    raise SettingsError(
        f"{name}: PALAVER_STORAGE_CONNECTIONS lists it, but it has no value: set it to a connection string or to "
        f'"sqlite:PATH", or set {name}__tableServiceUri or {name}__accountName'
    )


def _storage_value(variable: Variable) -> Database | TableAccount:
    if not variable.value.startswith("sqlite:"):
        return TableAccount(connection_string=variable.value)
    if path := variable.value.removeprefix("sqlite:"):
        return Database(Path(path))
    raise SettingsError(f'{variable.name}: write "sqlite:PATH"')


def _table_uri(section: Section) -> str:
    """Returns the address of the tables that a section has, or an empty text."""
    uri, account = (section[key] for key in ADDRESS_KEYS)
    if uri:
        parts = parse_url(uri)
        if parts is None:
            raise SettingsError(f"{uri.name}: must be an https:// URL with a host")
        # Without TLS, anybody on the network path could read the token.
        if parts.scheme != "https":
            raise SettingsError(f"{uri.name}: must begin with https://, not '{parts.scheme}://{parts.hostname}'")
        check_plain_url(uri)
    if not account:
        return uri.value
    if not ACCOUNT_NAME.fullmatch(account.value):
        raise SettingsError(
            f"{account.name}: must be the name of a storage account, which has 3 to 24 lower-case letters and digits"
        )
    address = f"https://{account.value}.table.core.windows.net"
    if uri and uri.value.rstrip("/") != address:
        raise SettingsError(f"{names_of([uri, account])}: set one of them")
    logger.warning("%s: conversations are stored in the tables at %s, with an identity", account.name, address)
    return address


def ai_connections(settings: Settings, environment: Mapping[str, str]) -> list[AIConnection]:
    """Returns the AI connections that callers may name; raises `SettingsError`."""
    return [ai_connection(name, settings, environment) for name in settings.ai_connections]


def ai_connection(name: str, settings: Settings, environment: Mapping[str, str]) -> AIConnection:
    """Returns the AI connection with a name; raises `SettingsError`."""
    if _lists((OPENAI, AZURE_OPENAI, OFFLINE), name):
        raise SettingsError(f"PALAVER_AI_CONNECTIONS: {name} is the name of a fallback; choose another one")
    is_shared = _lists(settings.storage_connections, name)
    section = read_section(name, environment, AI_KEYS, STORAGE_KEYS if is_shared else ())
    if not is_shared:
        check_alternatives(section["Key"], (section[key] for key in IDENTITY_KEYS))
    return _azure_openai(name, section, environment)


def fallback_connection(environment: Mapping[str, str]) -> AIConnection | None:
    """Returns the connection for requests that name none, or an unknown one; raises `SettingsError`."""
    key, base_url = (read_in_any_case(name, environment) for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"))
    if key:
        check_key(key)
        check_name(base_url, "OPENAI_API_BASE", environment)
        return AIConnection(OPENAI, _base_url(base_url) if base_url else OPENAI_URL, key.value)
    if base_url:
        raise SettingsError(
            f"{base_url.name}: needs {key.name}; set it to any value, such as "
            '"none", if the server at this address wants no key'
        )
    endpoint, key = (read_in_any_case(name, environment) for name in ("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_KEY"))
    identity = read_section(AZURE_OPENAI, environment, IDENTITY_KEYS)
    if endpoint:
        check_name(key, "AZURE_OPENAI_API_KEY", environment)
        check_alternatives(key, identity.values())
        return _azure_openai(
            AZURE_OPENAI, {**identity, "Endpoint": endpoint, "Key": key, "ApiVersion": Variable("")}, environment
        )
    if unused := list(filter(None, (key, *identity.values()))):
        raise SettingsError(f"{names_of(unused)}: needs {endpoint.name}")
    return None


def _base_url(variable: Variable) -> str:
    if parse_url(variable) is None:
        raise SettingsError(f"{variable.name}: must be an http:// or https:// URL with a host")
    check_base_url(variable)
    return variable.value


def _azure_openai(name: str, section: Section, environment: Mapping[str, str]) -> AIConnection:
    endpoint, key, api_version = section["Endpoint"], section["Key"], section["ApiVersion"]
    if parse_url(endpoint) is None:
        raise SettingsError(f"{endpoint.name}: the AI connection {name} needs the URL of its endpoint here")
    check_base_url(endpoint)
    check_key(key)
    resource = RESOURCE_PATH.sub("", endpoint.value)
    if DEPLOYMENT_PATH.search(resource):
        raise SettingsError(f"{endpoint.name}: must end before /openai/deployments, which the server appends")
    return AIConnection(
        name,
        base_url=resource if api_version else f"{resource}/openai/v1/",
        api_key=key.value or None,
        identity=None if key else _identity(section, environment),
        api_version=api_version.value or None,
    )


def _identity(section: Section, environment: Mapping[str, str]) -> Identity:
    kind, client_id, resource_id = (section[key] for key in IDENTITY_KEYS)
    if kind.value.lower() not in ("", MANAGED_IDENTITY):
        raise SettingsError(f'{kind.name}: must be "{MANAGED_IDENTITY}" or unset')
    check_alternatives(client_id, [resource_id])
    # The SDK would use the workload identity and ignore this one.
    if resource_id and environment.get("AZURE_FEDERATED_TOKEN_FILE"):
        raise SettingsError(
            f"{resource_id.name}: can't be used with a workload identity (AZURE_FEDERATED_TOKEN_FILE); set clientId"
        )
    return Identity(
        is_managed=bool(kind or resource_id),
        client_id=client_id.value or None,
        resource_id=resource_id.value or None,
    )


def _lists(names: Iterable[str], name: str) -> bool:
    return name.lower() in (listed.lower() for listed in names)
