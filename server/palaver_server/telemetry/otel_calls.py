"""Calls of the API and of stores, as spans and as durations."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from types import TracebackType

from opentelemetry.metrics import Histogram
from opentelemetry.trace import SpanKind, Tracer, use_span

from palaver_server.api.service import Call
from palaver_server.api.statuses import status_name
from palaver_server.domain.errors import StoreError
from palaver_server.telemetry.causes import cause_of
from palaver_server.telemetry.otel_metrics import Attributes
from palaver_server.telemetry.otel_spans import PROPAGATOR, fail
from palaver_server.telemetry.stores import EXPECTED, LoggedCall
from palaver_server.telemetry.turn_records import reason_of

FAULTS_OF_SERVER = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
"""The statuses that the conventions count as errors of a server. The others are those of a caller."""


class ObservedCalls:
    """The interceptor that observes the calls of the API."""

    def __init__(self, tracer: Tracer, durations: Histogram) -> None:
        self._tracer = tracer
        self._durations = durations

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Puts a span around a call, as part of the caller's trace if it sent one."""
        method = call.method.removeprefix("/")
        attributes: Attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        headers = {name: call.metadata[name] for name in PROPAGATOR.fields if isinstance(call.metadata.get(name), str)}
        span = self._tracer.start_span(method, PROPAGATOR.extract(headers), SpanKind.SERVER, attributes)
        began_at = time.monotonic()
        error: BaseException | None = None
        try:
            with use_span(span, record_exception=False, set_status_on_exception=False):
                yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            status = attributes["rpc.response.status_code"] = status_name(error)
            if call.caller.name:
                span.set_attribute("palaver.caller", call.caller.name)
            if status in FAULTS_OF_SERVER:
                attributes["error.type"] = reason_of(error)
                fail(span, reason_of(error))
            span.set_attribute("rpc.response.status_code", status)
            span.end()
            self._durations.record(time.monotonic() - began_at, attributes)


class ObservedStoreCalls:
    """`StoreCalls` with spans and durations."""

    def __init__(self, connection: str, tracer: Tracer, durations: Histogram) -> None:
        """Takes the name of the storage connection."""
        self._connection = connection
        self._tracer = tracer
        self._durations = durations

    def observe(self, operation: str) -> AbstractContextManager[None]:
        """Returns a block around a call."""
        return _StoreCall(self._connection, operation, self._tracer, self._durations)


class _StoreCall(LoggedCall):
    """A block around a call of a store."""

    __slots__ = ("_attributes", "_durations", "_scope", "_span")

    def __init__(self, connection: str, operation: str, tracer: Tracer, durations: Histogram) -> None:
        super().__init__(connection, operation)
        self._durations = durations
        self._attributes: Attributes = {"palaver.store.connection": connection, "palaver.store.operation": operation}
        self._span = tracer.start_span(f"{operation} {connection}", kind=SpanKind.CLIENT, attributes=self._attributes)
        self._scope = use_span(self._span, record_exception=False, set_status_on_exception=False)

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._scope.__exit__(None, None, None)
        if isinstance(error, StoreError) and not isinstance(error, EXPECTED):
            self._attributes["error.type"] = error.reason
            fail(self._span, error.reason, cause_of(error))
        self._span.end()
        self._durations.record(self.seconds, self._attributes)
        super().__exit__(kind, error, traceback)
