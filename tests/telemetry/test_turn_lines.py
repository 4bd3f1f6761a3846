"""The lines that a server process logs: at its start, for each turn, for each failure, and at its end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from palaver.v1 import assistant_service_pb2 as pb
from tests.support.callers import CallersFile, bearer
from tests.support.calls import create_assistant, query
from tests.support.endpoint import Endpoint, HangUp, Raw, Refusal, Stream, skill_calls
from tests.support.log_file import LogFile
from tests.support.ports import free_port
from tests.support.server_process import ServerProcess, server_process
from tests.support.skill_host import SkillHost, content

CANARY = "canary-4711"


@asynccontextmanager
async def logged(folder: Path, endpoint: Endpoint, **variables: str) -> AsyncIterator[tuple[ServerProcess, LogFile]]:
    log = LogFile(folder / "log")
    with log.path.open("wb") as stderr:
        async with server_process(
            folder, endpoint.url, stderr=stderr, **{"PALAVER_LOG_FORMAT": "json", **variables}
        ) as server:
            yield server, log


async def stop(server: ServerProcess) -> None:
    server.process.send_signal(signal.SIGTERM)
    assert await server.process.wait() == 0


class TestStart:
    async def test_it_says_where_it_listens_who_may_call_and_what_it_found(self, tmp_path: Path, endpoint: Endpoint):
        callers = CallersFile(tmp_path / "callers.toml")
        callers.write(app={})
        async with SkillHost(clock=lambda _request: content("noon"), todo=lambda _request: content("ok")) as host:
            hosts = f"{host.target},127.0.0.1:{free_port()}"
            async with logged(tmp_path, endpoint, PALAVER_CALLERS=str(callers.path), PALAVER_SKILL_HOSTS=hosts) as (
                server,
                log,
            ):
                [start] = log.lines(message="palaver-server starts")
                assert start["listen"] == "127.0.0.1:0"
                assert (start["tls"], start["callers"]) == ("off", f"those in {callers.path}")
                [store] = log.lines(message="storage connection")
                assert (store["name"], store["kind"]) == ("AzureWebJobsStorage", "SQLite")
                assert store["location"].endswith("palaver.db")
                [model] = log.lines(message="AI connection")
                assert (model["name"], model["endpoint"], model["default"]) == ("OPENAI", endpoint.url, "yes")
                found = {line["host"]: (line["available"], line["skills"]) for line in log.lines(message="skill host")}
                assert found == {host.target: ("yes", "clock, todo"), hosts.split(",")[1]: ("no", "none")}
                await stop(server)

    async def test_several_workers_say_it_once(self, tmp_path: Path, endpoint: Endpoint):
        async with logged(tmp_path, endpoint, PALAVER_WORKERS="2") as (server, log):
            assert [line["workers"] for line in log.lines(message="palaver-server starts")] == [2]
            await stop(server)

    async def test_a_key_in_a_connection_string_is_not_named(self, tmp_path: Path, endpoint: Endpoint):
        account = "DefaultEndpointsProtocol=https;AccountName=chats;AccountKey=c2VjcmV0MTIzNDU2Nzg5MA=="
        async with logged(tmp_path, endpoint, AzureWebJobsStorage=f"{account};TableEndpoint={endpoint.url}") as (
            _,
            log,
        ):
            [store] = log.lines(message="storage connection")
            assert (store["kind"], store["location"]) == ("tables", endpoint.url.split("/")[2])
        assert "c2VjcmV0" not in log.text


class TestTurns:
    async def test_a_turn_has_a_line(self, tmp_path: Path, endpoint: Endpoint):
        async with (
            SkillHost(lookup=lambda _request: content(CANARY)) as host,
            logged(tmp_path, endpoint, PALAVER_SKILL_HOSTS=host.target) as (server, log),
        ):
            await create_assistant(server, instructions=CANARY)
            endpoint.script(skill_calls(("lookup", f'{{"task": "{CANARY}"}}')), Stream(CANARY))
            await server.stub.PostUserQueryUnary(query(CANARY, "r-1", chat_model="gpt-5"))
            line = await log.line(message="turn")
        timed = {name: line.pop(name) for name in ("time", "queue_ms", "first_output_ms", "total_ms")}
        assert 0 <= timed["queue_ms"] <= timed["first_output_ms"] <= timed["total_ms"]
        assert line == {
            "level": "INFO",
            "logger": "palaver_server.telemetry.turn_log",
            "message": "turn",
            "outcome": "stored",
            "status": "OK",
            "storage_connection": "AzureWebJobsStorage",
            "collection": "ChatState",
            "assistant": "a",
            "request_id": "r-1",
            "ai_connection": "OPENAI",
            "model": "gpt-5",
            "finish_reason": "STOP",
            "prompt_tokens": 22,
            "completion_tokens": 14,
            "model_calls": 2,
            "skill_calls": 1,
        }
        assert CANARY not in log.text

    async def test_a_replay_is_told_from_a_turn(self, tmp_path: Path, endpoint: Endpoint):
        async with logged(tmp_path, endpoint) as (server, log):
            await create_assistant(server)
            for _ in range(2):
                await server.stub.PostUserQueryUnary(query("Hello", "r"))
            await log.line(2, message="turn")
        assert [line["outcome"] for line in log.lines(message="turn")] == ["stored", "replayed"]

    async def test_a_caller_that_leaves_is_not_a_failure(self, tmp_path: Path, endpoint: Endpoint):
        endpoint.script(Stream("One", asyncio.Event()))
        async with logged(tmp_path, endpoint) as (server, log):
            await create_assistant(server)
            call = server.stub.PostUserQuery(query())
            await call.read()
            await endpoint.call()
            call.cancel()
            line = await log.line(message="turn")
            assert (line["outcome"], line["status"], line["level"]) == ("cancelled", "CANCELLED", "INFO")
            assert log.lines(message="a model call failed") == []

    @pytest.mark.parametrize(
        ("answer", "reason", "cause"),
        [
            (
                Refusal(401, f"wrong key {CANARY}", code="invalid_api_key"),
                "MODEL_CREDENTIALS_REJECTED",
                "the endpoint refused the server's credentials: HTTP status 401, code error invalid_api_key",
            ),
            (
                Refusal(400, f"can't say {CANARY}", param="messages"),
                "MODEL_REJECTED_REQUEST",
                "the endpoint refused the request: HTTP status 400, code error, parameter messages",
            ),
            (
                Refusal(400, "no", code=f"{CANARY} is what you said", param=f"the text {CANARY}"),
                "MODEL_REJECTED_REQUEST",
                "the endpoint refused the request: HTTP status 400, code error",
            ),
            (Refusal(503, CANARY), "MODEL_UNAVAILABLE", "the endpoint failed with HTTP status 503: code error"),
            (HangUp(), "MODEL_UNAVAILABLE", "the endpoint can't be reached (ServerDisconnectedError"),
            (
                Stream(CANARY, b'data: {"error": {"message": "canary-4711", "code": "server_error"}}\n\n'),
                "MODEL_UNAVAILABLE",
                "the endpoint failed: an error within the stream, code server_error",
            ),
            (
                Stream(CANARY, finish=None, done=False),
                "MODEL_STREAM_BROKEN",
                "the endpoint ended its reply without a finish reason",
            ),
            (Stream(b"data: canary-4711\n\n"), "MODEL_STREAM_BROKEN", ""),
        ],
    )
    async def test_a_failing_endpoint_is_named_with_the_cause(
        self, tmp_path: Path, endpoint: Endpoint, answer: Any, reason: str, cause: str
    ):
        endpoint.default = answer
        async with logged(tmp_path, endpoint) as (server, log):
            await create_assistant(server)
            with pytest.raises(grpc.aio.AioRpcError):
                await server.stub.PostUserQueryUnary(query(CANARY))
            line = await log.line(message="a model call failed")
            turn = await log.line(message="turn")
        assert (line["ai_connection"], line["model"], line["reason"]) == ("OPENAI", "gpt-3.5-turbo", reason)
        assert line["cause"].startswith(cause)
        assert (turn["outcome"], turn["reason"], turn["level"]) == ("failed", reason, "WARNING")
        assert CANARY not in log.text

    async def test_bytes_that_are_not_http_are_not_quoted(self, tmp_path: Path, endpoint: Endpoint):
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        for data in (head + b"canary-4711\r\n", b"HTTP/1.1 canary-4711\r\n\r\n", b"canary-4711\r\n\r\n"):
            endpoint.default = Raw(data)
            async with logged(tmp_path, endpoint) as (server, log):
                await create_assistant(server, if_exists=pb.IF_EXISTS_KEEP)
                with pytest.raises(grpc.aio.AioRpcError):
                    await server.stub.PostUserQueryUnary(query())
                await log.line(message="a model call failed")
            assert CANARY not in log.text

    async def test_the_level_hides_what_is_less_severe(self, tmp_path: Path, endpoint: Endpoint):
        endpoint.script(Stream("Fine"), Refusal(401))
        async with logged(tmp_path, endpoint, PALAVER_LOG_LEVEL="warning") as (server, log):
            await create_assistant(server)
            await server.stub.PostUserQueryUnary(query())
            with pytest.raises(grpc.aio.AioRpcError):
                await server.stub.PostUserQueryUnary(query())
            await log.line(message="turn")
            await stop(server)
        assert {line["level"] for line in log.lines()} == {"WARNING"}

    async def test_libraries_never_log_what_they_do(self, tmp_path: Path, endpoint: Endpoint):
        variables = {"PALAVER_LOG_LEVEL": "debug", "OPENAI_LOG": "debug"}
        async with logged(tmp_path, endpoint, **variables) as (server, log):
            await create_assistant(server, instructions=CANARY)
            await server.stub.PostUserQueryUnary(query(CANARY))
            await log.line(message="turn")
        assert {line["logger"].partition(".")[0] for line in log.lines()} == {"palaver_server"}
        assert CANARY not in log.text


class TestRefusals:
    async def test_unknown_callers_are_summed_up(self, tmp_path: Path, endpoint: Endpoint):
        callers = CallersFile(tmp_path / "callers.toml")
        callers.write(app={})
        async with logged(tmp_path, endpoint, PALAVER_CALLERS=str(callers.path)) as (server, log):
            for number in range(20):
                with pytest.raises(grpc.aio.AioRpcError):
                    await server.stub.GetAssistant(
                        pb.GetAssistantRequest(id="a"), metadata=bearer(f"a-wrong-key-{number}-{CANARY}")
                    )
            await stop(server)
        [line] = log.lines(message="a call was refused")
        assert (line["method"], line["reason"], line["level"]) == ("GetAssistant", "UNAUTHENTICATED", "WARNING")
        assert line["peer"].startswith("ipv4:127.0.0.1:")
        assert CANARY not in log.text

    async def test_an_invalid_request_is_named_by_its_fields(self, tmp_path: Path, endpoint: Endpoint):
        async with logged(tmp_path, endpoint) as (server, log):
            with pytest.raises(grpc.aio.AioRpcError):
                await server.stub.PostUserQueryUnary(query(CANARY, temperature=9, top_p=-1))
            await stop(server)
        [line] = log.lines(message="a call was refused")
        assert (line["reason"], line["cause"], line["level"]) == ("INVALID_FIELD", "temperature, top_p", "INFO")
        assert CANARY not in log.text


class TestStop:
    async def test_it_says_what_it_waits_for_and_what_it_cuts_off(self, tmp_path: Path, endpoint: Endpoint):
        endpoint.default = Stream("One", asyncio.Event())
        async with logged(tmp_path, endpoint, PALAVER_GRACE_PERIOD="0.3") as (server, log):
            await create_assistant(server)
            call = server.stub.PostUserQuery(query("Hello", "r-1"))
            await call.read()
            await endpoint.call()
            await stop(server)
        [stopping] = log.lines(message="stopping")
        assert (stopping["running_turns"], stopping["grace_seconds"]) == (1, 0.3)
        [cut] = log.lines(message="a turn is cut off, because the grace period is over")
        assert (cut["assistant"], cut["request_id"]) == ("a", "r-1")

    async def test_connections_that_speak_no_grpc_leave_nothing_in_the_log(self, tmp_path: Path, endpoint: Endpoint):
        async with logged(tmp_path, endpoint) as (server, log):
            host, _, port = server.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.read()
            writer.close()
            await stop(server)
        assert {line["level"] for line in log.lines()} == {"INFO"}
