"""Choosing telemetry: OpenTelemetry if the settings or the standard variables ask for it, and always the logs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from palaver_server.connections import AIConnection
from palaver_server.settings import Settings, SettingsError
from palaver_server.telemetry.endpoints import Endpoint
from palaver_server.telemetry.otel_environment import EXTRA, Signals
from palaver_server.telemetry.telemetry import Telemetry

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

logger = logging.getLogger(__name__)

AZURE_HOSTS = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
DEFAULT_PORTS = {"http": 80, "https": 443}


@asynccontextmanager
async def chosen_telemetry(
    settings: Settings,
    environment: Mapping[str, str],
    connections: Iterable[AIConnection],
    registry: CollectorRegistry | None,
) -> AsyncIterator[Telemetry]:
    """Yields the telemetry of a server. A registry gets its metrics. Raises `SettingsError`."""
    signals = Signals.of(environment)
    if not signals and registry is None:
        yield Telemetry()
        return
    try:
        from palaver_server.telemetry.otel import ExporterError, open_telemetry  # noqa: PLC0415 - an extra
    except ImportError:
        # The standard variables may be meant for other programs of the machine.
        logger.warning("OpenTelemetry is configured, but %s is not installed: nothing is exported", EXTRA)
        yield Telemetry()
        return
    endpoints = {connection.name: _endpoint(connection) for connection in connections}
    try:
        async with open_telemetry(signals, endpoints, settings.default_chat_model, registry) as telemetry:
            yield telemetry
    except ExporterError as error:
        raise SettingsError(str(error)) from error


def _endpoint(connection: AIConnection) -> Endpoint:
    parts = urlsplit(connection.base_url)
    host = parts.hostname or ""
    is_azure = connection.api_version is not None or host.endswith(AZURE_HOSTS)
    return Endpoint(
        "azure.ai.openai" if is_azure else "openai", host, parts.port or DEFAULT_PORTS.get(parts.scheme, 443)
    )
