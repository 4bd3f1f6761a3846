"""`serve`: a host of skills as a whole program, which stops gracefully when it is told to."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from palaver.skills._host import (
    DEFAULT_GRACE_PERIOD,
    DEFAULT_LISTEN,
    DEFAULT_REMEMBER,
    DEFAULT_THREADS,
    SkillHost,
)


def serve(
    *skills: Callable[..., object],
    listen: str = DEFAULT_LISTEN,
    tls_certificate: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
    remember: int = DEFAULT_REMEMBER,
    threads: int = DEFAULT_THREADS,
    grace_period: float = DEFAULT_GRACE_PERIOD,
    on_start: Callable[[str], object] | None = None,
) -> None:
    """Serves skills to Palaver servers until SIGTERM or SIGINT, and lets the running calls finish then.

    A second signal ends the program at once.

    Example:
        >>> palaver.skills.serve(tell_time, add_todo, listen="127.0.0.1:50061")

    Args:
        *skills: Functions that `skill` decorates.
        listen: The address to listen on. Port 0 takes a free one.
        tls_certificate: The path of a PEM file with the certificate to serve TLS with; see `SkillHost`.
        tls_key: The path of a PEM file with the key of the certificate.
        remember: Of how many ended calls the outcomes are remembered, for repeats of their `call_id`. See `SkillHost`
            for what that is worth, and what a skill with effects must do besides.
        threads: How many synchronous functions may run at the same time. Further calls wait.
        grace_period: How many seconds the running calls get when the host stops.
        on_start: Called once with the address, when the host listens.

    Raises:
        OSError: The host can't listen there, or the files of certificate and key can't be read.
        TypeError: Something among the skills is not decorated with `skill`.
        ValueError: There is no skill, two have the same name, or an option is wrong.
    """
    asyncio.run(
        serve_async(
            *skills,
            listen=listen,
            tls_certificate=tls_certificate,
            tls_key=tls_key,
            remember=remember,
            threads=threads,
            grace_period=grace_period,
            on_start=on_start,
        )
    )


async def serve_async(
    *skills: Callable[..., object],
    listen: str = DEFAULT_LISTEN,
    tls_certificate: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
    remember: int = DEFAULT_REMEMBER,
    threads: int = DEFAULT_THREADS,
    grace_period: float = DEFAULT_GRACE_PERIOD,
    on_start: Callable[[str], object] | None = None,
) -> None:
    """Does what `serve` does, in the event loop of the program. Its cancellation stops the host as a signal does.

    It listens to the signals only in the main thread, and only where the system lets an event loop do that. A program
    that handles signals by itself uses `SkillHost` instead.

    Args:
        *skills: Functions that `skill` decorates.
        listen: The address to listen on. Port 0 takes a free one.
        tls_certificate: The path of a PEM file with the certificate to serve TLS with; see `SkillHost`.
        tls_key: The path of a PEM file with the key of the certificate.
        remember: Of how many ended calls the outcomes are remembered; see `SkillHost`.
        threads: How many synchronous functions may run at the same time. Further calls wait.
        grace_period: How many seconds the running calls get when the host stops.
        on_start: Called once with the address, when the host listens.

    Raises:
        OSError: The host can't listen there, or the files of certificate and key can't be read.
        TypeError: Something among the skills is not decorated with `skill`.
        ValueError: There is no skill, two have the same name, or an option is wrong.
    """
    host = SkillHost(
        *skills,
        listen=listen,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        remember=remember,
        threads=threads,
        grace_period=grace_period,
    )
    async with host:
        with _signals() as stopping:
            if on_start is not None:
                on_start(host.target)
            await stopping.wait()
        # While the calls finish, the signals do again what they do by default: a second one ends the program.


@contextmanager
def _signals() -> Iterator[asyncio.Event]:
    """Sets an event on SIGTERM and SIGINT."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    handled: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        with suppress(NotImplementedError):  # on Windows; there Ctrl-C is raised by asyncio.run
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stopping.set)
                handled.append(number)
    try:
        yield stopping
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
