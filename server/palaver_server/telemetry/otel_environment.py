"""The standard variables of OpenTelemetry that say which signals are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

EXTRA = "palaver[otel]"


@dataclass(frozen=True, slots=True)
class Signals:
    """The signals that are exported, by the names of their exporters."""

    traces: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Signals:
        """Reads `OTEL_TRACES_EXPORTER` and `OTEL_METRICS_EXPORTER`.

        The specification's default is OTLP. Here it applies only if an endpoint for it is set, because a server without
        a collector should not look for one.
        """
        if is_disabled(environment):
            return cls()
        return cls(_exporters("TRACES", environment), _exporters("METRICS", environment))

    def __bool__(self) -> bool:
        return bool(self.traces or self.metrics)


def is_disabled(environment: Mapping[str, str]) -> bool:
    """Returns whether OpenTelemetry is switched off as a whole."""
    return environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def _exporters(signal: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    named = environment.get(f"OTEL_{signal}_EXPORTER", "").strip()
    if not named:
        has_endpoint = any(
            environment.get(name, "").strip()
            for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
        )
        named = "otlp" if has_endpoint else "none"
    return tuple(name for part in named.split(",") if (name := part.strip().lower()) not in ("", "none"))
