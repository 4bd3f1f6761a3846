"""The address of a host, its TLS, and how a program that serves one stops."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from palaver.skills import SkillHost, skill
from palaver.v1.skill_host_service_pb2 import InvokeSkillRequest, ListSkillsRequest
from palaver.v1.skill_host_service_pb2_grpc import SkillHostServiceStub
from tests.support.certificates import issue_certificates
from tests.support.skill_caller import Caller, content
from tests.support.statuses import failure_of


@skill
def ping() -> str:
    """Answers."""
    return "pong"


async def test_a_host_reports_its_address_while_it_runs():
    host = SkillHost(ping, listen="localhost:0")
    with pytest.raises(RuntimeError, match="is not running"):
        _ = host.target
    for _ in range(2):  # a host can be restarted
        async with host:
            assert host.port > 0
            assert host.target == f"localhost:{host.port}"
            with pytest.raises(RuntimeError, match="already running"):
                await host.__aenter__()
            async with grpc.aio.insecure_channel(host.target) as channel:
                assert await Caller(channel).invoke("ping") == content("pong")
    with pytest.raises(RuntimeError, match="is not running"):
        _ = host.port


async def test_a_host_listens_on_a_unix_socket(tmp_path):
    async with SkillHost(ping, listen=f"unix:{tmp_path}/host") as host:
        assert host.target == f"unix:{tmp_path}/host"
        async with grpc.aio.insecure_channel(host.target) as channel:
            assert await Caller(channel).invoke("ping") == content("pong")


@pytest.mark.parametrize("service", ["", "palaver.v1.SkillHostService"])
async def test_a_host_reports_its_health(service):
    async with SkillHost(ping, listen="127.0.0.1:0") as host, grpc.aio.insecure_channel(host.target) as channel:
        response = await HealthStub(channel).Check(HealthCheckRequest(service=service))
        assert response.status == HealthCheckResponse.SERVING


async def test_a_port_in_use_by_another_host_is_reported():
    async with SkillHost(ping, listen="127.0.0.1:0") as other:
        await assert_listening_fails(other.target)


async def test_a_port_in_use_by_another_program_is_reported():
    with socket.create_server(("127.0.0.1", 0)) as other:
        await assert_listening_fails(f"127.0.0.1:{other.getsockname()[1]}")


async def assert_listening_fails(address: str) -> None:
    with pytest.raises(OSError, match=f"can't listen on {re.escape(address)}; is the port taken?"):
        await SkillHost(ping, listen=address).__aenter__()


@pytest.fixture
def certificates(tmp_path):
    return issue_certificates(tmp_path)


async def test_tls(certificates):
    async with SkillHost(
        ping, listen="localhost:0", tls_certificate=certificates.certificate, tls_key=str(certificates.key)
    ) as host:
        async with grpc.aio.secure_channel(host.target, certificates.channel_credentials) as channel:
            assert await Caller(channel).invoke("ping") == content("pong")
        async with grpc.aio.insecure_channel(host.target) as channel:
            assert (await failure_of(Caller(channel).invoke("ping"))).code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("certificate", "error"),
    [("missing.pem", FileNotFoundError), ("key.pem", ValueError), ("other/certificate.pem", ValueError)],
)
async def test_unusable_certificates_are_reported(certificates, tmp_path, certificate, error):
    (tmp_path / "other").mkdir()
    issue_certificates(tmp_path / "other")
    host = SkillHost(ping, listen="localhost:0", tls_certificate=tmp_path / certificate, tls_key=certificates.key)
    with pytest.raises(error, match=certificate):
        await host.__aenter__()


@pytest.mark.parametrize("token", ["new", ["old", "new"]])
async def test_a_host_may_require_a_token(token):
    async with (
        SkillHost(ping, listen="127.0.0.1:0", token=token) as host,
        grpc.aio.insecure_channel(host.target) as channel,
    ):
        stub = SkillHostServiceStub(channel)
        request = InvokeSkillRequest(name="ping", arguments_json="{}")
        permitted = (("authorization", "Bearer new"),)
        assert (await stub.InvokeSkill(request, metadata=permitted)).content == "pong"
        assert len((await stub.ListSkills(ListSkillsRequest(), metadata=permitted)).skills) == 1
        for value in (None, "Bearer ", "Bearer newer", "new", "Basic new"):
            metadata = () if value is None else (("authorization", value),)
            for call in (
                stub.InvokeSkill(request, metadata=metadata),
                stub.ListSkills(ListSkillsRequest(), metadata=metadata),
            ):
                assert (await failure_of(call)).code is grpc.StatusCode.UNAUTHENTICATED
        health = await HealthStub(channel).Check(HealthCheckRequest())
        assert health.status == HealthCheckResponse.SERVING


async def test_a_host_may_require_a_certificate(certificates):
    pems = certificates.authority.read_bytes(), certificates.key.read_bytes(), certificates.certificate.read_bytes()
    async with SkillHost(
        ping,
        listen="localhost:0",
        tls_certificate=certificates.certificate,
        tls_key=certificates.key,
        tls_client_ca=certificates.authority,
    ) as host:
        async with grpc.aio.secure_channel(host.target, grpc.ssl_channel_credentials(*pems)) as channel:
            assert await Caller(channel).invoke("ping") == content("pong")
        async with grpc.aio.secure_channel(host.target, certificates.channel_credentials) as channel:
            assert (await failure_of(Caller(channel).invoke("ping"))).code is grpc.StatusCode.UNAVAILABLE


def test_unusable_requirements_are_reported(tmp_path, certificates):
    for token in ([], "", "two\nlines", ["fine", " blank"]):
        with pytest.raises(ValueError, match="token"):
            SkillHost(ping, token=token)
    with pytest.raises(ValueError, match="tls_client_ca requires"):
        SkillHost(ping, tls_client_ca=certificates.authority)


async def test_a_file_without_certificate_authorities_is_reported(certificates):
    files = {"tls_certificate": certificates.certificate, "tls_key": certificates.key}
    host = SkillHost(ping, listen="localhost:0", **files, tls_client_ca=certificates.key)
    with pytest.raises(ValueError, match="contains no certificate"):
        await host.__aenter__()


PROGRAM = """
from palaver.skills import serve, skill

