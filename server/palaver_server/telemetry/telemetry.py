"""The parts of telemetry that the rest of the server takes. OpenTelemetry adds its own if it is on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from palaver_server.api.service import Call
from palaver_server.domain.ports import TraceHeaders, no_trace_headers
from palaver_server.domain.stages import Observer
from palaver_server.telemetry.refusal_log import RefusalLog
from palaver_server.telemetry.stores import LoggedCalls, StoreCalls
from palaver_server.telemetry.turn_log import TurnLog
from palaver_server.telemetry.turn_records import TurnListener, TurnRecorder


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The parts that observe the server. By default, these are the logs."""

    listeners: tuple[TurnListener, ...] = ()
    """Told of turns before the log is."""
    interceptors: tuple[Callable[[Call], AbstractAsyncContextManager[None]], ...] = ()
    """Put around every call, outside of those that authenticate."""
    store_calls: Callable[[str], StoreCalls] = LoggedCalls
    """Returns what observes the calls of the storage connection with a name."""
    trace_headers: TraceHeaders = no_trace_headers
    watch_readiness: Callable[[Callable[[], bool]], None] = lambda _is_ready: None
    """Takes a function that returns whether turns could run."""
    refusals: RefusalLog = field(default_factory=RefusalLog)

    def observer(self) -> Observer:
        """Returns the observer of turns."""
        return TurnRecorder((*self.listeners, TurnLog()))
