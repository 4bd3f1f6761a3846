"""The program `palaver-server`: it reads the settings, serves, and stops gracefully."""

from __future__ import annotations

# isort: off
from palaver_server import quiet_grpc  # noqa: F401 - before anything imports gRPC

# isort: on
import asyncio
import gc
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from palaver_server import failpoints
from palaver_server.app import application
from palaver_server.callers.config import BLOCK_NAME, BLOCK_NAME_RULE
from palaver_server.callers.keys import digest_of, new_key
from palaver_server.checks.command import check
from palaver_server.domain.stages import Observer
from palaver_server.exposure import check_exposure
from palaver_server.failpoints import Failpoint
from palaver_server.logs import exit_with, log_to_stderr
from palaver_server.metrics_page import metrics_page, metrics_page_of_workers, registry_of_worker
from palaver_server.settings import Settings, SettingsError, load, unknown_variables
from palaver_server.telemetry.retry_log import log_retries
from palaver_server.workers import SIGHUP, WorkerLink, ignore_sighup, supervise

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

if sys.platform == "win32":
    run = asyncio.run
else:
    from uvloop import run

logger = logging.getLogger("palaver_server")

KEYGEN = "keygen"
"""The subcommand that makes a key for a caller."""
CHECK = "check"
"""The subcommand that tries what a server with these settings would need."""


def main() -> None:
    """Runs the server until SIGTERM or SIGINT."""
    log_to_stderr()
    log_retries()
    ignore_sighup()
    try:
        if sys.argv[1:2] == [KEYGEN]:
            print(new_caller(sys.argv[2:]))  # noqa: T201 - the output of this command
            return
        if sys.argv[1:2] == [CHECK]:
            check(sys.argv[2:])
        settings = load(sys.argv[1:])
        log_to_stderr(settings.log_level, settings.log_format)
        if warning := check_exposure(settings):
            logger.warning("%s", warning)
        observers = _observers()
        for name in unknown_variables(os.environ):
            logger.warning("%s is not a setting of this server", name)

        def announce(port: int) -> None:
            host, _, number = settings.listen.rpartition(":")
            address = f"{host}:{port}" if number.isdigit() else settings.listen
            print(f"palaver-server listening on {address}", flush=True)  # noqa: T201 - scripts wait for this line

        if settings.workers > 1:
            supervise(settings, run_worker, announce, metrics_page_of_workers)
        else:
            with metrics_page(settings) as registry:
                run(serve(settings, announce, observers, registry=registry, logs_start=True))
    except SettingsError as error:
        exit_with(str(error))


def new_caller(arguments: Sequence[str]) -> str:
    """Returns a new key and the block for its caller; raises `SettingsError`."""
    if len(arguments) != 1 or not BLOCK_NAME.fullmatch(arguments[0]):
        raise SettingsError(f"{KEYGEN}: give the name of the caller: {BLOCK_NAME_RULE}")
    key = new_key()
    return (
        f"The key, which is not kept anywhere:\n\n{key}\n\n"
        "The block for the file that PALAVER_CALLERS names:\n\n"
        f'[callers.{arguments[0]}]\nkey_sha256 = ["{digest_of(key).hex()}"]'
    )


def run_worker(link: WorkerLink, settings: Settings) -> None:
    """Runs a worker process, until the supervisor stops it or dies. Says to the supervisor when it listens."""
    log_to_stderr(settings.log_level, settings.log_format)
    log_retries()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the supervisor, which then stops the workers

    def announce(_port: int) -> None:
        link.ready.send(True)
        link.ready.close()

    try:
        registry = registry_of_worker(settings, link.scrapes)
        run(serve(settings, announce, _observers(), shares_port=True, registry=registry, logs_start=link.is_first))
    except SettingsError as error:
        exit_with(str(error))


async def serve(
    settings: Settings,
    announce: Callable[[int], None],
    observers: tuple[Observer, ...],
    *,
    shares_port: bool = False,
    registry: CollectorRegistry | None = None,
    logs_start: bool = False,
) -> None:
    """Serves until SIGTERM or SIGINT, and then stops gracefully."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    supervisor = multiprocessing.parent_process()
    if supervisor is None:
        loop.add_signal_handler(signal.SIGINT, stopping.set)
    else:
        loop.add_reader(supervisor.sentinel, stopping.set)
    async with application(
        settings, os.environ, observers=observers, shares_port=shares_port, registry=registry, logs_start=logs_start
    ) as running:
        # Everything loaded so far stays alive, and garbage collections that visit it block the event loop. At 160
        # cancelled calls a second, they kept 1 in 100 model calls open for 49 ms after the cancel; without them, 8 ms.
        gc.collect()
        gc.freeze()
        if SIGHUP is not None:
            loop.add_signal_handler(SIGHUP, running.reload_soon)
        announce(running.port)
        await stopping.wait()
        await running.stop(settings.grace_period)


def _observers() -> tuple[Observer, ...]:
    """Returns the observers of turns that the environment configures."""
    value = os.environ.get(failpoints.VARIABLE)
    if not value:
        return ()
    try:
        failpoint = Failpoint.parse(value)
    except ValueError as error:
        raise SettingsError(f"{failpoints.VARIABLE}: {error}") from error
    logger.warning("%s is set: this server will kill itself", failpoints.VARIABLE)
    return (failpoint,)


if __name__ == "__main__":
    main()
