"""The settings in effect, as operators may see them: without keys, tokens and connection strings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from urllib.parse import urlsplit

from palaver_server.connections import OFFLINE, OPENAI, AIConnection, Database, TableAccount
from palaver_server.domain.administration import ConnectionKind, ServerConnection, ServerSetting, ServerSettings
from palaver_server.domain.conversation import DEFAULT_STORAGE_CONNECTION
from palaver_server.domain.ports import Store
from palaver_server.domain.redaction import redacted
from palaver_server.settings import Settings

CONNECTION_LISTS = ("storage_connections", "ai_connections")
"""The settings that are left out, because the connections themselves are listed."""

FALLBACK_KINDS = {OPENAI: ConnectionKind.OPENAI, OFFLINE: ConnectionKind.OFFLINE}
"""The kinds of the fallbacks. All other AI connections lead to resources of Azure OpenAI."""


def effective_settings(
    settings: Settings,
    storage_connections: Mapping[str, Database | TableAccount],
    stores: Mapping[str, Store],
    ai_connections: Iterable[AIConnection],
    fallback: AIConnection | None,
) -> ServerSettings:
    """Returns the settings of a server and its connections, whose stores are open."""
    names = sorted(Settings.model_fields.keys() - {*CONNECTION_LISTS})
    return ServerSettings(
        settings=tuple(_setting(settings, name) for name in names),
        storage_connections=tuple(
            ServerConnection(
                name,
                ConnectionKind.SQLITE if isinstance(connection, Database) else ConnectionKind.AZURE_TABLES,
                stores[name].location,
                is_default=name == DEFAULT_STORAGE_CONNECTION,
            )
            for name, connection in storage_connections.items()
        ),
        ai_connections=tuple(
            ServerConnection(
                connection.name,
                FALLBACK_KINDS.get(connection.name, ConnectionKind.AZURE_OPENAI),
                _host(connection.base_url),
                is_default=connection is fallback,
            )
            for connection in ai_connections
        ),
    )


def _setting(settings: Settings, name: str) -> ServerSetting:
    value = getattr(settings, name)
    is_default = value == Settings.model_fields[name].get_default()
    return ServerSetting(f"PALAVER_{name.upper()}", redacted(_text(value)), is_default)


def _text(value: object) -> str:
    """Returns a value in the form that its variable takes."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            return str(int(value) if value.is_integer() else value)
        case Enum():
            return str(value.value)
        case tuple():
            return ",".join(map(str, value))
        case _:
            return str(value)


def _host(url: str) -> str:
    """Returns the host of an address, with its port unless it is the usual one. A user name in it is left out."""
    return urlsplit(url).netloc.rpartition("@")[2]
