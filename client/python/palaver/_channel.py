"""How a channel to the server is opened: target, TLS, token, service config and options. Both clients share it.

`service_config.json` beside this module is what clients in every language should use. It spreads calls over all
addresses of the server, and lets gRPC repeat `GetAssistant` and `ListMessages` when the server is unavailable. It
leaves the other calls alone, because repeating one whose reply was lost may do harm: `CreateAssistant` would fail with
`ALREADY_EXISTS` over its own success or reset an assistant that others have talked to in the meantime, and
`DeleteAssistant` would fail with `NOT_FOUND` over its own success. `PostUserQuery` may be repeated when it has a
`request_id`, which gRPC can't know; the clients give it one and repeat it themselves (`_resume`). (A call
that never left this machine is repeated by gRPC in any case.)
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any, TypeAlias

import grpc

DEFAULT_TARGET = "127.0.0.1:50051"

ChannelOptions: TypeAlias = Sequence[tuple[str, Any]]
"""gRPC channel arguments, as pairs of name and value."""

# gRPC's own, a second that grows to two minutes, are for a server that is down, not for one that is replaced.
_FIRST_RECONNECT_MS = 200
_LONGEST_RECONNECT_MS = 5_000
_KEEPALIVE_TIME_MS = 30_000
_KEEPALIVE_TIMEOUT_MS = 10_000
# The contract keeps a page and a turn below 4 MiB. gRPC's default limit is exactly that, which leaves no room.
_MAX_RECEIVE_BYTES = 8 * 1024 * 1024
_ADDRESS = re.compile(r"(?:([^:\[\]]+)|\[([^\[\]]+)\])(?::[0-9]+)?")


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """Everything that it takes to open a channel, synchronous or asynchronous.

    Attributes:
        target: The server, in gRPC's syntax for names.
        options: The channel arguments.
        credentials: What secures the channel; None for plaintext.
        metadata: What goes along with every call.
    """

    target: str
    options: tuple[tuple[str, Any], ...]
    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...]


def channel_settings(
    target: str, tls: bool | str | bytes | os.PathLike[str], token: str | None, options: ChannelOptions
) -> ChannelSettings:
    """Returns the settings for the arguments of a client's constructor, which describes them.

    Raises:
        ValueError: A token would go over the network in the clear, or it can't be sent as a header.
        OSError: The file of CA certificates can't be read.
    """
    if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token != ""):
        raise ValueError("the token must consist of visible ASCII characters")
    credentials = _credentials(tls)
    call_metadata: tuple[tuple[str, str], ...] = ()
    if token is not None:
        if credentials is not None:
            credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
        elif is_local(target):
            # gRPC refuses call credentials on any plaintext channel. On this machine nobody can read along.
            call_metadata = (("authorization", f"Bearer {token}"),)
        else:
            raise ValueError(f'the token would be sent to "{target}" in the clear: use TLS')
    defaults = _default_options()
    if is_local(target):
        defaults["grpc.enable_http_proxy"] = 0  # what is for this machine stays on it, whatever `http_proxy` says
    return ChannelSettings(target, tuple({**defaults, **dict(options)}.items()), credentials, call_metadata)


def deadline(timeout: float | None, default: float | None) -> float | None:
    """Returns the deadline of a call in seconds from now, as gRPC wants it: None for none."""
    seconds = default if timeout is None else timeout
    return None if seconds == math.inf else seconds


def is_local(target: str) -> bool:
    """Returns whether a target, in gRPC's syntax for names, can only mean this machine."""
    scheme, _, rest = target.partition(":")
    if scheme not in {"dns", "ipv4", "ipv6", "unix", "unix-abstract"}:
        return _is_loopback(target, or_localhost=True)
    if rest.startswith("//"):
        # "dns://authority/name" asks a name server of its own, which may answer anything.
        authority, _, rest = rest[2:].partition("/")
        if authority:
            return False
    if scheme.startswith("unix"):
        return rest != ""
    if scheme == "dns":
        return _is_loopback(rest, or_localhost=True)
    return all(_is_loopback(address) for address in rest.split(","))


def _is_loopback(address: str, *, or_localhost: bool = False) -> bool:
    match = _ADDRESS.fullmatch(address)
    host, ipv6 = match.groups() if match else (None, address)  # an IPv6 address without a port needs no brackets
    try:
        if host is not None:
            return (or_localhost and host.lower() == "localhost") or ipaddress.IPv4Address(host).is_loopback
        ip = ipaddress.IPv6Address(ipv6)
    except ValueError:
        return False
    return ip.scope_id is None and (ip.ipv4_mapped or ip).is_loopback


def _credentials(tls: bool | str | bytes | os.PathLike[str]) -> grpc.ChannelCredentials | None:
    if tls is False:
        return None
    if tls is True:
        return grpc.ssl_channel_credentials()
    return grpc.ssl_channel_credentials(tls if isinstance(tls, bytes) else Path(tls).read_bytes())


def _default_options() -> dict[str, Any]:
    return {
        "grpc.service_config": resources.files("palaver").joinpath("service_config.json").read_text("utf-8"),
        "grpc.primary_user_agent": f"palaver-python/{_version()}",
        "grpc.max_receive_message_length": _MAX_RECEIVE_BYTES,
        "grpc.initial_reconnect_backoff_ms": _FIRST_RECONNECT_MS,
        "grpc.max_reconnect_backoff_ms": _LONGEST_RECONNECT_MS,
        # A model may think for a long time without a word; pings tell a silent server from one that is gone. gRPC
        # gives up waiting for the answer by the shorter one of two timeouts, and stops to ping a silent peer unless
        # the limit of pings without data is lifted.
        "grpc.keepalive_time_ms": _KEEPALIVE_TIME_MS,
        "grpc.keepalive_timeout_ms": _KEEPALIVE_TIMEOUT_MS,
        "grpc.http2.ping_timeout_ms": _KEEPALIVE_TIMEOUT_MS,
        "grpc.http2.max_pings_without_data": 0,
    }


def _version() -> str:
    try:
        return metadata.version("palaver")
    except metadata.PackageNotFoundError:  # running from a copy that was never installed
        return "unknown"
