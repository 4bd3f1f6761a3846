"""Several processes that share one port, each with its own event loop.

gRPC does not survive a fork, so the workers are spawned. The operating system distributes the connections among them
(SO_REUSEPORT).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import FrameType

from palaver_server.settings import Settings, SettingsError

logger = logging.getLogger(__name__)

CLOSING_TIMEOUT = 8.0
"""Seconds that a worker has to close its connections, after the grace period and after commits that are under way."""

SIGHUP = getattr(signal, "SIGHUP", None)
"""The signal to read files again, or None on Windows, which has no such signal."""


@dataclass(frozen=True, slots=True)
class WorkerLink:
    """A worker's ends of its connections with the supervisor."""

    ready: Connection
    """Takes True when the worker listens."""
    scrapes: Connection
    """Brings the requests for the worker's metrics."""
    is_first: bool
    """True for one of the workers, which speaks for all."""


Worker = Callable[[WorkerLink, Settings], None]

MetricsOfWorkers = Callable[[Settings, Sequence[Connection]], AbstractContextManager[None]]
"""Returns a block in which the metrics of workers are served, which the connections bring."""


def ignore_sighup() -> None:
    """Ignores SIGHUP, which would otherwise kill a process that does not handle it yet, or a worker of it."""
    if SIGHUP is not None:
        signal.signal(SIGHUP, signal.SIG_IGN)


def supervise(
    settings: Settings, run_worker: Worker, announce: Callable[[int], None], serve_metrics: MetricsOfWorkers
) -> None:
    """Runs the workers until SIGTERM or SIGINT, and announces the port once all of them listen. Passes on SIGHUP.

    When a worker dies, the others are stopped too and the program exits with status 1, so that a service manager
    restarts everything. Raises `SettingsError` if the port is taken.
    """
    with _reserve_port(settings.listen) as reserved:
        host, _, _ = settings.listen.rpartition(":")
        port = reserved.getsockname()[1]
        workers = _Workers(settings.model_copy(update={"listen": f"{host}:{port}"}), run_worker)
        # It may fail, which must not leave workers behind.
        with serve_metrics(settings, workers.scrapes):
            workers.start()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, workers.stop)
            if SIGHUP is not None:
                signal.signal(SIGHUP, workers.send)
            if workers.wait_until_ready():
                announce(port)
            exit_codes, expected = workers.wait_for_end()
    if any(code not in expected for code in exit_codes):
        logger.error("a worker ended unexpectedly; exit codes: %s", exit_codes)
        sys.exit(1)


class _Workers:
    """The worker processes."""

    def __init__(self, settings: Settings, run_worker: Worker) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes = [context.Pipe(duplex=False) for _ in range(settings.workers)]
        scrapes = [context.Pipe() for _ in range(settings.workers)]
        self.scrapes = [ours for ours, _ in scrapes]
        """The connections to ask the workers for their metrics."""
        self._links = [
            WorkerLink(ready, theirs, is_first=number == 0)
            for number, ((_, ready), (_, theirs)) in enumerate(zip(self._pipes, scrapes, strict=True))
        ]
        self._processes = [context.Process(target=run_worker, args=(link, settings)) for link in self._links]
        self._stop_timeout = settings.grace_period + settings.commit_timeout + CLOSING_TIMEOUT
        self._is_stopping = False
        self._stop_noticed, self._stop_notice = context.Pipe(duplex=False)

    def start(self) -> None:
        """Starts the processes."""
        for process in self._processes:
            process.start()
        for link in self._links:  # the workers have copies; if these stayed open, a death would not close the pipes
            link.ready.close()
            link.scrapes.close()

    def send(self, number: int, _frame: FrameType | None) -> None:
        """Passes a signal on to the workers."""
        for process in self._processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    def stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Stops the workers gracefully."""
        # Only once, because a second signal could kill a worker at the end of its graceful stop.
        if not self._is_stopping:
            self._is_stopping = True
            for process in self._processes:
                process.terminate()
            self._stop_notice.close()  # wakes what waits for the workers

    def wait_until_ready(self) -> bool:
        """Waits until all workers listen. Returns False if one of them died, or all are being stopped."""
        return all(self._is_ready(receiving) for receiving, _ in self._pipes)

    def _is_ready(self, receiving: Connection) -> bool:
        if self._stop_noticed in wait([receiving, self._stop_noticed]):
            return False
        try:
            return bool(receiving.recv())
        except EOFError:
            return False

    def wait_for_end(self) -> tuple[list[int | None], tuple[int, ...]]:
        """Waits until a worker ends, or `stop` was called, and then until all have ended.

        Returns the exit codes, and those that are expected. Kills the workers that do not stop in time.
        """
        wait([self._stop_noticed, *(process.sentinel for process in self._processes)])
        # A service manager may signal the workers too, some of them at the end of their stop.
        expected = (0, -signal.SIGTERM) if self._is_stopping else (0,)
        self.stop()
        deadline = time.monotonic() + self._stop_timeout
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in filter(lambda process: process.is_alive(), self._processes):
            logger.error("worker %s did not stop within %g s and is killed", process.pid, self._stop_timeout)
            process.kill()
            process.join()
        return [process.exitcode for process in self._processes], expected


def _reserve_port(listen: str) -> socket.socket:
    """Reserves the port, so that port 0 becomes one that all workers know. The socket itself never listens."""
    host, _, port = listen.rpartition(":")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # Without this exclusive bind first, another server that shares the port would go unnoticed.
        with socket.socket(family, kind, protocol) as exclusive:
            exclusive.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            exclusive.bind(address)
            address = exclusive.getsockname()
        reserved = socket.socket(family, kind, protocol)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(address)
    except OSError as error:
        raise SettingsError(f"PALAVER_LISTEN: can't listen on {listen}: {error.strerror}") from error
    return reserved
