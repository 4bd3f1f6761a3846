"""What a skill host sends costs no more than its own skill or call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from palaver.v1 import assistant_pb2
from palaver.v1 import skill_host_service_pb2 as pb
from palaver_server.domain.limits import MAX_DESCRIPTION_CHARACTERS, MAX_SKILL_RESULT_BYTES
from tests.support.calls import query
from tests.support.endpoint import Endpoint, Stream, skill_calls
from tests.support.palaver_server import server_with_assistant
from tests.support.skill_host import SkillHost, content

INTERNAL = grpc.StatusCode.INTERNAL
CONTROLS = "\x1b[2J\u202e\x00\n" * 100
FAILED = "The skill add failed."
NOT_UNDERSTOOD = "The skill add sent a response that can't be understood."


def skill(name: str, description: str = "") -> assistant_pb2.Skill:
    return assistant_pb2.Skill(name=name, description=description, parameters_json_schema='{"type": "object"}')


def listing(*skills: assistant_pb2.Skill) -> bytes:
    return pb.ListSkillsResponse(skills=skills).SerializeToString()


GOOD = listing(skill("add"))
LONG = "x" * (MAX_DESCRIPTION_CHARACTERS + 1)


@pytest.mark.parametrize(
    ("answer", "offered"),
    [
        (listing(skill("add"), skill("long", LONG)), {"add"}),
        (listing(skill("add", LONG[1:])), {"add"}),
        (listing(skill("add"), skill("add", "again")), {"add"}),
        (listing(skill("add"), skill("n" * 1_000_000), skill(CONTROLS)), {"add"}),
        (listing(skill("add"), skill("huge", "x" * 5_000_000)), set()),
        (GOOD + b"\x0a\x03\x0a\x01\xff", set()),
        (GOOD + b"\xff" * 100, set()),
    ],
)
async def test_a_bad_list_costs_only_what_is_bad(tmp_path: Path, endpoint: Endpoint, answer: bytes, offered: set[str]):
    async with SkillHost(other=lambda _: content("other")) as other, SkillHost() as host:
        host.listing = answer
        async with server_with_assistant(tmp_path, endpoint.url, skill_hosts=(host.target, other.target)) as served:
            await served.stub.PostUserQueryUnary(query())
    assert {tool["function"]["name"] for tool in endpoint.calls[0].body["tools"]} == offered | {"other"}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (content("x" * (MAX_SKILL_RESULT_BYTES + 1)), "is not used"),
        (content("ä" * MAX_SKILL_RESULT_BYTES), "is not used"),
        (content("x" * 5_000_000), FAILED),
        (b"\x0a\x01\xff", NOT_UNDERSTOOD),
        (b"\xff" * 1_000, NOT_UNDERSTOOD),
        (b"", NOT_UNDERSTOOD),
        ((INTERNAL, CONTROLS), FAILED),
        ((INTERNAL, "x" * 1_000_000), FAILED),
        ((INTERNAL, "failed", (("key", "x" * 1_000_000),)), FAILED),
        ((INTERNAL, "failed", tuple((f"key{number}", "x") for number in range(10_000))), FAILED),
        ((INTERNAL, "failed", (("grpc-status-details-bin", b"\xff" * 1_000),)), FAILED),
    ],
)
async def test_a_bad_result_costs_only_the_call(
    tmp_path: Path, endpoint: Endpoint, answer: Any, told: str, caplog: pytest.LogCaptureFixture
):
    async with (
        SkillHost(add=lambda _: answer) as host,
        server_with_assistant(tmp_path, endpoint.url, skill_hosts=(host.target,)) as served,
    ):
        endpoint.script(skill_calls(("add", '{"task": "x"}')), Stream("Sorry."))
        completed = (await served.stub.PostUserQueryUnary(query(), timeout=30)).completed
    assert told in completed.messages[2].content
    assert completed.messages[-1].content == "Sorry."
    assert "\x1b" not in caplog.text
    assert len(caplog.text) < 5_000
