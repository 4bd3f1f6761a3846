"""An OTLP receiver on a real socket, which keeps the spans and the metrics that servers export."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True)
class SpanSeen:
    """A span that was exported."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    is_error: bool
    description: str
    resource: dict[str, Any] = field(repr=False)
    raw: bytes = field(repr=False)


@dataclass
class Collector:
    """Everything that has arrived."""

    address: str
    spans: list[SpanSeen] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    """The latest state of each metric, as the exporter sent it."""
    raw: list[bytes] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def variables(self) -> dict[str, str]:
        """The variables of a server that exports here, soon after each span."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{self.address}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_BSP_SCHEDULE_DELAY": "20",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
        }

    async def span(self, is_it: Callable[[SpanSeen], bool]) -> SpanSeen:
        """Waits for a span and returns it."""
        async with self._changed:
            await self._changed.wait_for(lambda: any(map(is_it, self.spans)))
        return next(filter(is_it, self.spans))

    async def named(self, name: str) -> SpanSeen:
        """Waits for a span with a name and returns it."""
        return await self.span(lambda span: span.name == name)

    async def metric(self, name: str) -> Any:
        """Waits for a metric and returns it."""
        async with self._changed:
            await self._changed.wait_for(lambda: name in self.metrics)
        return self.metrics[name]

    async def received(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class _Traces(TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    async def Export(self, request: trace_pb.ExportTraceServiceRequest, context: Any) -> Any:  # noqa: N802
        self._collector.raw.append(request.SerializeToString())
        for of_resource in request.resource_spans:
            resource = _attributes(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                self._collector.spans += [_seen(span, resource) for span in of_scope.spans]
        await self._collector.received()
        return trace_pb.ExportTraceServiceResponse()


class _Metrics(MetricsServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    async def Export(self, request: metrics_pb.ExportMetricsServiceRequest, context: Any) -> Any:  # noqa: N802
        self._collector.raw.append(request.SerializeToString())
        for of_resource in request.resource_metrics:
            for of_scope in of_resource.scope_metrics:
                self._collector.metrics |= {metric.name: metric for metric in of_scope.metrics}
        await self._collector.received()
        return metrics_pb.ExportMetricsServiceResponse()


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """Receives on a free port until the end of the block."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port("127.0.0.1:0")
    running = Collector(f"127.0.0.1:{port}")
    add_TraceServiceServicer_to_server(_Traces(running), server)
    add_MetricsServiceServicer_to_server(_Metrics(running), server)
    await server.start()
    try:
        yield running
    finally:
        await server.stop(None)


def _seen(span: trace_pb2.Span, resource: dict[str, Any]) -> SpanSeen:
    return SpanSeen(
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_attributes(span.attributes),
        is_error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        description=span.status.message,
        resource=resource,
        raw=span.SerializeToString(),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue | AnyValue) -> Any:
    value = pair.value if isinstance(pair, KeyValue) else pair
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return None if kind is None else getattr(value, kind)
