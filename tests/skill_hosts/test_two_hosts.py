"""The whole to-do example: a server, a host in Python and one in Go or TypeScript, each in a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1 import skill_host_service_pb2 as host_pb
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub
from palaver.v1.skill_host_service_pb2_grpc import SkillHostServiceStub
from tests.skill_hosts.hosts import Built
from tests.support.endpoint import Endpoint, Stream, skill_calls
from tests.support.server_process import server_process

PYTHON_HOST = Path(__file__).parents[2] / "examples" / "todo_host" / "todo_host.py"

# The first build compiles gRPC or installs a compiler, which takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(600)


@asynccontextmanager
async def started(*command: str | Path) -> AsyncIterator[str]:
    """Runs a host until the end of the block, and yields its address."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().split()[3]
    finally:
        process.kill()
        await process.wait()


async def listed(address: str, name: str) -> Any:
    """Returns the to-dos of the assistant, directly from a host."""
    async with grpc.aio.insecure_channel(address) as channel:
        request = host_pb.InvokeSkillRequest(call_id="x", name=name, arguments_json="{}", assistant_id="a")
        return json.loads((await SkillHostServiceStub(channel).InvokeSkill(request)).content)


async def test_the_to_dos_are_kept_by_hosts_in_two_languages(tmp_path: Path, built: Built, endpoint: Endpoint):
    other = (*built.command, "--listen", "127.0.0.1:0", "--file", tmp_path / "todos.json", "--prefix", "work_")
    python = (sys.executable, PYTHON_HOST, "--listen", "127.0.0.1:0", "--database", tmp_path / "todos.db")
    async with started(*python) as home, started(*other) as work:
        async with server_process(tmp_path, endpoint.url, PALAVER_SKILL_HOSTS=f"{home},{work}") as server:
            await converse(server.stub, endpoint)
        assert [todo["task"] for todo in await listed(home, "list_todos")] == ["call my dad"]
        assert [todo["task"] for todo in (await listed(work, "work_list_todos"))["todos"]] == ["take out the trash"]


async def converse(stub: AssistantServiceStub, endpoint: Endpoint) -> None:
    async def say(user_message: str) -> pb.TurnCompleted:
        request = pb.PostUserQueryRequest(id="a", user_message=user_message)
        return (await stub.PostUserQueryUnary(request, timeout=60)).completed

    endpoint.script(
        skill_calls(("add_todo", '{"task": "call my dad"}')), Stream("I will."),
        skill_calls(("work_add_todo", '{"task": "take out the trash"}')), Stream("I will, too."),
        skill_calls(("list_todos", "{}"), ("work_list_todos", "{}")), Stream("Two things."),
    )  # fmt: skip
    await stub.CreateAssistant(pb.CreateAssistantRequest(id="a"))
    await say("Remind me to call my dad")
    await say("and to take out the trash")
    completed = await say("What do I have to do?")
    _, _, home, work, reply = [message.content for message in completed.messages]
    assert "call my dad" in home
    assert "take out the trash" in work
    assert reply == "Two things."
    assert len(endpoint.calls[0].body["tools"]) == 6
