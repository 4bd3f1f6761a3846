"""The example skill hosts in Go and TypeScript: built, run as processes, and called with the Python stubs."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from palaver.v1 import skill_host_service_pb2 as pb
from palaver.v1.skill_host_service_pb2_grpc import SkillHostServiceStub
from tests.skill_hosts.hosts import EXAMPLES, Built, make_typescript
from tests.support.commands import run

CLIENT_GO = EXAMPLES.parent / "client" / "go"
SERVICE = "palaver.v1.SkillHostService"
MILK = {"id": 1, "task": "Buy milk", "done": False}

# The first build compiles gRPC or installs a compiler, which takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Host:
    """A host that listens."""

    popen: subprocess.Popen[str]
    channel: grpc.Channel

    @property
    def stub(self) -> SkillHostServiceStub:
        return SkillHostServiceStub(self.channel)

    def invoke(self, name: str, arguments: object, *, call_id: str = "call", assistant: str = "a"):
        """Calls a skill. Returns the decoded content, and the error."""
        response = self.stub.InvokeSkill(request(name, arguments, call_id=call_id, assistant=assistant))
        if response.WhichOneof("outcome") == "error":
            return None, response.error
        return json.loads(response.content), None

    def todos(self, assistant: str = "a") -> list[dict[str, object]]:
        content, error = self.invoke("list_todos", {}, assistant=assistant)
        assert error is None
        return content["todos"]


def request(name: str, arguments: object, *, call_id: str, assistant: str) -> pb.InvokeSkillRequest:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return pb.InvokeSkillRequest(call_id=call_id, name=name, arguments_json=text, assistant_id=assistant)


def popen(built: Built, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*built.command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def started(built: Built, file: Path, *arguments: str) -> Iterator[Host]:
    """Runs a host on a free port until the end of the block."""
    with popen(built, "--listen", "127.0.0.1:0", "--file", str(file), *arguments) as process:
        try:
            line = process.stdout.readline()
            match = re.fullmatch(
                r"todo_host listening on (127\.0\.0\.1:[1-9]\d*) with (\w*add_todo, \w*list_todos, \w*complete_todo)\n",
                line,
            )
            assert match, line + process.stderr.read()
            with grpc.insecure_channel(match.group(1)) as channel:
                yield Host(process, channel)
        finally:
            process.kill()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "todos.json"


@pytest.fixture
def host(built: Built, file: Path) -> Iterator[Host]:
    with started(built, file) as running:
        yield running


class TestListing:
    def test_the_skills_are_listed_with_their_schemas(self, host: Host):
        skills = {skill.name: skill for skill in host.stub.ListSkills(pb.ListSkillsRequest()).skills}
        assert set(skills) == {"add_todo", "list_todos", "complete_todo"}
        for skill in skills.values():
            assert skill.description
            assert json.loads(skill.parameters_json_schema)["type"] == "object"

    def test_a_prefix_keeps_the_names_of_two_hosts_apart(self, built: Built, file: Path):
        with started(built, file, "--prefix", "go_") as host:
            names = {skill.name for skill in host.stub.ListSkills(pb.ListSkillsRequest()).skills}
            assert names == {"go_add_todo", "go_list_todos", "go_complete_todo"}
            assert host.invoke("go_add_todo", {"task": "Buy milk"}) == (MILK, None)
            with pytest.raises(grpc.RpcError) as caught:
                host.invoke("add_todo", {"task": "Buy milk"})
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND


class TestInvoking:
    def test_a_todo_is_added_listed_and_completed(self, host: Host):
        assert host.todos() == []
        assert host.invoke("add_todo", {"task": "Buy milk"}, call_id="1") == (MILK, None)
        assert host.todos() == [MILK]
        done = {**MILK, "done": True}
        assert host.invoke("complete_todo", {"id": 1}, call_id="2") == (done, None)
        assert host.todos() == [done]

    def test_a_repeated_call_has_no_second_effect(self, host: Host):
        for _ in range(2):
            assert host.invoke("add_todo", {"task": "Buy milk"}) == (MILK, None)
        assert host.todos() == [MILK]

    def test_assistants_are_kept_apart(self, host: Host):
        assert host.invoke("add_todo", {"task": "Buy milk"}, assistant="a") == (MILK, None)
        sleep = {"id": 1, "task": "Sleep", "done": False}
        assert host.invoke("add_todo", {"task": "Sleep"}, assistant="b") == (sleep, None)
        assert host.todos("a") == [MILK]
        assert host.todos("b") == [sleep]
        assert host.todos("c") == []

    @pytest.mark.parametrize(
        ("name", "arguments", "error"),
        [
            ("add_todo", '{"task": ', "the arguments are wrong"),
            ("add_todo", ["Buy milk"], "must be a JSON object, not array"),
            ("add_todo", {}, '"task" is missing'),
            ("add_todo", {"task": 1}, '"task" has the wrong type: number'),
            ("add_todo", {"task": " "}, '"task" must say what is to be done'),
            ("add_todo", {"task": "x" * 501}, '"task" must not have more than 500 characters'),
            ("add_todo", {"task": "x", "due": "now"}, 'unknown field "due"'),
            ("list_todos", {"all": True}, 'unknown field "all"'),
            ("complete_todo", {"id": "1"}, '"id" has the wrong type: string'),
            ("complete_todo", {"id": 7}, "there is no to-do 7; list_todos lists all"),
        ],
    )
    def test_an_error_that_the_model_can_fix_is_in_the_result(
        self, host: Host, name: str, arguments: object, error: str
    ):
        content, message = host.invoke(name, arguments)
        assert content is None
        assert error in message
        assert host.todos() == []

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"name": "remove_todo"}, grpc.StatusCode.NOT_FOUND),
            ({"call_id": ""}, grpc.StatusCode.INVALID_ARGUMENT),
            ({"assistant": ""}, grpc.StatusCode.INVALID_ARGUMENT),
        ],
    )
    def test_an_error_that_the_model_can_not_fix_is_a_status(
        self, host: Host, changes: dict[str, str], code: grpc.StatusCode
    ):
        call = {"name": "add_todo", "arguments": {"task": "Buy milk"}, "call_id": "1", "assistant": "a", **changes}
        with pytest.raises(grpc.RpcError) as caught:
            host.stub.InvokeSkill(request(**call))
        assert caught.value.code() is code


class TestCrashing:
    def test_a_call_repeated_after_a_crash_has_no_second_effect(self, built: Built, file: Path):
        with started(built, file) as host:
            assert host.invoke("add_todo", {"task": "Buy milk"}) == (MILK, None)
            host.popen.kill()
            assert host.popen.wait(timeout=60) == -signal.SIGKILL
        with started(built, file) as host:
            assert host.todos() == [MILK]
            assert host.invoke("add_todo", {"task": "Buy milk"}) == (MILK, None)
            assert host.todos() == [MILK]

    def test_calls_interrupted_by_a_crash_take_effect_once_when_repeated(self, built: Built, file: Path):
        requests = [
            request("add_todo", {"task": str(number)}, call_id=str(number), assistant="a") for number in range(100)
        ]
        with started(built, file) as host:
            calls = [host.stub.InvokeSkill.future(request) for request in requests]
            calls[10].result()
            host.popen.kill()
            before = [call.result().content if call.exception() is None else None for call in calls]
        assert before[10] is not None
        with started(built, file) as host:
            after = [host.stub.InvokeSkill(request).content for request in requests]
            assert sorted(int(todo["task"]) for todo in host.todos()) == list(range(100))
        assert all(earlier in (None, later) for earlier, later in zip(before, after, strict=True))


class TestStarting:
    def test_health_is_answered_for_the_host_and_for_its_service(self, host: Host):
        check = health_pb2_grpc.HealthStub(host.channel).Check
        for service in ("", SERVICE):
            assert (
                check(health_pb2.HealthCheckRequest(service=service)).status == health_pb2.HealthCheckResponse.SERVING
            )

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_stops_the_process_with_status_0(self, host: Host, number: signal.Signals):
        assert host.todos() == []
        host.popen.send_signal(number)
        stdout, stderr = host.popen.communicate(timeout=60)
        assert (host.popen.returncode, stdout, stderr) == (0, "", "")

    def test_a_file_of_another_kind_fails_the_start_and_is_not_changed(self, built: Built, file: Path):
        file.write_text("Once upon a time")
        with popen(built, "--listen", "127.0.0.1:0", "--file", str(file)) as process:
            stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stdout) == (1, "")
        assert stderr.startswith(f"todo_host: {file} is not a file of to-dos: ")
        assert file.read_text() == "Once upon a time"

    def test_an_invalid_prefix_fails_the_start(self, built: Built, file: Path):
        with popen(built, "--listen", "127.0.0.1:0", "--file", str(file), "--prefix", "go.") as process:
            stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stdout) == (1, "")
        assert re.match(r'todo_host: --?prefix makes the name "go\.add_todo"', stderr)


class TestCode:
    @pytest.mark.usefixtures("built_go")
    def test_the_go_host_is_formatted_vetted_and_tested(self, go: str):
        host = EXAMPLES / "todo_host_go"
        gofmt = shutil.which("gofmt") or str(Path(run(go, "env", "GOROOT", folder=host).strip()) / "bin" / "gofmt")
        assert run(gofmt, "-l", ".", folder=host) == ""
        run(go, "vet", "./...", folder=host)
        run(go, "test", "./...", folder=host)
        run(go, "vet", "./...", folder=CLIENT_GO)

    @pytest.mark.usefixtures("built_typescript")
    def test_the_typescript_host_is_formatted_linted_and_tested(self):
        make_typescript("lint", "test")
