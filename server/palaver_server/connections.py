"""Storage and AI connections, by the names that the Azure Functions extension uses.

`<NAME>` or `<NAME>__<key>` is read from the environment for the names that the settings list, and for no other: a
caller must not be able to make the server read a variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from palaver_server.settings import Settings, SettingsError

DEFAULT_STORAGE = "AzureWebJobsStorage"
DATABASE_NAME = "palaver.db"


@dataclass(frozen=True, slots=True)
class AIConnection:
    """An endpoint and its key."""

    name: str
    api_key: str
    base_url: str | None


def storage_connections(settings: Settings, environment: Mapping[str, str]) -> dict[str, Path]:
    """Returns the database file of each storage connection; raises `SettingsError`."""
    return {name: _database(name, settings, environment) for name in settings.storage_connections}


def _database(name: str, settings: Settings, environment: Mapping[str, str]) -> Path:
    value = environment.get(name, "")
    if value.startswith("sqlite:"):
        if path := value.removeprefix("sqlite:"):
            return Path(path)
        raise SettingsError(f'{name}: write "sqlite:PATH"')
    if value or environment.get(f"{name}__tableServiceUri"):
        raise SettingsError(
            f'{name}: this version does not have Azure Table Storage yet; use "sqlite:PATH" or unset it'
        )
    if name == DEFAULT_STORAGE:
        return settings.data_dir / DATABASE_NAME
    raise SettingsError(f'{name}: PALAVER_STORAGE_CONNECTIONS lists it, but it has no value; use "sqlite:PATH"')


def ai_connections(settings: Settings, environment: Mapping[str, str]) -> list[AIConnection]:
    """Returns the AI connections that callers may name; raises `SettingsError`."""
    return [_azure(name, f"{name}__Endpoint", f"{name}__Key", environment) for name in settings.ai_connections]


def fallback_connection(environment: Mapping[str, str]) -> AIConnection | None:
    """Returns what serves the requests that name no AI connection, or an unknown one; raises `SettingsError`."""
    if key := environment.get("OPENAI_API_KEY"):
        return AIConnection("OPENAI", key, environment.get("OPENAI_BASE_URL") or None)
    if environment.get("AZURE_OPENAI_ENDPOINT"):
        return _azure("AZURE_OPENAI", "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_KEY", environment)
    return None


def _azure(name: str, endpoint_variable: str, key_variable: str, environment: Mapping[str, str]) -> AIConnection:
    endpoint = environment.get(endpoint_variable, "")
    if not endpoint.startswith(("https://", "http://")):
        raise SettingsError(f"{endpoint_variable}: the AI connection {name} needs the URL of its endpoint here")
    key = environment.get(key_variable)
    if not key:
        raise SettingsError(f"{key_variable}: this version does not have managed identity yet; set a key")
    return AIConnection(name, key, f"{endpoint.rstrip('/')}/openai/v1/")
