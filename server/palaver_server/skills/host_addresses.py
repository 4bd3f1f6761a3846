"""The addresses of skill hosts: their targets, and what it takes to reach them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from typing_extensions import Self

from palaver._certificates import read_key_pair
from palaver._local_targets import is_local
from palaver._token import Metadata, authorization

SCHEME = "grpcs://"
OPTIONS = ("timeout", "token-env", "ca", "client-cert", "client-key")

_SYNTAX = f"must be TARGET or {SCHEME}TARGET, followed by {', '.join(f';{name}=…' for name in OPTIONS)} as needed"

PRIVATE_PARTS = re.compile(r"[@?#]")
"""The marks of parts of a URL that may hold a secret. gRPC would take them for a part of the host's name."""

Pems: TypeAlias = tuple[bytes | None, bytes | None, bytes | None]
"""The certificate authorities, the private key and the certificate chain of a client, as gRPC takes them."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The PEM files for TLS. Without authorities, gRPC's default ones are trusted."""

    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def read(self) -> Pems:
        """Returns the contents of the files; raises `ValueError` if they can't be used."""
        authorities = None if self.authorities is None else _read_authorities(self.authorities)
        if self.certificate is None or self.key is None:
            return authorities, None, None
        try:
            return authorities, *read_key_pair(self.certificate, self.key)
        except OSError as error:
            raise ValueError(f"client-cert: {error.filename}: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"client-cert: {error}") from error


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a host.

    Attributes:
        target: The gRPC target.
        timeout: The time limit of its skills, in seconds.
        metadata: The metadata of every call, with the token.
        tls: The files for TLS, or None for plaintext.
    """

    target: str
    timeout: float
    metadata: Metadata = field(repr=False)
    tls: TlsFiles | None

    @classmethod
    def parse(cls, text: str, timeout: float, environment: Mapping[str, str]) -> Self:
        """Parses "TARGET" or "grpcs://TARGET" with options, such as ";timeout=SECONDS"; raises `ValueError`.

        Args:
            text: The address.
            timeout: The time limit if the text has none.
            environment: The variables that `token-env` may name.
        """
        address, *parts = (part.strip() for part in text.split(";"))
        target, is_secure = address.removeprefix(SCHEME), address.startswith(SCHEME)
        if PRIVATE_PARTS.search(target):
            raise ValueError("an address must have no user name, query string or fragment")
        if not target:
            raise ValueError(f"{_SYNTAX}, not {address!r}")
        options = _parse_options(parts)
        try:
            return cls(
                target,
                _parse_seconds(options["timeout"]) if "timeout" in options else timeout,
                _token(target, is_secure, options.get("token-env"), environment),
                _tls_files(target, is_secure, options),
            )
        except ValueError as error:
            raise ValueError(f"{target}: {error}") from error


def _parse_options(parts: list[str]) -> dict[str, str]:
    """Returns the values of options by name. The errors don't show them: one may be a token in the wrong place."""
    options: dict[str, str] = {}
    for part in parts:
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in OPTIONS:
            raise ValueError(f"{_SYNTAX}; there is no option {name!r}")
        if not value or name in options:
            raise ValueError(f"{_SYNTAX}; {name} {'is given twice' if name in options else 'has no value'}")
        options[name] = value
    return options


def _parse_seconds(text: str) -> float:
    """Returns a time limit."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ValueError(f"timeout must be a number of seconds above 0, not {text!r}")
    return seconds


def _token(target: str, is_secure: bool, variable: str | None, environment: Mapping[str, str]) -> Metadata:
    """Returns the metadata with the token of a variable, if there is one."""
    if variable is None:
        return ()
    token = environment.get(variable, "")
    if not token:
        raise ValueError(f"token-env: the environment variable {variable} is not set")
    try:
        metadata = authorization(token)
    except ValueError as error:
        raise ValueError(f"token-env: the value of {variable}: {error}") from error
    if not is_secure and not is_local(target):
        raise ValueError(f"token-env: the token would be sent in the clear: use {SCHEME}{target}")
    return metadata


def _tls_files(target: str, is_secure: bool, options: Mapping[str, str]) -> TlsFiles | None:
    """Returns the files of a host with TLS, after reading them once, or None without TLS."""
    if not is_secure:
        for name in ("ca", "client-cert", "client-key"):
            if name in options:
                raise ValueError(f"{name} requires TLS: use {SCHEME}{target}")
        return None
    if "client-key" in options and "client-cert" not in options:
        raise ValueError("client-key requires client-cert")
    authorities, certificate = options.get("ca"), options.get("client-cert")
    key = options.get("client-key", certificate)
    files = TlsFiles(*(None if name is None else Path(name) for name in (authorities, certificate, key)))
    files.read()
    return files


def _read_authorities(file: Path) -> bytes:
    try:
        pem = file.read_bytes()
    except OSError as error:
        raise ValueError(f"ca: {file}: {error.strerror}") from error
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise ValueError(f"ca: {file} contains no certificate")
    return pem
