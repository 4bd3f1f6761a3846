"""The program `palaver-server`: it reads the settings, serves, and stops gracefully."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from palaver_server import failpoints
from palaver_server.app import application
from palaver_server.callers.config import BLOCK_NAME, BLOCK_NAME_RULE
from palaver_server.callers.keys import digest_of, new_key
from palaver_server.domain.stages import Observer
from palaver_server.exposure import check_exposure
from palaver_server.failpoints import Failpoint
from palaver_server.logs import exit_with, log_to_stderr
from palaver_server.settings import Settings, SettingsError, load, unknown_variables
from palaver_server.workers import SIGHUP, ignore_sighup, supervise

if sys.platform == "win32":
    run = asyncio.run
else:
    from uvloop import run

logger = logging.getLogger("palaver_server")

KEYGEN = "keygen"
"""The subcommand that makes a key for a caller."""


def main() -> None:
    """Runs the server until SIGTERM or SIGINT."""
    log_to_stderr()
    set_on_retry_hooks([_log_retry])  # stamina's default hook does not log the error
    ignore_sighup()
    try:
        if sys.argv[1:2] == [KEYGEN]:
            print(new_caller(sys.argv[2:]))  # noqa: T201 - the output of this command
            return
        settings = load(sys.argv[1:])
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
            supervise(settings, run_worker, announce)
        else:
            run(serve(settings, announce, observers))
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


def run_worker(settings: Settings, ready: Connection) -> None:
    """Runs a worker process, until the supervisor stops it or dies. Sends True to `ready` when it listens."""
    log_to_stderr()
    set_on_retry_hooks([_log_retry])  # stamina's default hook does not log the error
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the supervisor, which then stops the workers

    def announce(_port: int) -> None:
        ready.send(True)
        ready.close()

    try:
        run(serve(settings, announce, _observers(), shares_port=True))
    except SettingsError as error:
        exit_with(str(error))


async def serve(
    settings: Settings, announce: Callable[[int], None], observers: tuple[Observer, ...], *, shares_port: bool = False
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
    async with application(settings, os.environ, observers=observers, shares_port=shares_port) as running:
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


def _log_retry(details: RetryDetails) -> None:
    error = details.caused_by
    logger.warning("%s: %s; retry %d in %.1f s", type(error).__name__, error, details.retry_num, details.wait_for)


if __name__ == "__main__":
    main()