@skill
def wait_for_a_line() -> str:
    '''Waits.'''
    print("waiting", flush=True)
    return input()

serve(wait_for_a_line, listen="127.0.0.1:0", on_start=lambda address: print(address, flush=True))
print("stopped", flush=True)
"""


@contextmanager
def program_with_running_call() -> Iterator[tuple[subprocess.Popen[str], grpc.Future[Any], Iterator[Any]]]:
    """Yields a program that serves a call, the call, and a watch of the program's health."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            with grpc.insecure_channel(process.stdout.readline().strip()) as channel:
                call = SkillHostServiceStub(channel).InvokeSkill.future(InvokeSkillRequest(name="wait_for_a_line"))
                assert process.stdout.readline() == "waiting\n"
                health = HealthStub(channel).Watch(HealthCheckRequest())
                assert next(health).status == HealthCheckResponse.SERVING
                yield process, call, health
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_calls_finish_after_a_signal(number):
    with program_with_running_call() as (process, call, health):
        process.send_signal(number)
        assert next(health).status == HealthCheckResponse.NOT_SERVING
        health.cancel()
        process.stdin.write("a line\n")
        process.stdin.flush()
        assert call.result(timeout=60) == content("a line")
        assert process.communicate(timeout=60) == ("stopped\n", "")
        assert process.returncode == 0


def test_a_second_signal_ends_the_program_immediately():
    with program_with_running_call() as (process, call, health):
        process.terminate()
        assert next(health).status == HealthCheckResponse.NOT_SERVING
        process.terminate()
        assert process.wait(timeout=60) == -signal.SIGTERM
        assert call.code() is grpc.StatusCode.UNAVAILABLE
