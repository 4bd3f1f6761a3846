"""The states that the health service reports, to calls and to those who watch it."""

from __future__ import annotations

from grpc_health.v1 import health, health_pb2

from palaver_server.api.service import SERVICE

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class ServiceHealth:
    """The states of the API and, under the empty name, of the process, which is SERVING until it stops.

    The process would gain nothing from a restart while a store is down, and would lose its running turns.
    """

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()
        self.is_serving = False
        """True while the service reports SERVING for the API."""
        self._is_draining = False

    async def add(self, name: str) -> None:
        """Reports SERVING for another service, which serves whether or not turns could run, until the server stops."""
        await self.servicer.set(name, SERVING)

    async def report(self, *, is_ready: bool) -> None:
        """Reports whether turns could run, unless the server is stopping."""
        if not self._is_draining:
            self.is_serving = is_ready
            await self.servicer.set(SERVICE.full_name, SERVING if is_ready else NOT_SERVING)

    async def drain(self) -> None:
        """Reports NOT_SERVING under all names from now on."""
        self._is_draining, self.is_serving = True, False
        await self.servicer.enter_graceful_shutdown()
