"""The channel to a skill host."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import grpc

from palaver.v1.skill_host_service_pb2_grpc import SkillHostServiceStub
from palaver_server.skills.host_addresses import Address, Pems

if TYPE_CHECKING:
    from palaver.v1.skill_host_service_pb2_grpc import SkillHostServiceAsyncStub

logger = logging.getLogger(__name__)

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
)


class HostChannel:
    """The channel to a host, which is replaced when the files of its certificates change.

    Attributes:
        stub: The stub for the next call.
    """

    stub: SkillHostServiceAsyncStub

    def __init__(self, address: Address) -> None:
        """Opens the channel; raises `ValueError` if the files can't be used."""
        self._address = address
        self._pems = None if address.tls is None else address.tls.read()
        self._problem = ""
        self._closing: set[asyncio.Task[None]] = set()
        self._open()

    async def renew(self) -> None:
        """Replaces the channel if the files have changed. Files that can't be used are not: one may be half written."""
        if self._address.tls is None:
            return
        try:
            pems = await asyncio.to_thread(self._address.tls.read)
        except ValueError as error:
            if str(error) != self._problem:  # it is tried again every two seconds, but logged once
                logger.warning("the certificates for the skill host %s stay: %s", self._address.target, error)
            self._problem = str(error)
            return
        self._problem = ""
        if pems != self._pems:
            # Calls that are running on the old channel may finish.
            closing = asyncio.create_task(self._channel.close(self._address.timeout))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._pems = pems
            self._open()

    async def close(self) -> None:
        """Closes the channel and cancels its calls."""
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(self._channel.close(), *self._closing, return_exceptions=True)

    def _open(self) -> None:
        self._channel = _channel(self._address.target, self._pems)
        self.stub = SkillHostServiceStub(self._channel)


def _channel(target: str, pems: Pems | None) -> grpc.aio.Channel:
    if pems is None:
        return grpc.aio.insecure_channel(target, CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(*pems), CHANNEL_OPTIONS)
