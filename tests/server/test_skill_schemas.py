"""Schemas and arguments that are broken or costly: none harms more than its own skill or request."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from palaver.v1 import assistant_pb2
from palaver.v1 import assistant_service_pb2 as pb
from palaver_server.skills import schema_checker
from palaver_server.skills.schema_checker import UNCHECKED
from tests.support.calls import query
from tests.support.endpoint import Endpoint, Stream, skill_calls
from tests.support.palaver_server import Served, server_with_assistant
from tests.support.skill_host import SkillHost, content
from tests.support.statuses import failure_of

BROKEN = {
    "a number that is none": '{"minimum": NaN}',
    "infinity": '{"minimum": -Infinity}',
    "a number beyond all numbers": '{"minimum": 1e999}',
    "half a surrogate pair": r'{"title": "\ud800"}',
    "half a surrogate pair as a name": r'{"properties": {"\udfff": {}}}',
    "a dialect that is no text": '{"$schema": []}',
    "a dialect that is a number": '{"$schema": 7}',
    "a type that is none": '{"properties": {"a": {"type": "text"}}}',
    "a bound that is text": '{"properties": {"a": {"minimum": "1"}}}',
    "a list": "[]",
    "no object": '{"type": "array"}',
    "no JSON": "{",
    "4,000 levels": '{"not":' * 4_000 + "{}" + "}" * 4_000,
}


def compact(schema: dict[str, Any]) -> str:
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def multiplied(levels: int) -> dict[str, Any]:
    """Returns a schema whose references multiply: a check visits 2 to the power of `levels` schemas."""
    definitions: dict[str, Any] = {
        f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}", "title": str(m)} for m in range(2)]} for n in range(levels)
    }
    return {"$defs": {**definitions, f"d{levels}": {"type": "string"}}, "$ref": "#/$defs/d0"}


RANGES = "".join(f"{chr(0x100 + 2 * n)}-{chr(0x101 + 2 * n)}" for n in range(8_000))

COSTLY = {
    "10,900 empty schemas": {"allOf": [{}] * 10_900},
    "8,000 character ranges": {"properties": {"a": {"pattern": f"[{RANGES}]"}}},
    "a pattern that backtracks": {"properties": {"a": {"pattern": "^(a+)+$"}}},
    "large repetitions": {"properties": {"a": {"pattern": r"(\w{1000}){1000}"}}},
    "a large list of values": {"properties": {"a": {"enum": list(range(6_000))}}},
    "a reference to itself": {"$ref": "#"},
    "references that multiply": multiplied(60),
    "a remote reference": {"$ref": "http://127.0.0.1:1/schema"},
    "another dialect": {"$schema": "http://127.0.0.1:1/dialect"},
}  # fmt: skip


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with server_with_assistant(tmp_path_factory.mktemp("data"), offline_model=True) as running:
        yield running


class TestCallers:
    @pytest.mark.parametrize("schema", BROKEN.values(), ids=BROKEN.keys())
    async def test_a_broken_schema_is_an_invalid_field(self, served: Served, schema: str):
        skill = assistant_pb2.Skill(name="clock", parameters_json_schema=schema)
        failure = await failure_of(served.stub.PostUserQueryUnary(query(caller_skills=[skill])))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert failure.violations.keys() == {"caller_skills[0].parameters_json_schema"}

    @pytest.mark.parametrize("schema", COSTLY.values(), ids=COSTLY.keys())
    async def test_a_costly_schema_is_passed_on(self, served: Served, schema: dict[str, Any]):
        skill = assistant_pb2.Skill(name="clock", parameters_json_schema=compact({"type": "object", **schema}))
        await served.stub.PostUserQueryUnary(query(caller_skills=[skill]))

    @pytest.mark.parametrize(
        ("field", "items", "limit"),
        [
            ("skill_results", [assistant_pb2.SkillResult(id=str(n), content="") for n in range(99)], 98),
            ("skill_results", [assistant_pb2.SkillResult()] * 500_000, 98),
            ("caller_skills", [assistant_pb2.Skill(name=str(n)) for n in range(129)], 128),
            ("caller_skills", [assistant_pb2.Skill()] * 500_000, 128),
            ("skill_names", [str(n) for n in range(129)], 128),
            ("skill_names", [""] * 500_000, 128),
        ],
    )
    async def test_more_items_than_a_turn_can_use_are_not_even_read(
        self, served: Served, field: str, items: list[Any], limit: int
    ):
        user_message = "" if field == "skill_results" else "Hello"
        failure = await failure_of(served.stub.PostUserQueryUnary(query(user_message, **{field: items})))
        assert failure.violations == {field: f"must be at most {limit}, not {len(items):,}"}


async def answer(_request: pb.PostUserQueryRequest) -> Any:
    return content("done")


async def call_skill(served: Served, endpoint: Endpoint, name: str, arguments: str) -> assistant_pb2.Message:
    """Makes the model call a skill, and returns the message with its result."""
    endpoint.script(skill_calls((name, arguments)), Stream("Well."))
    completed = (await served.stub.PostUserQueryUnary(query("Call it"), timeout=60)).completed
    assert completed.messages[-1].content == "Well."
    return completed.messages[2]


class TestHosts:
    async def test_a_broken_schema_costs_only_its_skill(
        self, tmp_path: Path, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
    ):
        schemas = {f"broken{n}": schema for n, schema in enumerate(BROKEN.values())} | {
            "pattern": '{"properties": {"a": {"pattern": "("}}}',
            "remote": json.dumps({"$ref": f"{endpoint.url}/schema.json"}),
            "missing": '{"$ref": "#/$defs/nothing"}',
            "long": json.dumps({"title": "x" * 200_000}),
        }
        with caplog.at_level(logging.ERROR):
            async with (
                SkillHost(schema={**schemas, "good": ""}, **dict.fromkeys([*schemas, "good"], answer)) as host,
                server_with_assistant(tmp_path, endpoint.url, skill_hosts=(host.target,)) as served,
            ):
                assert (await call_skill(served, endpoint, "good", "{}")).content == "done"
        assert [tool["function"]["name"] for tool in endpoint.calls[0].body["tools"]] == ["good"]
        assert len(endpoint.calls) == 2
        logged = [record.getMessage() for record in caplog.records]
        for name in schemas:
            assert any(
                text.startswith(f"the skill '{name}' of {host.target} can't be used: its schema: ") for text in logged
            )

    async def test_a_host_offers_only_as_many_skills_as_a_prompt_holds(self, tmp_path: Path, endpoint: Endpoint):
        async with (
            SkillHost(**{f"skill{n}": answer for n in range(130)}) as host,
            server_with_assistant(tmp_path, endpoint.url, skill_hosts=(host.target,)) as served,
        ):
            await served.stub.PostUserQueryUnary(query())
        assert len(endpoint.calls[0].body["tools"]) == 128

    @pytest.mark.parametrize(
        ("schema", "arguments", "expected"),
        [
            ({"properties": {"a": {"pattern": "^(a+)+$"}}}, {"a": "a" * 50_000 + "!"}, "does not match"),
            ({"properties": {"a": {"pattern": "^(?=a)(a*)*\\1b$"}}}, {"a": "a" * 500}, "backtracking"),
            ({"properties": {"a": {"items": {"type": "integer"}}}}, {"a": ["x"] * 200_000}, '$.a[0]: "x" is not'),
            ({"properties": {"a": {"items": {"type": "integer"}}}}, {"a": ["x"] * 20}, '$.a[4]: "x" is not'),
            ({"properties": {"a": {"uniqueItems": True}}}, {"a": [{"x": n} for n in range(50_000)]}, ""),
            ({"$ref": "#"}, {}, ""),
            ({"allOf": [{}] * 10_000}, {}, ""),
        ],
        ids=["quantifiers", "backtracking", "200,000 wrong items", "wrong items", "unique items", "cycle", "allOf"],
    )  # fmt: skip
    async def test_costly_checks_end_with_a_short_text(
        self, tmp_path: Path, endpoint: Endpoint, schema: dict[str, Any], arguments: dict[str, Any], expected: str
    ):
        async with (
            SkillHost(schema=json.dumps(schema), skill=answer) as host,
            server_with_assistant(tmp_path, endpoint.url, skill_hosts=(host.target,)) as served,
        ):
            result = await call_skill(served, endpoint, "skill", json.dumps(arguments))
        assert len(result.content) < 2_000
        if expected:
            assert expected in result.content
            assert result.content.count('"x" is not') <= 5
            assert host.requests == []
        else:
            assert result.content == "done"

    async def test_a_check_without_an_end_is_ended_and_costs_only_its_skill(
        self, tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(schema_checker, "TIMEOUT", 0.3)
        async with (
            SkillHost(schema={"endless": json.dumps(multiplied(60)), "good": ""}, endless=answer, good=answer) as host,
            server_with_assistant(tmp_path, endpoint.url, skill_hosts=(host.target,)) as served,
        ):
            assert (await call_skill(served, endpoint, "endless", "{}")).content == UNCHECKED
            assert (await call_skill(served, endpoint, "good", "{}")).content == "done"
            assert [request.name for request in host.requests] == ["good"]

    @pytest.mark.parametrize(
        "arguments",
        [
            r'{"task": "\ud800"}',
            r'{"\ud800": 1}',
            '{"task": 1e999}',
            '{"task": -1e999}',
            '{"task": 1' + "0" * 3_999 + "}",
            '{"task": 1' + "0" * 9_999 + "}",
            '{"task": ' + "[" * 600 + "]" * 600 + "}",
            '{"task": ' + "[" * 9_000 + "]" * 9_000 + "}",
        ],
    )
    async def test_arguments_that_are_hardly_json_are_reported_to_the_model(
        self, tmp_path: Path, endpoint: Endpoint, arguments: str
    ):
        async with (
            SkillHost(skill=answer) as host,
            server_with_assistant(tmp_path, endpoint.url, skill_hosts=(host.target,)) as served,
        ):
            result = await call_skill(served, endpoint, "skill", arguments)
            assert result.content.startswith("The arguments ")
            assert host.requests == []
            assert (await call_skill(served, endpoint, "skill", '{"task": "x"}')).content == "done"
