"""The reports of a server's health service, by call and by stream."""

from __future__ import annotations

from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.palaver_server import Served

SERVICE = "palaver.v1.AssistantService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def reported(served: Served, name: str = SERVICE) -> int:
    """Returns the state that the server reports now."""
    response = await health_pb2_grpc.HealthStub(served.channel).Check(health_pb2.HealthCheckRequest(service=name))
    return int(response.status)


async def wait_until(served: Served, status: int) -> None:
    """Waits until the server reports a state of the API."""
    watch = health_pb2_grpc.HealthStub(served.channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    while (await watch.read()).status != status:
        pass
    watch.cancel()
