"""OpenTelemetry: the providers of spans and metrics with their exporters, and the parts that use them.

The providers belong to the server that is started and not to the process, so nothing here is global.
"""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from importlib.metadata import entry_points, version
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NoOpTracerProvider
from prometheus_client import CollectorRegistry

from palaver_server.domain.ports import no_trace_headers
from palaver_server.telemetry.endpoints import Endpoint
from palaver_server.telemetry.otel_calls import ObservedCalls, ObservedStoreCalls
from palaver_server.telemetry.otel_environment import Signals
from palaver_server.telemetry.otel_metrics import Metrics
from palaver_server.telemetry.otel_spans import TurnSpans, trace_headers
from palaver_server.telemetry.telemetry import Telemetry

logger = logging.getLogger(__name__)

SERVICE = "palaver-server"
FLUSH_TIMEOUT = 5.0
"""Seconds that exporting what is left may take when the server stops."""

PROTOCOLS = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
DEFAULT_PROTOCOL = "grpc"


class ExporterError(Exception):
    """An exporter can't be used. The text names the variable and says why."""


@asynccontextmanager
async def open_telemetry(
    signals: Signals,
    endpoints: Mapping[str, Endpoint],
    default_model: str,
    registry: CollectorRegistry | None = None,
) -> AsyncIterator[Telemetry]:
    """Yields telemetry with spans and metrics, and exports what is left at the end. Raises `ExporterError`.

    `endpoints` has those of the AI connections by name. A registry gets the metrics for Prometheus.
    """
    resource = _resource()
    tracers = _tracer_provider(signals, resource)
    meters = _meter_provider(signals, resource, registry)
    tracer = (tracers or NoOpTracerProvider()).get_tracer(SERVICE)
    metrics = Metrics((meters or NoOpMeterProvider()).get_meter(SERVICE), endpoints, default_model)
    calls = ObservedCalls(tracer, metrics.calls)
    try:
        yield Telemetry(
            listeners=(TurnSpans(tracer, endpoints), metrics),
            interceptors=(calls.around,),
            store_calls=lambda name: ObservedStoreCalls(name, tracer, metrics.store_calls),
            trace_headers=trace_headers if tracers else no_trace_headers,
            watch_readiness=metrics.watch_readiness,
        )
    finally:
        for provider in (tracers, meters):
            if provider is not None:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(asyncio.to_thread(provider.shutdown), FLUSH_TIMEOUT)


def _resource() -> Resource:
    """Returns the resource of this process. What the standard variables say comes first."""
    found = Resource.create()
    name = str(found.attributes.get("service.name", ""))
    own: dict[str, str] = {"service.version": version("palaver"), "service.instance.id": str(uuid.uuid4())}
    if not name or name.startswith("unknown_service"):
        return found.merge(Resource({**own, "service.name": SERVICE}))
    return Resource(own).merge(found)


def _tracer_provider(signals: Signals, resource: Resource) -> TracerProvider | None:
    if not signals.traces:
        return None
    provider = TracerProvider(resource=resource)
    for name in signals.traces:
        provider.add_span_processor(BatchSpanProcessor(_exporter("traces", name)))
    return provider


def _meter_provider(signals: Signals, resource: Resource, registry: CollectorRegistry | None) -> MeterProvider | None:
    readers: list[MetricReader] = [
        PeriodicExportingMetricReader(_exporter("metrics", name)) for name in signals.metrics
    ]
    if registry is not None:
        readers.append(PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False, registry=registry))
    return MeterProvider(metric_readers=readers, resource=resource) if readers else None


def _exporter(signal: str, name: str) -> Any:
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    if name == "prometheus":
        raise ExporterError(f"{variable}: set PALAVER_METRICS_LISTEN to serve metrics for Prometheus")
    wanted = name
    if name == "otlp":
        specific, general = f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"
        variable = specific if os.environ.get(specific) else general
        protocol = os.environ.get(variable) or DEFAULT_PROTOCOL
        if protocol not in PROTOCOLS:
            raise ExporterError(f"{variable}: must be {' or '.join(PROTOCOLS)}, not {protocol!r}")
        wanted = PROTOCOLS[protocol]
    for found in entry_points(group=f"opentelemetry_{signal}_exporter", name=wanted):
        return found.load()()
    raise ExporterError(f"{variable}: no exporter named {name!r} is installed")
