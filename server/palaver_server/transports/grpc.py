"""The gRPC listener: the server, its limits, health and reflection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from palaver_server.domain.limits import MAX_METADATA_BYTES, MAX_REQUEST_BYTES
from palaver_server.transports.handlers import Failed, Interceptor, Service, handlers_of
from palaver_server.transports.health import ServiceHealth

FLUSH_TIMEOUT = 5.0
"""Seconds that callers have to read the end of a turn that finished while the server was stopping."""

LINGER = 0.5
"""Seconds that the server still answers SHUTTING_DOWN after the last turn has ended, before it stops.

gRPC answers a call that arrives while it stops with CANCELLED (https://github.com/grpc/grpc/issues/41785), which no
client retries. Without the pause this would happen often, because a caller posts its next turn when the last one ends.
"""

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", -1),
    # Between the first limit and the second one, gRPC would refuse calls at random.
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    # Without a limit, one connection can open thousands of handlers within seconds.
    ("grpc.max_concurrent_streams", 1000),
    # These detect a client that froze or vanished. Both timeouts are needed.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    # The clients ping every 30 seconds. One that pings more often than this is disconnected with too_many_pings.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


GRPC_LOGGER = logging.getLogger("grpc._cython.cygrpc")
NOISE = ("Invalid encoding on", "ExecuteBatchError raised in core")
"""The beginnings of gRPC's log messages about metadata that is no text, which quote it, and callers that have left."""


class ListenError(Exception):
    """The server can't listen on its address. The text says why."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A running gRPC server."""

    port: int
    health: ServiceHealth
    _server: grpc.aio.Server

    async def stop(self) -> None:
        """Closes the listener, and closes the connections after callers have had time to read the last responses."""
        await asyncio.sleep(LINGER)
        await self._server.stop(FLUSH_TIMEOUT)


@asynccontextmanager
async def listener(
    services: Sequence[Service],
    address: str,
    *,
    credentials: grpc.ServerCredentials | None = None,
    interceptors: Sequence[Interceptor] = (),
    failed: Failed = lambda _call, _error: None,
    is_ready: bool = True,
    serves_reflection: bool = False,
    shares_port: bool = False,
) -> AsyncIterator[Listener]:
    """Serves the services on an address; leaving the block stops it immediately. Raises `ListenError`.

    `is_ready` is what the health service reports at first.
    """
    GRPC_LOGGER.addFilter(_is_worth_logging)
    server = grpc.aio.server(options=(*CHANNEL_OPTIONS, ("grpc.so_reuseport", int(shares_port))))
    server.add_generic_rpc_handlers(handlers_of(services, interceptors, failed))
    service_health = ServiceHealth()
    for each in services:
        await service_health.add(each.name)
    await service_health.report(is_ready=is_ready)
    health_pb2_grpc.add_HealthServicer_to_server(service_health.servicer, server)
    if serves_reflection:
        names = (*(each.name for each in services), health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    try:
        port = (
            server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
        )
    except RuntimeError as error:
        raise ListenError(f"can't listen on {address}; is the port taken?") from error
    await server.start()
    try:
        yield Listener(port, service_health, server)
    finally:
        await server.stop(None)


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Returns whether a record of gRPC tells an operator anything. Any caller can cause the others without end."""
    return not record.getMessage().startswith(NOISE)
