"""The `palaver-server` command as a process: how it starts, reports errors, serves and stops."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub
from palaver_server.settings import Settings
from tests.support.callers import CallersFile
from tests.support.certificates import Certificates, issue_certificates
from tests.support.ports import free_port
from tests.support.server_process import COMMAND

SERVICE = "palaver.v1.AssistantService"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the command, which is empty. The settings of the machine are removed."""
    for name in list(os.environ):
        if name.startswith(("PALAVER_", "OPENAI_", "AZURE_", "AzureWebJobsStorage", "GRPC_VERBOSITY")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclass(frozen=True)
class Process:
    """A server that listens."""

    popen: subprocess.Popen[str]
    address: str

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.popen.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    def end_without_problems(self) -> tuple[int, str]:
        """Waits for the end. Returns the exit status and the remaining output to stdout. There must be no warning."""
        status, stdout, stderr = self.end()
        assert problems(stderr) == []
        return status, stdout

    def end(self) -> tuple[int, str, str]:
        """Waits for the end. Returns the exit status and the remaining output to stdout and to stderr."""
        stdout, stderr = self.popen.communicate(timeout=60)
        return self.popen.returncode, stdout, stderr


def problems(stderr: str) -> list[str]:
    """Returns the lines of a log that tell of a problem, and those that are no log."""
    return [line for line in stderr.splitlines() if not re.match(r"\S+Z INFO palaver_server", line)]


def popen(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextmanager
def started(*arguments: str, **environment: str) -> Iterator[Process]:
    """Runs a server on a free port until the end of the block."""
    with popen("--listen", "127.0.0.1:0", "--offline-model", *arguments, **environment) as process:
        try:
            line = process.stdout.readline()
            match = re.fullmatch(r"palaver-server listening on (127\.0\.0\.1:[1-9]\d*)\n", line)
            assert match, line + process.stderr.read()
            yield Process(process, match.group(1))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def failed(*arguments: str, **environment: str) -> str:
    """Runs a server that must fail to start, and returns its error message."""
    with popen(*arguments, **environment) as process:
        try:
            assert process.stdout.readline() == ""
            _, stderr = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert "Traceback" not in stderr
    # Nobody else has a word: no library, and not the C++ core of gRPC.
    [line] = {line for line in stderr.splitlines() if not re.match(r"\S+Z [A-Z]+ palaver_server", line)}
    assert line.startswith("palaver-server: ")
    return line.removeprefix("palaver-server: ")


@contextmanager
def stub(address: str) -> Iterator[AssistantServiceStub]:
    with grpc.insecure_channel(address) as channel:
        yield AssistantServiceStub(channel)


def serves(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        return response.status == health_pb2.HealthCheckResponse.SERVING


class TestStarting:
    def test_the_server_prints_one_line_until_it_is_stopped(self, folder: Path):
        with started() as server:
            assert serves(server.address)
            server.popen.terminate()
            assert server.end_without_problems() == (0, "")
        assert (folder / "palaver-data" / "palaver.db").is_file()

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("AzureWebJobsStorage__accountName", "mystorage"),
            ("azurewebjobsstorage__TABLESERVICEURI", "https://mystorage.table.core.windows.net"),
        ],
    )
    def test_tables_without_an_identity_stop_the_start_by_the_name_of_the_setting(
        self, folder: Path, variable: str, value: str
    ):
        nowhere = {
            "AZURE_TOKEN_CREDENTIALS": "prod",  # not those of a developer who is logged in
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": f"http://127.0.0.1:{free_port()}",
        }
        assert failed("--listen", "127.0.0.1:0", **{variable: value}, **nowhere).startswith(
            f"{variable}: the tables need an Azure identity, and none is found on this machine"
        )
        assert not (folder / "palaver-data").exists()

    @pytest.mark.parametrize(
        ("workers", "number", "whole_group"),
        [
            (1, signal.SIGTERM, False),
            (1, signal.SIGINT, True),
            (2, signal.SIGTERM, False),
            (2, signal.SIGTERM, True),
            (2, signal.SIGINT, True),
        ],
    )
    def test_a_signal_stops_the_process_with_status_0(self, workers: int, number: signal.Signals, whole_group: bool):
        with started("--workers", str(workers)) as server:
            # Ctrl-C and most service managers signal all processes of the group, others only the first one.
            (os.killpg if whole_group else os.kill)(server.popen.pid, number)
            assert server.end_without_problems() == (0, "")

    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize("whole_group", [False, True])
    def test_a_hangup_stops_nothing(self, workers: int, whole_group: bool):
        with started("--workers", str(workers)) as server:
            (os.killpg if whole_group else os.kill)(server.popen.pid, signal.SIGHUP)
            assert serves(server.address)
            assert len(server.workers()) == (0 if workers == 1 else workers)
            server.popen.terminate()
            assert server.end_without_problems() == (0, "")

    def test_stored_turns_survive_a_restart(self):
        with started() as server:
            with stub(server.address) as calls:
                calls.CreateAssistant(pb.CreateAssistantRequest(id="a", instructions="Be brief."))
                query = pb.PostUserQueryRequest(id="a", user_message="Hello", max_tokens=3)
                completed = calls.PostUserQueryUnary(query).completed
            server.popen.kill()
            server.popen.wait()
        with started() as server, stub(server.address) as calls:
            messages = calls.ListMessages(pb.ListMessagesRequest(id="a")).messages
            assert list(messages[1:]) == list(completed.messages)

    def test_help_names_every_setting(self):
        with popen("--help") as process:
            stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stderr) == (0, "")
        for name, field in Settings.model_fields.items():
            assert f"--{name.replace('_', '-')} " in stdout
            assert field.description in re.sub(r"\s+", " ", stdout)

    def test_an_unknown_palaver_variable_is_reported(self):
        with started(PALAVER_LISTENS="127.0.0.1:1", PALAVER_TOKEN="a client's") as server:
            server.popen.terminate()
            status, stdout, stderr = server.end()
        assert (status, stdout) == (0, "")
        [line] = problems(stderr)
        assert line.endswith("PALAVER_LISTENS is not a setting of this server")

    def test_retries_are_logged_with_their_reasons(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            nobody = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        variables = {"OPENAI_API_KEY": "sk-secret", "OPENAI_BASE_URL": nobody}
        with started("--no-offline-model", **variables) as server:
            with stub(server.address) as calls:
                calls.CreateAssistant(pb.CreateAssistantRequest(id="a"))
                with pytest.raises(grpc.RpcError):
                    calls.PostUserQueryUnary(pb.PostUserQueryRequest(id="a", user_message="Hello"))
            server.popen.terminate()
            _, _, stderr = server.end()
        assert re.search(
            r"a call is repeated reason=MODEL_UNAVAILABLE cause=.*Connect call failed.* retry=1 in_seconds=0\.\d",
            stderr,
        )
        assert "sk-secret" not in stderr

    def test_a_server_without_a_model_logs_it(self):
        with started("--no-offline-model") as server:
            server.popen.terminate()
            status, stdout, stderr = server.end()
        assert (status, stdout) == (0, "")
        [line] = problems(stderr)
        assert "no AI connection is configured" in line


class TestRefusingToStart:
    @pytest.mark.parametrize(
        ("workers", "variables", "line"),
        [
            ("1", {"PALAVER_TURN_TIMEOUT": "0"}, "PALAVER_TURN_TIMEOUT: .*greater than 0, not '0'"),
            ("2", {"PALAVER_TURN_TIMEOUT": "0"}, "PALAVER_TURN_TIMEOUT: .*greater than 0, not '0'"),
            (
                "1",
                {"AzureWebJobsStorage": "nonsense"},
                'AzureWebJobsStorage: must be a connection string .* or "sqlite:P',
            ),
            ("1", {"PALAVER_AI_CONNECTIONS": "Mine"}, "Mine__Endpoint: the AI connection Mine needs the URL"),
            ("1", {"PALAVER_DATA_DIR": "/dev/null"}, "the database /dev/null/palaver.db can't be used: the folder"),
            ("1", {"PALAVER_LISTEN": "127.0.0.1"}, "PALAVER_LISTEN: .*not '127.0.0.1'"),
            ("2", {"PALAVER_LISTEN": "127.0.0.1:99999"}, "PALAVER_LISTEN: .*not '127.0.0.1:99999'"),
        ],
    )
    def test_an_invalid_setting_is_named(self, workers: str, variables: dict[str, str], line: str):
        environment = {"PALAVER_LISTEN": "127.0.0.1:0", "PALAVER_WORKERS": workers, **variables}
        assert re.match(line, failed(**environment))

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("AzureWebJobsStorage__tableServiceUri", "https://a.table.core.windows.net/?sv=1&sig={}"),
            ("AzureWebJobsStorage__tableServiceUri", "http://{}:x@a.table.core.windows.net/"),
            ("AzureWebJobsStorage__credential", "{}"),
            ("AzureWebJobsStorage", "https://a.table.core.windows.net/?sig={}"),
            ("AzureWebJobsStorage", "AccountKey={}"),
            ("PALAVER_STORAGE_CONNECTIONS", "AccountName=a;AccountKey={};EndpointSuffix=core.windows.net"),
            ("PALAVER_AI_CONNECTIONS", "sk-{}"),
            ("PALAVER_AI_CONNECTIONS", "https://u:{}@host/"),
            ("PALAVER_LISTEN", "https://u:{}@host"),
            ("PALAVER_SKILL_HOSTS", "grpcs://u:{}@host:1"),
            ("PALAVER_SKILL_HOSTS", "host:1?token={}"),
            ("PALAVER_TLS_KEY", "-----BEGIN PRIVATE KEY-----{}"),
        ],
    )
    def test_no_secret_is_printed(self, variable: str, value: str):
        environment = {"PALAVER_LISTEN": "127.0.0.1:0", variable: value.format("SECRET0123456789")}
        with popen(**environment) as process:
            stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stdout) == (1, "")
        assert stderr.splitlines()[-1].startswith("palaver-server: ")
        assert "secret0123456789" not in stderr.lower()

    def test_an_unknown_flag_is_named(self):
        with popen("--listens", "x") as process:
            stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stdout) == (2, "")
        assert stderr.splitlines()[-1] == "palaver-server: error: unrecognized arguments: --listens x"

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_a_port_of_another_program_is_reported(self, workers: str):
        with closing(socket.create_server(("127.0.0.1", 0))) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            line = failed("--listen", address, "--workers", workers, "--offline-model")
        assert line.startswith(f"PALAVER_LISTEN: can't listen on {address}")

    @pytest.mark.parametrize(("first_workers", "workers"), [("1", "1"), ("2", "2")])
    def test_a_port_of_another_palaver_server_is_reported(self, first_workers: str, workers: str):
        with started("--workers", first_workers) as server:
            line = failed("--listen", server.address, "--workers", workers, "--data-dir", "other", "--offline-model")
            assert line.startswith(f"PALAVER_LISTEN: can't listen on {server.address}")
            assert serves(server.address)

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_a_corrupt_default_database_fails_the_start_and_is_not_changed(self, folder: Path, workers: str):
        database = folder / "palaver-data" / "palaver.db"
        database.parent.mkdir()
        database.write_bytes(b"This was a database once." * 1000)
        line = failed("--listen", "127.0.0.1:0", "--workers", workers)
        assert line == "the database palaver-data/palaver.db can't be used: the database is damaged"
        assert database.read_bytes() == b"This was a database once." * 1000


