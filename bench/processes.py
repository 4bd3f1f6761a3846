"""The processes: the servers that are measured, and the endpoint."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

STORE_TIMEOUT = 60


@dataclass(frozen=True)
class Measured:
    """A process that listens."""

    name: str
    target: str
    process: psutil.Process

    def cpu(self) -> float:
        """Returns the CPU seconds since the start, user and system."""
        if sys.platform == "linux":
            # The clock of clock_getcpuclockid(3) counts nanoseconds. psutil counts hundredths of a second, and a single
            # paced stream uses only a few of these.
            return time.clock_gettime(~self.process.pid << 3 | 2)
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def memory(self) -> int:
        """Returns the resident memory in bytes."""
        return int(self.process.memory_info().rss)


@contextmanager
def started(name: str, *command: str, **environment: str) -> Iterator[Measured]:
    """Runs a Python module for the time of the block. The first line of its output ends with its address."""
    # The settings of the environment must not affect the benchmark.
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(("PALAVER_", "OPENAI_", "OTEL_"))
    }
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the log is written, as it is anywhere
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        yield Measured(name, line.split()[-1], psutil.Process(process.pid))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def endpoint() -> Iterator[Measured]:
    """Runs the endpoint."""
    with started("endpoint", "bench.endpoint") as running:
        yield running


@contextmanager
def echo() -> Iterator[Measured]:
    """Runs the bare echo."""
    with started("bare echo", "bench.echo") as running:
        yield running


@contextmanager
def typed(upstream: Measured, folder: Path) -> Iterator[Measured]:
    """Runs Palaver with the typed stream of the SDK."""
    with started("typed stream", "bench.typed", f"http://{upstream.target}/v1", str(folder)) as running:
        yield running


@contextmanager
def collector() -> Iterator[Measured]:
    """Runs a receiver of telemetry."""
    with started("collector", "bench.collector") as running:
        yield running


def telemetry(receiver: Measured) -> dict[str, str]:
    """Returns the variables of a server that exports spans and metrics, and serves a page of metrics."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{receiver.target}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "PALAVER_METRICS_LISTEN": "127.0.0.1:0",
    }


@contextmanager
def palaver(upstream: Measured, folder: Path, name: str = "Palaver", **variables: str) -> Iterator[Measured]:
    """Runs the server as an operator would."""
    command = ("palaver_server", "--listen", "127.0.0.1:0", "--data-dir", str(folder))
    # A shared disk that stalls is not what is measured.
    environment = {
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": f"http://{upstream.target}/v1",
        "PALAVER_STORE_TIMEOUT": str(STORE_TIMEOUT),
        **variables,
    }
    with started(name, *command, **environment) as running:
        yield running
