"""Several processes that share one port, each with its own event loop.

gRPC does not survive a fork, so the workers are spawned. The operating system distributes the connections among them
(SO_REUSEPORT).
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from types import FrameType

from palaver_server.settings import Settings, SettingsError

logger = logging.getLogger(__name__)

Worker = Callable[[Settings, Connection], None]


def supervise(settings: Settings, run_worker: Worker, announce: Callable[[int], None]) -> None:
    """Runs the workers until SIGTERM or SIGINT, and announces the port once all of them listen.

    When a worker dies, the others are stopped too and the program exits with status 1, so that a service manager
    restarts everything. Raises `SettingsError` if the port is taken.
    """
    context = multiprocessing.get_context("spawn")
    with _reserve_port(settings.listen) as reserved:
        host, _, _ = settings.listen.rpartition(":")
        port = reserved.getsockname()[1]
        settings = settings.model_copy(update={"listen": f"{host}:{port}"})
        pipes = [context.Pipe(duplex=False) for _ in range(settings.workers)]
        processes = [context.Process(target=run_worker, args=(settings, sending)) for _, sending in pipes]

        is_stopping = False

        def stop(_number: int = 0, _frame: FrameType | None = None) -> None:
            # Only once, because a second signal could kill a worker at the end of its graceful stop.
            nonlocal is_stopping
            if not is_stopping:
                is_stopping = True
                for process in processes:
                    process.terminate()

        for process in processes:
            process.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        for _, sending in pipes:
            sending.close()  # the worker has a copy; if this one stayed open, its death would not close the pipe
        if all(_is_ready(receiving) for receiving, _ in pipes):
            announce(port)
        wait([process.sentinel for process in processes])
        # A service manager may signal the workers too, some of them at the end of their stop.
        expected = (0, -signal.SIGTERM) if is_stopping else (0,)
        stop()
        for process in processes:
            process.join()
    if any(process.exitcode not in expected for process in processes):
        logger.error("a worker ended unexpectedly; exit codes: %s", [process.exitcode for process in processes])
        sys.exit(1)


def _is_ready(receiving: Connection) -> bool:
    try:
        return bool(receiving.recv())
    except EOFError:
        return False


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
