"""Envoy with its configuration in front of real servers: gRPC-Web for browsers, and calls balanced over the servers."""

from __future__ import annotations

import asyncio
import subprocess
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import yaml

from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub
from tests.deploy.programs import DEPLOY, output, program
from tests.support.palaver_server import Served, palaver_server
from tests.support.ports import free_port

CONFIGURATION = DEPLOY / "envoy" / "envoy.yaml"
ORIGIN = "http://localhost:3001"
METHOD = "/palaver.v1.AssistantService/PostUserQuery"
TRAILERS = 0x80
"""The flag of the frame that has the trailers of a gRPC-Web response."""


def test_the_configuration_is_valid():
    output("envoy", "--mode", "validate", "--config-path", CONFIGURATION)


@dataclass(frozen=True)
class Envoy:
    """A running Envoy."""

    target: str
    admin: str

    async def until_healthy(self, count: int) -> None:
        """Waits until this number of servers is healthy."""
        async with aiohttp.ClientSession() as session:
            while await self._healthy(session) != count:  # noqa: ASYNC110 - a process can't set an event
                await asyncio.sleep(0.05)

    async def _healthy(self, session: aiohttp.ClientSession) -> int:
        try:
            async with session.get(f"http://{self.admin}/clusters?format=json") as response:
                statuses = (await response.json(content_type=None)).get("cluster_statuses", [])
        except aiohttp.ClientConnectionError:
            return 0  # it does not listen yet
        hosts = [host for status in statuses for host in status.get("host_statuses", [])]
        return sum(host["health_status"] == {"eds_health_status": "HEALTHY"} for host in hosts)


@asynccontextmanager
async def envoy(folder: Path, *servers: Served) -> AsyncIterator[Envoy]:
    """Runs Envoy in front of servers of this process, from when they are healthy until the end of the block."""
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    resources, port, admin = configuration["static_resources"], free_port(), free_port()
    [cluster] = resources["clusters"]
    [endpoints] = cluster["load_assignment"]["endpoints"]
    endpoints["lb_endpoints"] = [{"endpoint": {"address": _address(server.application.port)}} for server in servers]
    resources["listeners"][0]["address"] = _address(port)
    configuration["admin"]["address"] = _address(admin)
    cluster["health_checks"][0]["no_traffic_interval"] = cluster["health_checks"][0]["interval"] = "0.1s"
    path = folder / "envoy.yaml"
    path.write_text(yaml.safe_dump(configuration))
    command = [
        program("envoy"),
        "--config-path",
        str(path),
        "--log-level",
        "error",
        "--concurrency",
        "1",
        "--use-dynamic-base-id",
    ]
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
    try:
        running = Envoy(f"127.0.0.1:{port}", f"127.0.0.1:{admin}")
        await running.until_healthy(len(servers))
        yield running
    finally:
        process.terminate()
        await process.wait()


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@pytest.fixture
async def two_servers(tmp_path: Path) -> AsyncIterator[tuple[Served, Served]]:
    """Servers with stores of their own, so that a caller can tell them apart. Only the first has the assistant `a`."""
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(palaver_server(tmp_path / name, offline_model=True)) for name in "ab"
        ]
        await first.stub.CreateAssistant(pb.CreateAssistantRequest(id="a"))
        yield first, second


async def served_by(stub: AssistantServiceStub) -> str:
    """Returns which of the two servers answers a call."""
    try:
        await stub.GetAssistant(pb.GetAssistantRequest(id="a"))
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise
        return "second"
    return "first"


async def test_the_calls_of_one_connection_reach_all_servers(two_servers: tuple[Served, Served], tmp_path: Path):
    async with envoy(tmp_path, *two_servers) as proxy, grpc.aio.insecure_channel(proxy.target) as channel:
        stub = AssistantServiceStub(channel)
        assert {await served_by(stub) for _ in range(30)} == {"first", "second"}


async def test_a_server_that_is_not_serving_gets_no_calls(two_servers: tuple[Served, Served], tmp_path: Path):
    first, _ = two_servers
    async with envoy(tmp_path, *two_servers) as proxy, grpc.aio.insecure_channel(proxy.target) as channel:
        stub = AssistantServiceStub(channel)
        await first.application.listener.health.drain()
        await proxy.until_healthy(1)
        # Envoy passes changes of health on to its threads once a second. Until then, 30 in turn would be a rare chance.
        latest = deque([""], maxlen=30)
        while set(latest) != {"second"} or len(latest) < 30:
            latest.append(await served_by(stub))


async def test_only_the_service_for_callers_is_open(two_servers: tuple[Served, Served], tmp_path: Path):
    async with envoy(tmp_path, *two_servers) as proxy, grpc.aio.insecure_channel(proxy.target) as channel:
        call = channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(b"")
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_browser_streams_a_reply(two_servers: tuple[Served, Served], tmp_path: Path):
    first, _ = two_servers
    request = pb.PostUserQueryRequest(id="a", user_message="Hello!").SerializeToString()
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", "origin": ORIGIN}
    async with envoy(tmp_path, first) as proxy, aiohttp.ClientSession() as session:
        data = b"\0" + len(request).to_bytes(4, "big") + request
        async with session.post(f"http://{proxy.target}{METHOD}", headers=headers, data=data) as response:
            frames = _frames(await response.read())
            assert response.headers["access-control-allow-origin"] == ORIGIN
    *messages, (flag, trailers) = frames
    events = [pb.PostUserQueryResponse.FromString(data).WhichOneof("event") for _, data in messages]
    assert (flag, events[0], events[-1]) == (TRAILERS, "started", "completed")
    assert "text_delta" in events
    assert b"grpc-status:0" in trailers


def _frames(body: bytes) -> list[tuple[int, bytes]]:
    """Returns the frames of a gRPC-Web response: their flags and their data."""
    frames = []
    while body:
        length = int.from_bytes(body[1:5], "big")
        frames.append((body[0], body[5 : 5 + length]))
        body = body[5 + length :]
    return frames


@pytest.mark.parametrize(("origin", "is_allowed"), [(ORIGIN, True), ("http://elsewhere.example", False)])
async def test_only_pages_of_the_listed_origins_may_call(
    origin: str, is_allowed: bool, two_servers: tuple[Served, Served], tmp_path: Path
):
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-grpc-web",
    }
    async with (
        envoy(tmp_path, *two_servers) as proxy,
        aiohttp.ClientSession() as session,
        session.options(f"http://{proxy.target}{METHOD}", headers=headers) as response,
    ):
        assert (response.headers.get("access-control-allow-origin") == origin) is is_allowed
