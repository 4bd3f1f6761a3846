"""The settings of the channel to the server: target, TLS, token, service config and options.

gRPC clients in every language should use the `service_config.json` next to this module. It balances calls over all
addresses of the server and makes gRPC retry `GetAssistant` and `ListMessages` while the server is unavailable. Other
calls are not retried, because a retry after a lost response can do harm: `CreateAssistant` would, after its own
success, fail with `ALREADY_EXISTS`, or reset an assistant that others have used since, and `DeleteAssistant` would fail
with `NOT_FOUND`. `PostUserQuery` can be retried if it has a `request_id`, but gRPC can't know that; the clients set one
and retry the call themselves (see `_resume`). Calls that never left this machine are always retried by gRPC.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from palaver._certificates import read_key_pair
from palaver._local_targets import is_local
from palaver._token import CallMetadata, Token, authorization

DEFAULT_TARGET = "127.0.0.1:50051"

ChannelOptions: TypeAlias = Sequence[tuple[str, Any]]
"""gRPC channel arguments: pairs of a name and a value."""

# gRPC's defaults, from a second to two minutes, suit a server that is down rather than one that is being replaced.
_INITIAL_BACKOFF_MS = 200
_MAX_BACKOFF_MS = 5_000
_KEEPALIVE_TIME_MS = 30_000
_KEEPALIVE_TIMEOUT_MS = 10_000
# The contract keeps responses below 4 MiB. gRPC's default limit is exactly 4 MiB, which leaves no headroom.
_MAX_RECEIVE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """The settings of a channel, synchronous or asynchronous.

    Attributes:
        target: The server, as a gRPC target name.
        options: The channel arguments.
        credentials: The channel credentials, or None for plaintext.
        metadata: The metadata of the calls, unless the credentials add the token.
    """

    target: str
    options: tuple[tuple[str, Any], ...]
    credentials: grpc.ChannelCredentials | None
    metadata: CallMetadata


@dataclass(frozen=True, slots=True)
class Security:
    """The arguments of a client's constructor that concern security; see there."""

    tls: bool | str | bytes | os.PathLike[str]
    client_certificate: str | os.PathLike[str] | None
    client_key: str | os.PathLike[str] | None
    token: Token | None = field(repr=False)


def channel_settings(target: str, security: Security, options: ChannelOptions) -> ChannelSettings:
    """Returns the settings for the arguments of a client's constructor, where they are documented.

    Raises:
        ValueError: The token would be sent over the network in the clear, or it is not a valid header value. The
            client's certificate lacks TLS or its key, or does not belong to the key.
        OSError: A file can't be read.
    """
    token = security.token
    constant = authorization(token) if isinstance(token, str) else ()
    credentials = _credentials(security)
    if token is not None and credentials is None and not is_local(target):
        raise ValueError(f'the token would be sent to "{target}" in the clear: use TLS')
    if credentials is not None and isinstance(token, str):
        # gRPC refuses call credentials on plaintext channels, even on this machine, where they are safe.
        credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
        constant = ()
    metadata = CallMetadata(constant, None if isinstance(token, str) else token)
    defaults = _default_options()
    if is_local(target):
        defaults["grpc.enable_http_proxy"] = 0  # calls to this machine never go through a proxy
    return ChannelSettings(target, tuple({**defaults, **dict(options)}.items()), credentials, metadata)


def _credentials(security: Security) -> grpc.ChannelCredentials | None:
    """Returns the channel credentials of a client, or None for plaintext."""
    tls, certificate, key = security.tls, security.client_certificate, security.client_key
    if (certificate is None) != (key is None):
        raise ValueError("client_certificate and client_key require each other")
    if tls is False:
        if certificate is not None:
            raise ValueError("a client certificate requires TLS: set `tls`")
        return None
    authorities = None if tls is True else tls if isinstance(tls, bytes) else Path(tls).read_bytes()
    pair = (None, None) if certificate is None or key is None else read_key_pair(certificate, key)
    return grpc.ssl_channel_credentials(authorities, *pair)


def _default_options() -> dict[str, Any]:
    """Returns the channel arguments that apply unless the caller overrides them."""
    return {
        "grpc.service_config": resources.files("palaver").joinpath("service_config.json").read_text("utf-8"),
        "grpc.primary_user_agent": f"palaver-python/{_version()}",
        "grpc.max_receive_message_length": _MAX_RECEIVE_BYTES,
        "grpc.initial_reconnect_backoff_ms": _INITIAL_BACKOFF_MS,
        "grpc.max_reconnect_backoff_ms": _MAX_BACKOFF_MS,
        # A model may be silent for a long time. Pings detect a server that is gone. gRPC waits for the answer until the
        # shorter of two timeouts, and stops pinging a silent peer unless the limit of pings without data is lifted.
        "grpc.keepalive_time_ms": _KEEPALIVE_TIME_MS,
        "grpc.keepalive_timeout_ms": _KEEPALIVE_TIMEOUT_MS,
        "grpc.http2.ping_timeout_ms": _KEEPALIVE_TIMEOUT_MS,
        "grpc.http2.max_pings_without_data": 0,
    }


def _version() -> str:
    """Returns the version of the library."""
    try:
        return metadata.version("palaver")
    except metadata.PackageNotFoundError:  # the source is used without being installed
        return "unknown"
