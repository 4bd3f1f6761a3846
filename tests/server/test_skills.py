"""Skills of hosts, called over sockets, and of callers. A failure of a skill never fails the turn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from palaver.v1 import assistant_pb2
from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1 import skill_host_service_pb2 as host_pb
from palaver_server.llm.history import call_id
from palaver_server.settings import SettingsError
from palaver_server.skills import catalogue
from tests.support.calls import create_assistant, is_whole, messages_of, read_rest, text_of
from tests.support.calls import query_with_id as query
from tests.support.certificates import issue_certificates
from tests.support.endpoint import Call, Endpoint, Stream, skill_calls
from tests.support.palaver_server import Replicas, Served, palaver_server, server_with_assistant
from tests.support.server_process import server_process
from tests.support.skill_host import SkillHost, content
from tests.support.statuses import failure_of

TASK = '{"task": "call dad"}'


@asynccontextmanager
async def serving(replicas: Replicas, *hosts: SkillHost, **settings: Any) -> AsyncIterator[Served]:
    """Serves with the skills of some hosts."""
    async with replicas.first(skill_hosts=tuple(host.target for host in hosts), **settings) as running:
        yield running


async def events(served: Served, request: pb.PostUserQueryRequest) -> list[pb.PostUserQueryResponse]:
    found = await read_rest(served.stub.PostUserQuery(request, timeout=20))
    assert is_whole(found)
    return found


def skills_of(found: list[pb.PostUserQueryResponse]) -> list[Any]:
    """Returns the skill calls and results, in order."""
    return [
        getattr(event, event.WhichOneof("event")) for event in found if event.WhichOneof("event").startswith("skill")
    ]


def assert_every_call_has_its_result(messages: list[dict[str, Any]]) -> None:
    """Checks the order that endpoints require: they refuse any other conversation."""
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            waiting.remove(message["tool_call_id"])
            continue
        assert waiting == []
        for call in message.get("tool_calls", []):
            assert isinstance(json.loads(call["function"]["arguments"]), dict)
            waiting.append(call["id"])
    assert waiting == []


async def assert_next_turn_works(served: Served, endpoint: Endpoint) -> None:
    endpoint.script(Stream("All is well"))
    response = await served.stub.PostUserQueryUnary(query("And now?", "next"), timeout=20)
    assert response.completed.messages[-1].content == "All is well"
    assert_every_call_has_its_result(endpoint.calls[-1].body["messages"])


async def test_the_model_calls_a_skill_and_continues_with_its_result(replicas: Replicas, endpoint: Endpoint):
    async with (
        SkillHost(add_todo=lambda request: content(f"Noted: {request.arguments_json}")) as host,
        serving(replicas, host) as served,
    ):
        endpoint.script(skill_calls(("add_todo", TASK), text="One moment. "), Stream("I will ", "remind you."))
        found = await events(served, query("Remind me to call my dad"))
        # The pieces of a text may arrive joined.
        assert [name for name, _ in groupby(event.WhichOneof("event") for event in found)] == [
            "started", "text_delta", "skill_call", "skill_result", "text_delta", "completed",
        ]  # fmt: skip
        assert text_of(found) == "One moment. I will remind you."
        [call, result] = skills_of(found)
        assert (call.name, call.arguments_json) == ("add_todo", TASK)
        assert (result.id, result.content) == (call.id, f"Noted: {TASK}")
        [asked] = host.requests
        assert asked == host_pb.InvokeSkillRequest(
            call_id=call.id, name="add_todo", arguments_json=TASK, assistant_id="a", request_id="r"
        )
        completed = found[-1].completed
        assert completed.finish_reason == pb.FINISH_REASON_STOP
        assert (completed.usage.model_calls, completed.usage.prompt_tokens) == (2, 22)
        assert completed.assistant.total_tokens == 18  # the usage of the latest model call
        question, calling, tool, reply = completed.messages
        assert [message.content for message in (question, calling, tool, reply)] == [
            "Remind me to call my dad", "One moment. ", f"Noted: {TASK}", "I will remind you.",
        ]  # fmt: skip
        assert list(calling.skill_calls) == [call]
        assert tool.skill_call_id == call.id
        first, second = (upstream.body for upstream in endpoint.calls)
        [tool_offered] = first["tools"]
        assert tool_offered["function"]["name"] == "add_todo"
        assert tool_offered["function"]["description"] == "The add_todo skill."
        assert tool_offered["function"]["parameters"] == json.loads(host.schema)
        assert second["messages"][1:] == [
            {
                "role": "assistant",
                "content": "One moment. ",
                "tool_calls": [
                    {"id": call_id(call.id), "type": "function", "function": {"name": "add_todo", "arguments": TASK}}
                ],
            },
            {"role": "tool", "content": f"Noted: {TASK}", "tool_call_id": call_id(call.id)},
        ]
        assert second["tools"] == first["tools"]
        # A replay has the skill events, too. Neither the model nor the host is called again.
        again = await events(served, query("Remind me to call my dad"))
        assert again[0].started.replayed
        assert skills_of(again) == [call, result]
        assert len(endpoint.calls) == 2
        assert len(host.requests) == 1
        await assert_next_turn_works(served, endpoint)
        listed = (await served.stub.ListMessages(pb.ListMessagesRequest(id="a"))).messages
        assert list(listed)[:4] == list(completed.messages)


async def test_the_calls_of_a_reply_run_concurrently(replicas: Replicas, endpoint: Endpoint):
    both = asyncio.Event()

    async def answer(request: host_pb.InvokeSkillRequest) -> host_pb.InvokeSkillResponse:
        if len(host.requests) == 2:
            both.set()
        await both.wait()
        return content(f"done: {request.arguments_json}")

    async with SkillHost(add_todo=answer) as host, serving(replicas, host) as served:
        endpoint.script(skill_calls(("add_todo", '{"task": "1"}'), ("add_todo", '{"task": "2"}')), Stream("Done"))
        found = await events(served, query())
        assert [message.content for message in found[-1].completed.messages][2:4] == [
            'done: {"task": "1"}', 'done: {"task": "2"}',
        ]  # fmt: skip
        assert len({request.call_id for request in host.requests}) == 2


async def test_skills_of_several_hosts_are_offered_and_the_caller_can_choose(replicas: Replicas, endpoint: Endpoint):
    async with (
        SkillHost(one=lambda _: content("1")) as first,
        SkillHost(two=lambda _: content("2"), three=lambda _: content("3")) as second,
        serving(replicas, first, second) as served,
    ):
        for number, (names, offered) in enumerate([([], ["one", "three", "two"]), (["two"], ["two"])]):
            await served.stub.PostUserQueryUnary(query(request_id=str(number), skill_names=names))
            tools = endpoint.calls[-1].body["tools"]
            assert sorted(tool["function"]["name"] for tool in tools) == offered
        failure = await failure_of(served.stub.PostUserQueryUnary(query(skill_names=["two", "four"])))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert failure.violations == {
            "skill_names[1]": "must be a skill that a host offers (one, three, two), not 'four'"
        }
        # The model can't call a skill that was not chosen.
        endpoint.script(skill_calls(("one", TASK)), Stream("Oh"))
        found = await events(served, query(request_id="chosen", skill_names=["two"]))
        assert skills_of(found)[1].error == "There is no skill one. The skills are: two."
        assert first.requests == []


async def never(request: Any) -> Any:
    await asyncio.Event().wait()


FAILURES: dict[str, tuple[Any, tuple[str, str], str]] = {
    "says what is wrong": (
        lambda _: host_pb.InvokeSkillResponse(error="No such list."), ("add_todo", TASK), "No such list.",
    ),
    "fails": (lambda _: grpc.StatusCode.INTERNAL, ("add_todo", TASK), "The skill add_todo failed."),
    "raises": (lambda _: 1 / 0, ("add_todo", TASK), "The skill add_todo failed."),
    "is slow": (never, ("add_todo", TASK), "The skill add_todo did not answer within 0.3 seconds."),
    "answers with nothing": (
        lambda _: host_pb.InvokeSkillResponse(), ("add_todo", TASK),
        "The skill add_todo sent a response that can't be understood.",
    ),
    "answers with much": (
        lambda _: content("x" * 300_000), ("add_todo", TASK),
        "The result of the skill add_todo has more than 262,144 bytes and is not used.",
    ),
    "answers with 5 MiB": (lambda _: content("x" * 5 * 2**20), ("add_todo", TASK), "The skill add_todo failed."),
    "is not there": (None, ("fly", TASK), "There is no skill fly. The skills are: add_todo."),
    "has an impossible name": (
        None, ("fly away!" + "x" * 90, TASK), f"There is no skill fly_away_{'x' * 55}. The skills are: add_todo.",
    ),
    "gets no JSON": (
        None, ("add_todo", '{"task": "c'),
        "The arguments are not the JSON text of an object: Input data was truncated",
    ),
    "gets a list": (
        None, ("add_todo", "[1]"), "The arguments are not the JSON text of an object: an object is expected",
    ),
    "gets what is JSON to Python alone": (
        None, ("add_todo", '{"task": NaN}'),
        "The arguments are not the JSON text of an object: JSON is malformed: invalid character (byte 9)",
    ),
    "gets what its schema forbids": (
        None, ("add_todo", '{"task": 1}'),
        'The arguments do not match the schema: $.task: 1 is not of type "string"',
    ),
    "gets nothing": (
        None, ("add_todo", ""), 'The arguments do not match the schema: $: "task" is a required property',
    ),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "call", "words"), FAILURES.values(), ids=FAILURES.keys())
async def test_a_failed_skill_is_reported_to_the_model(
    replicas: Replicas, endpoint: Endpoint, answer: Any, call: tuple[str, str], words: str
):
    async with SkillHost(add_todo=answer) as host, serving(replicas, host, skill_timeout=0.3) as served:
        endpoint.script(skill_calls(call), Stream("I am sorry"))
        found = await events(served, query())
        [called, result] = skills_of(found)
        assert (result.id, result.error) == (called.id, words)
        assert len(host.requests) == (0 if answer is None else 1)
        assert endpoint.calls[1].body["messages"][-1] == {
            "role": "tool",
            "content": words,
            "tool_call_id": call_id(called.id),
        }
        assert found[-1].completed.messages[-1].content == "I am sorry"
        assert skills_of(await events(served, query())) == [called, result]
        await assert_next_turn_works(served, endpoint)


async def test_a_malformed_response_of_a_host_is_reported_to_the_model(replicas: Replicas, endpoint: Endpoint):
    async with SkillHost(add_todo=lambda _: b"\x0a\x01\xff") as host, serving(replicas, host) as served:
        endpoint.script(skill_calls(("add_todo", TASK)), Stream("I am sorry"))
        found = await events(served, query())
        assert skills_of(found)[1].error == "The skill add_todo sent a response that can't be understood."
        await assert_next_turn_works(served, endpoint)


async def test_a_host_that_crashes_during_a_call_is_reported_to_the_model(replicas: Replicas, endpoint: Endpoint):
    async def crash(request: Any) -> Any:
        stopping.append(asyncio.ensure_future(host.stop()))
        await asyncio.Event().wait()

    stopping: list[asyncio.Future[None]] = []
    async with SkillHost(add_todo=crash) as host, serving(replicas, host) as served:
        endpoint.script(skill_calls(("add_todo", TASK)), Stream("I am sorry"))
        found = await events(served, query())
        assert skills_of(found)[1].error == "The skill add_todo failed."
        await asyncio.gather(*stopping)
        endpoint.script(skill_calls(("add_todo", TASK)), Stream("Still sorry"))
        found = await events(served, query(request_id="r2"))
        assert skills_of(found)[1].error == "The skill add_todo failed."
        await assert_next_turn_works(served, endpoint)


@pytest.mark.parametrize("way", ["leaves", "cancels the turn"])
async def test_skills_are_cancelled_when_the_caller_leaves_or_cancels(replicas: Replicas, endpoint: Endpoint, way: str):
    asked, gone = asyncio.Event(), asyncio.Event()

    async def answer(request: Any) -> Any:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()

    async with SkillHost(add_todo=answer) as host, serving(replicas, host) as served:
        endpoint.script(skill_calls(("add_todo", TASK)))
        call = served.stub.PostUserQuery(query())
        await call.read()
        await asked.wait()
        if way == "leaves":
            call.cancel()
        else:
            await served.stub.CancelTurn(pb.CancelTurnRequest(id="a", request_id="r"))
        await gone.wait()
        assert await messages_of(served) == []
        await assert_next_turn_works(served, endpoint)


async def test_the_time_limit_of_a_turn_includes_its_skills(replicas: Replicas, endpoint: Endpoint):
    async with SkillHost(add_todo=never) as host, serving(replicas, host, turn_timeout=0.5) as served:
        endpoint.script(skill_calls(("add_todo", TASK)))
        failure = await failure_of(served.stub.PostUserQueryUnary(query()))
        assert (failure.code, failure.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "MODEL_TIMEOUT")
        assert await messages_of(served) == []
        await assert_next_turn_works(served, endpoint)


async def test_complete_calls_with_the_same_index_are_different_calls(replicas: Replicas, endpoint: Endpoint):
    async def play(call: Call) -> None:
        for number in range(3):
            function = {"name": "add_todo", "arguments": f'{{"task": "{number}"}}'}
            await call.send(
                call.chunk({"tool_calls": [{"id": f"id{number}", "type": "function", "function": function}]})
            )

    async with SkillHost(add_todo=lambda _: content("ok")) as host, serving(replicas, host) as served:
        endpoint.script(Stream(play, finish="stop"), Stream("Done"))
        await events(served, query())
        assert [json.loads(request.arguments_json)["task"] for request in host.requests] == ["0", "1", "2"]


async def test_a_reply_may_have_twenty_calls(replicas: Replicas, endpoint: Endpoint):
    async with (
        SkillHost(add_todo=lambda request: content(request.arguments_json)) as host,
        serving(replicas, host) as served,
    ):
        tasks = [f'{{"task": "{number}"}}' for number in range(20)]
        endpoint.script(skill_calls(*(("add_todo", task) for task in tasks)), Stream("Done"))
        found = await events(served, query())
        assert [message.content for message in found[-1].completed.messages][2:-1] == tasks
        assert len({request.call_id for request in host.requests}) == 20
        await assert_next_turn_works(served, endpoint)


@pytest.mark.parametrize(
    ("calls", "rounds", "asked"), [(1, 3, 4), (1, 48, 49), (20, 10, 5), (95, 2, 2), (96, 2, 1), (97, 2, 1), (200, 2, 1)]
)
async def test_a_model_that_never_stops_calling_skills_ends_at_the_limit(
    replicas: Replicas, endpoint: Endpoint, calls: int, rounds: int, asked: int
):
    async with (
        SkillHost(add_todo=lambda _: content("ok")) as host,
        serving(replicas, host, max_skill_rounds=rounds) as served,
    ):
        endpoint.default = skill_calls(*[("add_todo", TASK)] * calls, text="More! ")
        found = await events(served, query())
        completed = found[-1].completed
        assert completed.finish_reason == pb.FINISH_REASON_SKILL_LIMIT
        assert completed.usage.model_calls == len(endpoint.calls) == asked
        assert len(completed.messages) <= 98
        assert len(host.requests) == calls * (asked - 1)
        stored = [call.id for message in completed.messages for call in message.skill_calls]
        assert [event.id for event in skills_of(found) if isinstance(event, assistant_pb2.SkillCall)] == stored
        assert {request.call_id for request in host.requests} <= set(stored)
        assert len(set(stored)) == len(stored)
        assert_every_call_has_its_result(endpoint.calls[-1].body["messages"])
        await assert_next_turn_works(served, endpoint)


async def test_a_call_has_the_same_id_when_the_turn_runs_again(
    tmp_path: Path, endpoint: Endpoint, variables: dict[str, str]
):
    async with SkillHost(add_todo=lambda _: content("ok")) as host:
        variables |= {"PALAVER_SKILL_HOSTS": host.target, "PALAVER_LEASE_DURATION": "1"}
        endpoint.script(
            skill_calls(("add_todo", TASK)), Stream(asyncio.Event()),
            skill_calls(("add_todo", '{ "task":"call dad" }'), ids="other_{}"), Stream("Noted"),
        )  # fmt: skip
        async with server_process(tmp_path, endpoint.url, **variables) as dying:
            await create_assistant(dying)
            lost = asyncio.ensure_future(failure_of(dying.stub.PostUserQueryUnary(query())))
            await endpoint.call(2)
            dying.process.kill()
            await lost
        async with server_process(tmp_path, endpoint.url, **variables) as other:
            response = await other.stub.PostUserQueryUnary(query(), timeout=20)
            assert [message.content for message in response.completed.messages] == ["Hello", "", "ok", "Noted"]
            await other.stub.PostUserQueryUnary(query(), timeout=20)
        first, repeat = host.requests
        assert first.call_id == repeat.call_id
        assert (first.request_id, first.assistant_id) == ("r", "a")


class TestHosts:
    @pytest.mark.parametrize(
        "target",
        [
            *("grpcs://", ";timeout=1", "a:1;timeout=", "a:1;timeout=0", "a:1;timeout=inf", "a:1;time=1", "a:1;x"),
            *("a:1;token-env=", "a:1;token-env", "a:1;timeout=1;timeout=2", "a:1;;timeout=1", "a:1;token=s3cret"),
        ],
    )
    async def test_an_invalid_target_fails_the_start(self, tmp_path: Path, target: str):
        problem = "(must be TARGET or grpcs://TARGET|a:1: timeout must be a number of seconds)(?!.*s3cret)"
        with pytest.raises(SettingsError, match=f"PALAVER_SKILL_HOSTS: {problem}"):
            async with palaver_server(tmp_path, skill_hosts=(target,)):
                pass

    async def test_a_host_can_have_its_own_time_limit(self, tmp_path: Path, endpoint: Endpoint):
        async with (
            SkillHost(add_todo=never) as host,
            server_with_assistant(tmp_path, endpoint.url, skill_hosts=(f"{host.target};timeout=0.2",)) as served,
        ):
            endpoint.script(skill_calls(("add_todo", TASK)), Stream("Oh"))
            found = await events(served, query())
            assert skills_of(found)[1].error == "The skill add_todo did not answer within 0.2 seconds."

    async def test_a_host_can_be_called_over_tls(self, tmp_path: Path, endpoint: Endpoint):
        certificates = issue_certificates(tmp_path)
        credentials = certificates.server_credentials
        async with SkillHost(credentials=credentials, add_todo=lambda _: content("noted")) as host:
            variables = {
                "PALAVER_SKILL_HOSTS": f"grpcs://localhost:{host.target.rpartition(':')[2]}",
                "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(certificates.authority),
            }
            async with server_process(tmp_path, endpoint.url, **variables) as server:
                await create_assistant(server)
                endpoint.script(skill_calls(("add_todo", TASK)), Stream("Good"))
                response = await server.stub.PostUserQueryUnary(query(), timeout=20)
                assert response.completed.messages[2].content == "noted"

    async def test_a_host_gets_a_token_with_every_call(self, tmp_path: Path, endpoint: Endpoint):
        variables = {"SKILLS_TOKEN": "s3cret"}
        async with SkillHost(add_todo=lambda _: content("noted")) as host:
            hosts = (f"{host.target};token-env=SKILLS_TOKEN",)
            async with server_with_assistant(tmp_path, endpoint.url, variables, skill_hosts=hosts) as served:
                endpoint.script(skill_calls(("add_todo", TASK)), Stream("Good"))
                found = await events(served, query())
                assert skills_of(found)[1].content == "noted"
        assert set(host.tokens) == {"Bearer s3cret"}
        assert len(host.tokens) >= 2

    async def test_a_host_may_require_a_certificate(self, tmp_path: Path, endpoint: Endpoint):
        files = issue_certificates(tmp_path)
        both = tmp_path / "both.pem"
        both.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
        async with SkillHost(credentials=files.mutual_server_credentials, ping=lambda _: content("pong")) as host:
            address = f"grpcs://localhost:{host.target.rpartition(':')[2]};ca={files.authority};token-env=SKILLS_TOKEN"
            for options in (f";client-cert={files.certificate};client-key={files.key}", f"; client-cert={both}"):
                async with palaver_server(
                    tmp_path, endpoint.url, {"SKILLS_TOKEN": "s3cret"}, skill_hosts=(address + options,)
                ):
                    assert host.tokens.pop() == "Bearer s3cret"
            async with palaver_server(tmp_path, endpoint.url, {"SKILLS_TOKEN": "s3cret"}, skill_hosts=(address,)):
                assert host.tokens == []

    async def test_a_client_certificate_that_is_replaced_is_used_from_then_on(
        self, tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(catalogue, "RETRY_INTERVAL", 0.05)
        (tmp_path / "client").mkdir()
        stale = issue_certificates(tmp_path / "client")  # of an authority that the host does not trust
        authority = trustme.CA()
        files = issue_certificates(tmp_path, authority)
        async with SkillHost(credentials=files.mutual_server_credentials, ping=lambda _: content("pong")) as host:
            address = f"grpcs://localhost:{host.target.rpartition(':')[2]};ca={files.authority}"
            options = f";client-cert={stale.certificate};client-key={stale.key}"
            async with palaver_server(tmp_path, endpoint.url, skill_hosts=(address + options,)):
                assert not host.listed.is_set()
                stale.key.write_text("being written")  # what can't be used yet is not used
                issue_certificates(tmp_path / "client", authority)
                await asyncio.wait_for(host.listed.wait(), 20)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (";token-env=NOWHERE", "skills.example:443: token-env: the environment variable NOWHERE is not set"),
            (";token-env=EMPTY", "skills.example:443: token-env: the environment variable EMPTY is not set"),
            (";token-env=LINES", "token-env: the value of LINES: the token must consist of visible ASCII characters"),
            (";token-env=TOKEN", "token-env: the token would be sent in the clear: use grpcs://skills.example:443"),
            (";client-cert={file}", "skills.example:443: client-cert requires TLS: use grpcs://skills.example:443"),
            (";ca={file}", "skills.example:443: ca requires TLS: use grpcs://skills.example:443"),
        ],
    )
    async def test_a_host_in_the_clear_gets_no_secret(self, tmp_path: Path, options: str, message: str):
        variables = {"TOKEN": "s3cret", "EMPTY": "", "LINES": "s3cret\nlines"}
        setting = "skills.example:443" + options.format(file=__file__)
        with pytest.raises(SettingsError) as caught:
            async with palaver_server(tmp_path, None, variables, skill_hosts=(setting,)):
                pass
        assert str(caught.value).startswith("PALAVER_SKILL_HOSTS: ")
        assert message in str(caught.value)
        assert "s3cret" not in str(caught.value)

    @pytest.mark.parametrize("target", ["[::1]evil.example:443", "localhost:1@evil.example", "127.1:50061"])
    async def test_a_host_that_only_looks_local_gets_no_token_in_the_clear(self, tmp_path: Path, target: str):
        with pytest.raises(SettingsError, match=r"in the clear|no user name"):
            async with palaver_server(tmp_path, None, {"TOKEN": "s3cret"}, skill_hosts=(f"{target};token-env=TOKEN",)):
                pass

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (";ca={folder}/missing.pem", "ca: {folder}/missing.pem: No such file or directory"),
            (";ca={file}", "ca: {file} contains no certificate"),
            (";client-cert={folder}/missing.pem", "client-cert: {folder}/missing.pem: No such file or directory"),
            (";client-cert={file}", "client-cert: {file} and {file} are not a certificate and its key in PEM"),
            (";client-key={file}", "client-key requires client-cert"),
        ],
    )
    async def test_unusable_files_of_a_host_fail_the_start(self, tmp_path: Path, options: str, message: str):
        names = {"folder": tmp_path, "file": __file__}
        setting = "grpcs://skills.example:443" + options.format(**names)
        with pytest.raises(SettingsError) as caught:
            async with palaver_server(tmp_path, None, skill_hosts=(setting,)):
                pass
        assert f"PALAVER_SKILL_HOSTS: skills.example:443: {message.format(**names)}" in str(caught.value)

    async def test_two_hosts_with_the_same_skill_fail_the_start(self, tmp_path: Path):
        async with SkillHost(a=never, b=never) as one, SkillHost(b=never) as other:
            with pytest.raises(SettingsError, match=rf"PALAVER_SKILL_HOSTS: .*b \({one.target}, {other.target}\)"):
                async with palaver_server(tmp_path, skill_hosts=(one.target, other.target)):
                    pass

    async def test_a_host_that_is_down_does_not_affect_the_others_and_is_found_later(
        self, tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(catalogue, "RETRY_INTERVAL", 0.05)
        async with SkillHost(late=lambda _: content("here")) as gone:
            pass
        async with (
            SkillHost(early=lambda _: content("here")) as host,
            server_with_assistant(tmp_path, endpoint.url, skill_hosts=(gone.target, host.target)) as served,
        ):
            await served.stub.PostUserQueryUnary(query(request_id="1"))
            assert [tool["function"]["name"] for tool in endpoint.calls[-1].body["tools"]] == ["early"]
            async with SkillHost(address=gone.target, late=lambda _: content("here")) as back:
                await back.listed.wait()
                names: set[str] = set()
                number = 1
                while names != {"early", "late"}:
                    number += 1
                    await served.stub.PostUserQueryUnary(query(request_id=str(number)))
                    names = {tool["function"]["name"] for tool in endpoint.calls[-1].body["tools"]}

    async def test_a_host_whose_list_does_not_parse_counts_as_down(self, tmp_path: Path, endpoint: Endpoint):
        async with SkillHost(add_todo=never) as broken, SkillHost(good=lambda _: content("ok")) as host:
            broken.listing = b"\xff\xff"
            async with server_with_assistant(
                tmp_path, endpoint.url, skill_hosts=(broken.target, host.target)
            ) as served:
                await served.stub.PostUserQueryUnary(query())
                assert [tool["function"]["name"] for tool in endpoint.calls[0].body["tools"]] == ["good"]

    async def test_an_unusable_skill_is_left_out(self, tmp_path: Path, endpoint: Endpoint):
        async with (
            SkillHost(schema='{"type": "array"}', bad=never) as bad,
            SkillHost(schema="no JSON", worse=never) as worse,
            SkillHost(schema="", **{"not a name": never, "good": lambda _: content("ok")}) as good,
            server_with_assistant(
                tmp_path, endpoint.url, skill_hosts=(bad.target, worse.target, good.target)
            ) as served,
        ):
            endpoint.script(skill_calls(("good", "")), Stream("Fine"))
            found = await events(served, query())
            [tool] = endpoint.calls[0].body["tools"]
            assert tool["function"]["name"] == "good"
            assert skills_of(found)[1].content == "ok"

    async def test_a_schema_never_causes_a_request(self, tmp_path: Path, endpoint: Endpoint):
        schema = json.dumps({"type": "object", "properties": {"task": {"$ref": f"{endpoint.url}/schema.json"}}})
        async with (
            SkillHost(schema=schema, add_todo=lambda _: content("ok")) as host,
            server_with_assistant(tmp_path, endpoint.url, skill_hosts=(host.target,)) as served,
        ):
            endpoint.script(skill_calls(("add_todo", TASK)), Stream("Oh"))
            found = await events(served, query())
            # A skill whose schema can't be resolved is not offered.
            assert skills_of(found)[1].error == "There is no skill add_todo. The skills are: there are none."
            assert len(endpoint.calls) == 2


class TestCallerSkills:
    CLOCK = assistant_pb2.Skill(name="clock", description="Tells the time.", parameters_json_schema="")

    def post(self, served: Served, user_message: str = "", **fields: Any) -> Any:
        request = query(user_message, "", caller_skills=[self.CLOCK], **fields)
        return served.stub.PostUserQueryUnary(request, timeout=20)

    async def test_the_results_can_be_posted_to_any_replica(self, replicas: Replicas, endpoint: Endpoint):
        async with (
            SkillHost(add_todo=lambda _: content("noted")) as host,
            serving(replicas, host) as one,
            replicas.another(skill_hosts=(host.target,)) as other,
        ):
            endpoint.script(
                skill_calls(("clock", "{}"), ("add_todo", TASK), ("clock", ""), text="Let me see. "), Stream("Noon")
            )
            waiting = (await self.post(one, "What time is it?")).completed
            assert waiting.finish_reason == pb.FINISH_REASON_SKILL_CALLS
            _, calling, noted = waiting.messages
            clock, _, again = calling.skill_calls
            assert (noted.skill_call_id, noted.content) == (calling.skill_calls[1].id, "noted")
            assert (await one.stub.GetAssistant(pb.GetAssistantRequest(id="a"))).assistant.total_messages == 3
            results = [
                assistant_pb2.SkillResult(id=again.id, error="broken"),
                assistant_pb2.SkillResult(id=clock.id, content="12:00"),
            ]
            done = (await self.post(other, skill_results=results, history=pb.History(max_messages=0))).completed
            assert [message.content for message in done.messages] == ["12:00", "broken", "Noon"]
            assert done.finish_reason == pb.FINISH_REASON_STOP
            sent = endpoint.calls[1].body["messages"]
            assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool", "tool"]
            assert_every_call_has_its_result(sent)
            assert len(host.requests) == 1
            await assert_next_turn_works(one, endpoint)
            assert [message["role"] for message in endpoint.calls[-1].body["messages"]] == [
                "user", "assistant", "tool", "tool", "tool", "assistant", "user",
            ]  # fmt: skip

    @pytest.mark.parametrize("max_messages", [0, 1, 2, 100])
    async def test_an_ordinary_message_closes_the_open_calls(
        self, replicas: Replicas, endpoint: Endpoint, max_messages: int
    ):
        async with serving(replicas) as served:
            endpoint.script(skill_calls(("clock", "{}"), ("clock", "{}")), Stream("Never mind"))
            await self.post(served, "What time is it?")
            request = query("Forget it", "r2", history=pb.History(max_messages=max_messages))
            found = await events(served, request)
            assert [message.content for message in found[-1].completed.messages] == [
                "The caller did not answer this call.", "The caller did not answer this call.",
                "Forget it", "Never mind",
            ]  # fmt: skip
            assert skills_of(found) == []
            assert_every_call_has_its_result(endpoint.calls[-1].body["messages"])
            assert skills_of(await events(served, request)) == []
            await assert_next_turn_works(served, endpoint)

    async def test_only_results_of_open_calls_are_accepted(self, replicas: Replicas, endpoint: Endpoint):
        async with serving(replicas) as served:
            endpoint.script(skill_calls(("clock", "{}"), ("clock", "no JSON")))
            waiting = (await self.post(served, "What time is it?")).completed
            right, wrong = waiting.messages[1].skill_calls
            assert waiting.messages[2].skill_call_id == wrong.id
            for ids in ([], ["x"], [right.id, wrong.id]):
                results = [assistant_pb2.SkillResult(id=id_, content="12:00") for id_ in ids]
                failure = await failure_of(self.post(served, skill_results=results))
                assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
                if ids:
                    assert failure.violations == {
                        "skill_results": f"the conversation waits for the results of the calls {right.id}"
                    }
            assert len(endpoint.calls) == 1
            result = assistant_pb2.SkillResult(id=right.id, content="12:00")
            assert (await self.post(served, skill_results=[result])).completed.messages[-1].content == "Hello, world"
            failure = await failure_of(self.post(served, skill_results=[result]))
            assert failure.violations == {"skill_results": "the conversation waits for no skill results"}

    async def test_the_schema_of_a_caller_does_not_tie_up_the_server(self, replicas: Replicas, endpoint: Endpoint):
        pattern = {"type": "object", "properties": {"zone": {"type": "string", "pattern": "^(a+)+$"}}}
        skill = assistant_pb2.Skill(name="clock", parameters_json_schema=json.dumps(pattern))
        arguments = json.dumps({"zone": "a" * 60 + "!"})
        async with serving(replicas) as served:
            endpoint.script(skill_calls(("clock", arguments)))
            request = query("What time is it?", caller_skills=[skill])
            waiting = (await served.stub.PostUserQueryUnary(request, timeout=20)).completed
            assert [call.arguments_json for call in waiting.messages[1].skill_calls] == [arguments]
            large = assistant_pb2.Skill(name="clock", parameters_json_schema=json.dumps({"title": "x" * 70_000}))
            failure = await failure_of(served.stub.PostUserQueryUnary(query(caller_skills=[large, large])))
            assert failure.violations["caller_skills"] == (
                "must have schemas of at most 32,768 characters in all, not 140,026"
            )

    async def test_every_invalid_skill_is_named(self, replicas: Replicas, endpoint: Endpoint):
        async with SkillHost(add_todo=never) as host, serving(replicas, host) as served:
            skills = [
                assistant_pb2.Skill(name="no name"),
                assistant_pb2.Skill(name="b", parameters_json_schema='{"type": 1}'),
                assistant_pb2.Skill(name="b"),
            ]
            results = [assistant_pb2.SkillResult(id="1"), assistant_pb2.SkillResult(id="1", content="")]
            failure = await failure_of(
                served.stub.PostUserQueryUnary(query(caller_skills=skills, skill_results=results))
            )
            assert failure.violations.keys() == {
                "user_message", "caller_skills[0].name", "caller_skills[1].parameters_json_schema",
                "caller_skills[2].name", "skill_results[0]", "skill_results[1].id",
            }  # fmt: skip
            mine = [assistant_pb2.Skill(name="add_todo")]
            failure = await failure_of(served.stub.PostUserQueryUnary(query(caller_skills=mine)))
            assert failure.violations == {"caller_skills[0].name": "must not be the name of a host's skill: 'add_todo'"}
            assert endpoint.calls == []
