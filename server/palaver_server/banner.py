"""The lines that a server logs at its start: its address, its callers, and everything that it depends on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version

from palaver_server.connections import AIConnection, Database, TableAccount
from palaver_server.domain.log_fields import fields
from palaver_server.domain.ports import Store
from palaver_server.settings import Settings
from palaver_server.skills.grpc_hosts import GrpcSkillHost

logger = logging.getLogger("palaver_server")


def log_start(
    settings: Settings,
    storage: Mapping[str, Database | TableAccount],
    stores: Mapping[str, Store],
    models: Sequence[AIConnection],
    fallback: AIConnection | None,
    hosts: Iterable[GrpcSkillHost],
) -> None:
    """Logs the start of a server, in a line for the server and one for each thing that it depends on."""
    logger.info(
        "palaver-server starts",
        extra=fields(
            version=version("palaver"),
            listen=settings.listen,
            tls=_tls(settings),
            callers=f"those in {settings.callers}" if settings.callers else "everyone",
            workers=settings.workers,
            metrics=settings.metrics_listen,
        ),
    )
    for name, connection in storage.items():
        kind = "SQLite" if isinstance(connection, Database) else "tables"
        logger.info("storage connection", extra=fields(name=name, kind=kind, location=stores[name].location))
    for model in models:
        logger.info(
            "AI connection",
            extra=fields(
                name=model.name,
                endpoint=model.base_url,
                credentials="key" if model.api_key else "identity",
                default="yes" if model is fallback else "no",
            ),
        )
    for host in hosts:
        names = ", ".join(skill.name for skill in host.offered())
        logger.info(
            "skill host",
            extra=fields(host=host.name, available="yes" if host.is_available else "no", skills=names or "none"),
        )


def _tls(settings: Settings) -> str:
    if settings.tls_certificate is None:
        return "off"
    return "on" if settings.tls_client_ca is None else "on, with client certificates"
