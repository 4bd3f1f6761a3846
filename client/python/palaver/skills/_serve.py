"""`serve`, a complete program that serves skills and stops gracefully on a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from palaver.skills._definition import definition_of
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
    tls_client_ca: str | os.PathLike[str] | None = None,
    token: str | Sequence[str] | None = None,
    remember: int = DEFAULT_REMEMBER,
    threads: int = DEFAULT_THREADS,
    grace_period: float = DEFAULT_GRACE_PERIOD,
    on_start: Callable[[str], object] | None = None,
) -> None:
    """Serves skills to Palaver servers until SIGTERM or SIGINT, and then lets the running calls finish.

    A second signal ends the program immediately.

    Example:
        >>> palaver.skills.serve(tell_time, add_todo, listen="127.0.0.1:50061")

    Args:
        *skills: Functions that are decorated with `skill`.
        listen: The address to listen on. Port 0 picks a free port.
        tls_certificate: The path of a PEM file with the certificate chain for TLS; see `SkillHost`.
        tls_key: The path of a PEM file with the private key of the certificate.
        tls_client_ca: The path of a PEM file with the certificate authorities of callers, which must then present a
            certificate.
        token: The bearer token that every call must send, or several, any of which will do.
        remember: How many outcomes of finished calls to remember, for repeated calls. See `SkillHost` for the limits of
            this, and for what a skill with side effects must do.
        threads: How many synchronous functions may run at the same time. Further calls wait.
        grace_period: How many seconds running calls have to finish when the host stops.
        on_start: Called once with the address when the host is listening. By default, a line on stderr says where it
            listens, and with which skills.

    Raises:
        OSError: The host can't listen on the address, or the certificate or the key can't be read.
        TypeError: One of the skills is not decorated with `skill`.
        ValueError: There is no skill, two skills have the same name, or an option is invalid.
    """
    asyncio.run(
        serve_async(
            *skills,
            listen=listen,
            tls_certificate=tls_certificate,
            tls_key=tls_key,
            tls_client_ca=tls_client_ca,
            token=token,
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
    tls_client_ca: str | os.PathLike[str] | None = None,
    token: str | Sequence[str] | None = None,
    remember: int = DEFAULT_REMEMBER,
    threads: int = DEFAULT_THREADS,
    grace_period: float = DEFAULT_GRACE_PERIOD,
    on_start: Callable[[str], object] | None = None,
) -> None:
    """Does the same as `serve` in a running event loop. Canceling it stops the host gracefully, too.

    It handles signals only in the main thread, and only on systems where event loops support this. Programs that handle
    signals themselves should use `SkillHost`.

    Args:
        *skills: Functions that are decorated with `skill`.
        listen: The address to listen on. Port 0 picks a free port.
        tls_certificate: The path of a PEM file with the certificate chain for TLS; see `SkillHost`.
        tls_key: The path of a PEM file with the private key of the certificate.
        tls_client_ca: The path of a PEM file with the certificate authorities of callers, which must then present a
            certificate.
        token: The bearer token that every call must send, or several, any of which will do.
        remember: How many outcomes of finished calls to remember; see `SkillHost`.
        threads: How many synchronous functions may run at the same time. Further calls wait.
        grace_period: How many seconds running calls have to finish when the host stops.
        on_start: Called once with the address when the host is listening. By default, a line on stderr says where it
            listens, and with which skills.

    Raises:
        OSError: The host can't listen on the address, or the certificate or the key can't be read.
        TypeError: One of the skills is not decorated with `skill`.
        ValueError: There is no skill, two skills have the same name, or an option is invalid.
    """
    host = SkillHost(
        *skills,
        listen=listen,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        token=token,
        remember=remember,
        threads=threads,
        grace_period=grace_period,
    )
    async with host:
        with _stop_signals() as stopping:
            if on_start is None:
                names = ", ".join(definition_of(function).name for function in skills)
                print(f"skill host listening on {host.target} with {names}", file=sys.stderr, flush=True)  # noqa: T201
            else:
                on_start(host.target)
            await stopping.wait()
        # The signal handlers are gone now, so that a second signal ends the program while the calls finish.


@contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """Yields an event that SIGTERM and SIGINT set during the block."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    handled: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        with suppress(NotImplementedError):  # on Windows, where asyncio.run handles Ctrl-C
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stopping.set)
                handled.append(number)
    try:
        yield stopping
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
