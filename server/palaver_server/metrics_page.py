"""The page of PALAVER_METRICS_LISTEN: which process serves it, and with what. Its library belongs to an extra."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from palaver_server.settings import Settings, SettingsError
from palaver_server.telemetry.otel_environment import EXTRA, is_disabled

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


@contextmanager
def metrics_page(settings: Settings) -> Iterator[CollectorRegistry | None]:
    """Serves the page of a server with one process, and yields its registry. Raises `SettingsError`."""
    registry = _new_registry(settings)
    with _serving(settings, registry):
        yield registry


@contextmanager
def metrics_page_of_workers(settings: Settings, workers: Sequence[Connection]) -> Iterator[None]:
    """Serves one page for all workers, from the supervisor. Raises `SettingsError`."""
    registry = _new_registry(settings)
    if registry is not None:
        from palaver_server.telemetry.prometheus_page import PagesOfWorkers  # noqa: PLC0415 - an extra

        registry.register(PagesOfWorkers(workers))
    with _serving(settings, registry):
        yield


def registry_of_worker(settings: Settings, scrapes: Connection) -> CollectorRegistry | None:
    """Returns the registry of a worker, from which it answers the supervisor."""
    registry = _new_registry(settings)
    if registry is not None:
        from palaver_server.telemetry.prometheus_page import answer_scrapes  # noqa: PLC0415 - an extra

        answer_scrapes(registry, scrapes)
    return registry


@contextmanager
def _serving(settings: Settings, registry: CollectorRegistry | None) -> Iterator[None]:
    if registry is None or settings.metrics_listen is None:
        yield
        return
    from palaver_server.telemetry.prometheus_page import PageError, serving_page  # noqa: PLC0415 - an extra

    try:
        with serving_page(settings.metrics_listen, registry):
            yield
    except PageError as error:
        raise SettingsError(f"PALAVER_METRICS_LISTEN: {error}") from error


def _new_registry(settings: Settings) -> CollectorRegistry | None:
    if settings.metrics_listen is None:
        return None
    if is_disabled(os.environ):
        raise SettingsError("PALAVER_METRICS_LISTEN: there are no metrics, because OTEL_SDK_DISABLED is true")
    try:
        from prometheus_client import CollectorRegistry  # noqa: PLC0415 - an extra

        from palaver_server.telemetry import otel  # noqa: F401, PLC0415 - an extra
    except ImportError:
        raise SettingsError(f"PALAVER_METRICS_LISTEN: needs {EXTRA}, which is not installed") from None
    # Without the collectors that describe the Python process.
    return CollectorRegistry()