class TestWorkers:
    def test_workers_share_one_port_and_one_store(self):
        with started("--workers", "2") as server:
            workers = server.workers()
            assert len(workers) == 2
            port = int(server.address.rpartition(":")[2])
            for worker in workers:
                listening = {c.laddr.port for c in worker.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
                assert port in listening
            with stub(server.address) as calls:
                calls.CreateAssistant(pb.CreateAssistantRequest(id="a", instructions="Be brief."))
            # Each channel is a connection of its own, and the system spreads connections over the workers.
            served_by = set()
            for number in range(200):
                options = [("grpc.use_local_subchannel_pool", 1)]
                with grpc.insecure_channel(server.address, options) as channel:
                    calls = AssistantServiceStub(channel)
                    assert calls.GetAssistant(pb.GetAssistantRequest(id="a")).assistant.total_messages == 1
                    for worker in workers:
                        if any(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == port
                               for c in worker.net_connections("tcp")):  # fmt: skip
                            served_by.add(worker.pid)
                if len(served_by) == 2 and number >= 3:
                    break
            assert served_by == {worker.pid for worker in workers}

    def test_the_death_of_a_worker_ends_the_program_with_status_1(self):
        with started("--workers", "2") as server:
            workers = server.workers()
            workers[0].kill()
            status, stdout, stderr = server.end()
            assert (status, stdout) == (1, "")
            assert "a worker ended unexpectedly" in stderr
            assert not any(worker.is_running() for worker in workers)

    @pytest.mark.parametrize("frozen", [1, 2])
    def test_a_frozen_worker_is_killed_when_its_time_is_over(self, frozen: int):
        with started("--workers", "2", "--grace-period", "0", "--commit-timeout", "0.1") as server:
            workers = server.workers()
            for worker in workers[:frozen]:
                worker.suspend()
            server.popen.terminate()
            status, stdout, stderr = server.end()
            assert (status, stdout) == (1, "")
            for worker in workers[:frozen]:
                assert f"worker {worker.pid} did not stop within 8.1 s and is killed" in stderr
            assert not any(worker.is_running() for worker in workers)

    def test_the_death_of_the_program_ends_the_workers(self):
        with started("--workers", "2") as server:
            workers = server.workers()
            server.popen.kill()
            _, alive = psutil.wait_procs(workers, timeout=60)
            for worker in alive:
                worker.kill()
            assert alive == []


class TestServing:
    def test_health_is_answered_for_the_server_and_for_each_service(self):
        with started() as server, grpc.insecure_channel(server.address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            for service in ("", SERVICE):
                response = check(health_pb2.HealthCheckRequest(service=service))
                assert response.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError) as caught:
                check(health_pb2.HealthCheckRequest(service="unknown"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    def test_reflection_is_served_with_the_flag(self):
        with started("--reflection") as server, grpc.insecure_channel(server.address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
            file = database.FindFileContainingSymbol(SERVICE)
            assert file.name == "palaver/v1/assistant_service.proto"

    def test_reflection_is_not_served_without_the_flag(self):
        with started() as server, grpc.insecure_channel(server.address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            with pytest.raises(grpc.RpcError) as caught:
                database.get_services()
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


class TestTls:
    @pytest.fixture(autouse=True)
    def certificates(self, folder: Path) -> Certificates:
        return issue_certificates(folder)

    FLAGS = ("--tls-certificate", "certificate.pem", "--tls-key", "key.pem")

    def test_a_client_that_trusts_the_certificate_is_served(self, certificates: Certificates):
        with started(*self.FLAGS, "--workers", "2") as server:
            with grpc.secure_channel(server.address, certificates.channel_credentials) as channel:
                response = AssistantServiceStub(channel).CreateAssistant(pb.CreateAssistantRequest(id="a"))
            assert response.created

    def test_a_client_without_tls_or_trust_is_not_served(self):
        stranger = grpc.ssl_channel_credentials(trustme.CA().cert_pem.bytes())
        with started(*self.FLAGS) as server:
            for channel in (grpc.insecure_channel(server.address), grpc.secure_channel(server.address, stranger)):
                with channel, pytest.raises(grpc.RpcError) as caught:
                    AssistantServiceStub(channel).GetAssistant(pb.GetAssistantRequest(id="a"), timeout=30)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    @pytest.mark.parametrize("broken", ["certificate.pem", "key.pem"])
    def test_an_invalid_certificate_or_key_is_reported(self, broken: str):
        Path(broken).write_text("nonsense")
        line = failed("--listen", "127.0.0.1:0", *self.FLAGS, "--offline-model")
        assert line.startswith("PALAVER_TLS_CERTIFICATE")

    def test_the_key_of_another_certificate_is_reported(self):
        trustme.CA().issue_cert("localhost").private_key_pem.write_to_path("key.pem")
        line = failed("--listen", "127.0.0.1:0", *self.FLAGS, "--offline-model")
        assert line.startswith("PALAVER_TLS_CERTIFICATE")


class TestCallers:
    @pytest.mark.parametrize(
        "listen",
        ["0.0.0.0:0", "[::]:0", "example.com:0", "localhost.evil.example:0", "10.0.0.1:0", "[::ffff:10.0.0.1]:0"],
    )
    def test_an_open_address_needs_callers(self, listen: str):
        line = failed("--listen", listen, "--offline-model")
        assert line.startswith(f"PALAVER_LISTEN: on {listen}, everyone on the network could do everything: ")
        assert "PALAVER_CALLERS" in line
        assert "PALAVER_ALLOW_UNAUTHENTICATED=true" in line

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_keys_on_an_open_address_need_tls(self, folder: Path, workers: str):
        CallersFile(folder / "callers.toml").write(shop={})
        arguments = ("--listen", "0.0.0.0:0", "--callers", "callers.toml", "--offline-model", "--workers", workers)
        line = failed(*arguments)
        assert line.startswith("PALAVER_LISTEN: on 0.0.0.0:0, keys and tokens would cross the network in the clear: ")
        assert "PALAVER_ALLOW_UNENCRYPTED=true" in line

    def test_an_invalid_callers_file_is_reported(self, folder: Path):
        (folder / "callers.toml").write_text("[callers.shop]\ncolour = 1")
        line = failed("--listen", "127.0.0.1:0", "--callers", "callers.toml", "--offline-model")
        assert line.startswith("PALAVER_CALLERS: [callers.shop] 'colour': no such key; ")

    def test_workers_know_the_callers_and_read_the_file_again(self, folder: Path):
        callers = CallersFile(folder / "callers.toml")
        callers.write(shop={})
        request = pb.CreateAssistantRequest(id="a", if_exists=pb.IF_EXISTS_KEEP)

        def is_served(name: str) -> bool:
            # Each connection may reach another worker.
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(server.address, options) as channel:
                call = AssistantServiceStub(channel).CreateAssistant
                try:
                    call(request, metadata=callers.as_caller(name), timeout=30)
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                        raise
                    return False
            return True

        with started("--workers", "2", "--callers", "callers.toml") as server:
            assert all(is_served("shop") for _ in range(10))
            callers.digest("till")
            assert not any(is_served("till") for _ in range(10))
            callers.write(till={})
            # All ten may reach the same worker, and the other one may read the file a moment later.
            while not all(is_served("till") for _ in range(10)) or any(is_served("shop") for _ in range(10)):
                pass

    def test_keygen_prints_a_key_once_and_its_block(self, folder: Path):
        def keygen(*arguments: str) -> str:
            done = subprocess.run(
                [COMMAND, "keygen", *arguments], capture_output=True, text=True, check=True, timeout=60
            )
            assert done.stderr == ""
            return done.stdout

        first, second = keygen("checkout"), keygen("checkout")
        [key] = re.findall(r"^plv_[\w-]{43}$", first, re.MULTILINE)
        assert key not in second
        (folder / "callers.toml").write_text(first[first.index("[callers.checkout]") :])
        with started("--callers", "callers.toml") as server, stub(server.address) as calls:
            metadata = (("authorization", f"Bearer {key}"),)
            assert calls.CreateAssistant(pb.CreateAssistantRequest(id="a"), metadata=metadata).created

    @pytest.mark.parametrize("arguments", [(), ("a b",), ("a", "b"), ("a]",)])
    def test_keygen_needs_a_name(self, arguments: tuple[str, ...]):
        assert failed("keygen", *arguments).startswith("keygen: give the name of the caller: 1 to 64 ASCII letters")
