"""The addresses of skill hosts: their targets, and the options behind them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from typing_extensions import Self

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
)

SCHEME = "grpcs://"
FORM = (
    'must be TARGET or grpcs://TARGET, with optional ";timeout=SECONDS", ";token-env=VARIABLE", ";ca=FILE", '
    '";client-cert=FILE" and ";client-key=FILE"'
)
OPTIONS = ("timeout", "token-env", "ca", "client-cert", "client-key")

_LOCAL = re.compile(r"(127(\.\d{1,3}){3}|localhost|\[::1\]):\d+|unix:.*")
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a host, how the server identifies itself there, and the time limit of the host's skills."""

    target: str
    is_secure: bool
    timeout: float
    """Seconds."""
    token: str = field(default="", repr=False)
    """A bearer token that is sent with every call, or an empty text."""
    authorities: bytes | None = None
    """The authorities of the host's certificate, or None for those that gRPC trusts by default."""
    client_certificate: bytes | None = None
    client_key: bytes | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str, timeout: float, environment: Mapping[str, str]) -> Self:
        """Parses a target and its options; raises `ValueError`.

        `timeout` is the time limit if the text has none. Tokens are read from the environment, and certificates from
        files.
        """
        target, *parts = (part.strip() for part in text.split(";"))
        is_secure, target = target.startswith(SCHEME), target.removeprefix(SCHEME)
        options = _options(text, parts)
        if not target:
            raise ValueError(f"{FORM}, not {text!r}")
        if options.keys() & {"ca", "client-cert", "client-key"} and not is_secure:
            raise ValueError(f"ca, client-cert and client-key need a target with grpcs://, not {text!r}")
        if ("client-cert" in options) != ("client-key" in options):
            raise ValueError(f"client-cert and client-key: set both or neither, not {text!r}")
        if "token-env" in options and not (is_secure or _LOCAL.fullmatch(target)):
            raise ValueError(f"token-env needs a target with grpcs:// or on this machine, not {text!r}")
        return cls(
            target,
            is_secure,
            _seconds(text, options.get("timeout"), timeout),
            _token(options.get("token-env"), environment),
            *(_content(options.get(name)) for name in ("ca", "client-cert", "client-key")),
        )

    def channel(self) -> grpc.aio.Channel:
        """Returns a new channel to the host."""
        if not self.is_secure:
            return grpc.aio.insecure_channel(self.target, CHANNEL_OPTIONS)
        credentials = grpc.ssl_channel_credentials(self.authorities, self.client_key, self.client_certificate)
        return grpc.aio.secure_channel(self.target, credentials, CHANNEL_OPTIONS)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata that identifies the server."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


def _options(text: str, parts: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in parts:
        name, _, value = (each.strip() for each in part.partition("="))
        if name not in OPTIONS or name in options or not value:
            raise ValueError(f"{FORM}, not {text!r}")
        options[name] = value
    return options


def _seconds(text: str, value: str | None, default: float) -> float:
    try:
        seconds = default if value is None else float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ValueError(f"{FORM}, not {text!r}")
    return seconds


def _token(variable: str | None, environment: Mapping[str, str]) -> str:
    """Returns the token in a variable. An error never quotes it."""
    if variable is None:
        return ""
    token = environment.get(variable, "").strip()
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"token-env={variable}: the variable must hold a token of visible ASCII characters")
    return token


def _content(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{error.strerror}: {path}") from error
