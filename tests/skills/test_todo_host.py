"""The to-do host from the examples, as a process that is killed between an effect and its answer."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from palaver.v1.skill_host_service_pb2 import InvokeSkillRequest, ListSkillsRequest
from palaver.v1.skill_host_service_pb2_grpc import SkillHostServiceStub

COMMAND = [sys.executable, Path(__file__).parents[2] / "examples" / "todo_host" / "todo_host.py"]


@dataclass(frozen=True)
class TodoHost:
    process: subprocess.Popen[str]
    address: str
    stub: SkillHostServiceStub

    def start(self, name: str, call_id: str = "", assistant_id: str = "a", **arguments: Any) -> Any:
        return self.stub.InvokeSkill.future(
            InvokeSkillRequest(
                name=name, call_id=call_id, assistant_id=assistant_id, arguments_json=json.dumps(arguments)
            )
        )

    def call(self, *arguments: Any, **fields: Any) -> Any:
        outcome = self.start(*arguments, **fields).result(timeout=60)
        return outcome.error or json.loads(outcome.content)

    def kill(self) -> None:
        self.process.kill()
        assert self.process.wait(timeout=60) == -signal.SIGKILL


@contextmanager
def todo_host(database: Path) -> Iterator[TodoHost]:
    with subprocess.Popen(
        [*COMMAND, "--listen", "127.0.0.1:0", "--database", database], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stdout.readline()
            match = re.fullmatch(
                r"todo-host listening on (127\.0\.0\.1:[1-9]\d*) with add_todo, list_todos, complete_todo\n", line
            )
            assert match, line
            address = match.group(1)
            with grpc.insecure_channel(address) as channel:
                yield TodoHost(process, address, SkillHostServiceStub(channel))
        finally:
            process.kill()


@pytest.fixture
def database(tmp_path) -> Path:
    return tmp_path / "todos.db"


def todo(number: int, task: str, is_completed: bool = False) -> dict[str, Any]:
    return {"id": number, "task": task, "is_completed": is_completed}


def test_to_dos_are_added_listed_and_completed(database):
    with todo_host(database) as host:
        skills = host.stub.ListSkills(ListSkillsRequest()).skills
        assert [skill.name for skill in skills] == ["add_todo", "list_todos", "complete_todo"]
        assert host.call("list_todos") == []
        assert host.call("add_todo", task="buy milk") == todo(1, "buy milk")
        assert host.call("add_todo", task="buy milk") == todo(2, "buy milk")
        for _ in range(2):
            assert host.call("complete_todo", id=2) == todo(2, "buy milk", is_completed=True)
        assert host.call("list_todos") == [todo(1, "buy milk"), todo(2, "buy milk", is_completed=True)]
        assert "there is no to-do with the id 3" in host.call("complete_todo", id=3)
        assert "task: String should have at least 1 character" in host.call("add_todo", task="")
        assert "id: Input should be less than" in host.call("complete_todo", id=2**63)


def test_an_assistant_sees_only_its_own_to_dos(database):
    with todo_host(database) as host:
        assert host.call("add_todo", "c", "a", task="mine") == todo(1, "mine")
        assert host.call("add_todo", "c", "b", task="yours") == todo(1, "yours")
        assert host.call("complete_todo", "d", "b", id=1) == todo(1, "yours", is_completed=True)
        assert host.call("add_todo", "e", "b", task="yours too") == todo(2, "yours too")
        assert "there is no to-do with the id 2" in host.call("complete_todo", "f", "a", id=2)
        assert host.call("list_todos", "g", "a") == [todo(1, "mine")]


def test_a_repeated_call_after_a_kill_does_not_add_a_second_to_do(database):
    with todo_host(database) as host:
        assert host.call("add_todo", "c1", task="buy milk") == todo(1, "buy milk")
        host.kill()
    with todo_host(database) as host:
        assert host.call("add_todo", "c1", task="buy milk") == todo(1, "buy milk")
        assert host.call("add_todo", "c2", task="buy milk") == todo(2, "buy milk")
        assert len(host.call("list_todos")) == 2


def test_calls_interrupted_by_a_kill_can_be_repeated(database):
    with todo_host(database) as host:
        calls = {f"c{number}": host.start("add_todo", f"c{number}", task=f"task {number}") for number in range(40)}
        answer = threading.Event()
        for call in calls.values():
            call.add_done_callback(lambda _: answer.set())
        assert answer.wait(60)
        host.kill()
        answered = {
            call_id: json.loads(call.result().content) for call_id, call in calls.items() if call.exception() is None
        }
    with todo_host(database) as host:
        repeated = {
            call_id: host.call("add_todo", call_id, task=f"task {call_id.removeprefix('c')}") for call_id in calls
        }
        assert answered.items() <= repeated.items()
        todos = host.call("list_todos")
    assert [found["id"] for found in todos] == list(range(1, 41))
    assert sorted(found["task"] for found in todos) == sorted(f"task {number}" for number in range(40))


def test_a_port_in_use_is_reported_in_one_line(database):
    with todo_host(database) as host:
        command = [*COMMAND, "--listen", host.address, "--database", database]
        second = subprocess.run(command, check=False, capture_output=True, text=True)
    assert second.returncode == 1
    assert f"todo-host: can't listen on {host.address}; is the port taken?" in second.stderr.splitlines()
    assert "Traceback" not in second.stderr
