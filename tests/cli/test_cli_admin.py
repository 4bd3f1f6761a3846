"""The commands for operators: their requests, output and exit status. They run in the process of the test."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from palaver.cli._app import palaver_command
from palaver.v1 import admin_service_pb2 as pb
from palaver.v1 import assistant_pb2, assistant_service_pb2
from tests.support import replies
from tests.support.refusals import refusal
from tests.support.scripted_server import ScriptedServer

DENIED = refusal(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", 'this needs the access "admin"')
PROCESS = pb.ServerProcess(host_name="box", process_id=7)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times are shown in the time zone of the machine."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def palaver(server: ScriptedServer) -> Any:
    def run(*arguments: str, **options: Any) -> Any:
        return CliRunner().invoke(palaver_command, ["--server", server.target, *arguments], **options)

    return run


def page(*names: str, token: str = "", damaged: tuple[str, ...] = ()) -> pb.ListAssistantsResponse:
    return pb.ListAssistantsResponse(
        assistants=map(replies.assistant, names), damaged_ids=damaged, next_page_token=token
    )


def turn(seconds: float = 1.5, **fields: Any) -> pb.RunningTurn:
    age = Duration()
    age.FromMilliseconds(int(seconds * 1000))
    values = {
        "caller": "checkout",
        "chat_storage_connection_setting": "AzureWebJobsStorage",
        "collection_name": "ChatState",
        "assistant_id": "support",
        "request_id": "r1",
        "create_time": replies.timestamp(),
        "age": age,
        "phase": pb.RUNNING_TURN_PHASE_MODEL,
        "chat_model": "gpt-x",
        "ai_connection_name": "OPENAI",
        "characters": 12,
        "usage": assistant_service_pb2.Usage(total_tokens=345, model_calls=1),
        "readers": 1,
    }
    return pb.RunningTurn(**{**values, **fields})


def turns(*listed: pb.RunningTurn, total: int | None = None) -> pb.ListRunningTurnsResponse:
    total = len(listed) if total is None else total
    return pb.ListRunningTurnsResponse(turns=listed, total_turns=total, process=PROCESS)


class TestList:
    def test_all_pages_are_printed(self, palaver, server):
        server.script("ListAssistants", page("a", "b", token="more"), page(token="last"), page("c"))
        result = palaver("--connection", "Archive", "list", "--collection", "Chats")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.splitlines() == [
            "UPDATED              MESSAGES      TOKENS  ID",
            *(f"2026-01-02 03:04:05         3          42  {name}" for name in "abc"),
        ]
        expected = {"chat_storage_connection_setting": "Archive", "collection_name": "Chats", "page_size": 1000}
        assert server.requests("ListAssistants") == [
            pb.ListAssistantsRequest(**expected, page_token=token) for token in ("", "more", "last")
        ]

    def test_json_is_a_line_for_each_assistant(self, palaver, server):
        server.script("ListAssistants", page("a", "é"))
        lines = palaver("list", "--json").stdout.splitlines()
        found = [json_format.Parse(line, assistant_pb2.Assistant()) for line in lines]
        assert found == [replies.assistant("a"), replies.assistant("é")]
        assert json.loads(lines[1]) == {
            "id": "é",
            "create_time": "2026-01-02T03:04:05.678901Z",
            "update_time": "2026-01-02T03:04:05.678901Z",
            "total_messages": 3,
            "total_tokens": 42,
        }

    def test_a_limit_ends_the_listing(self, palaver, server):
        server.script("ListAssistants", page("a", "b", token="more"))
        assert palaver("list", "--limit", "2", "--json").stdout.count("\n") == 2
        assert [request.page_size for request in server.requests("ListAssistants")] == [2]

    def test_damaged_assistants_are_reported(self, palaver, server):
        server.script("ListAssistants", page("a", damaged=("b",)))
        for arguments in ([], ["--json"]):
            result = palaver("list", *arguments)
            assert (result.exit_code, result.stderr) == (0, 'palaver: the stored state of "b" is damaged\n')

    def test_a_refusal_is_an_error(self, palaver, server):
        server.script("ListAssistants", DENIED)
        result = palaver("list")
        assert result.exit_code == 1
        assert "PERMISSION_DENIED" in result.stderr


class TestShow:
    @pytest.fixture(autouse=True)
    def script(self, server):
        server.script("GetAssistant", assistant_service_pb2.GetAssistantResponse(assistant=replies.assistant()))
        long = replies.message(3, assistant_pb2.ROLE_ASSISTANT, "x" * 1000)
        server.script("ListMessages", assistant_service_pb2.ListMessagesResponse(messages=[long, replies.message(2)]))

    def test_the_state_and_the_newest_messages_are_printed(self, palaver, server):
        result = palaver("show", "support", "--messages", "2")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.splitlines() == [
            "id        support",
            "created   2026-01-02 03:04:05",
            "updated   2026-01-02 03:04:05",
            "messages  3",
            "tokens    42 in the latest model call",
            "",
            "#2 user, 2026-01-02 03:04:05",
            "Hello",
            "",
            "#3 assistant, 2026-01-02 03:04:05",
            "x" * 300 + " … (700 more characters)",
        ]
        [request] = server.requests("ListMessages")
        assert (request.order, request.page_size) == (assistant_service_pb2.ORDER_NEWEST_FIRST, 2)

    def test_json_is_one_line_with_whole_messages(self, palaver):
        [line] = palaver("show", "support", "--json").stdout.splitlines()
        shown = json.loads(line)
        assert shown["assistant"]["total_tokens"] == 42
        assert [message["content"] for message in shown["messages"]] == ["Hello", "x" * 1000]

    def test_no_messages_are_read_if_none_are_wanted(self, palaver, server):
        result = palaver("show", "support", "--messages", "0")
        assert result.exit_code == 0
        assert "Hello" not in result.stdout
        assert server.requests("ListMessages") == []


class TestUsage:
    @pytest.fixture(autouse=True)
    def script(self, server):
        sizes = {"small": 1, "large": 500, "medium": 40}
        assistants = [replies.assistant(name, total_tokens=tokens) for name, tokens in sizes.items()]
        server.script(
            "ListAssistants",
            pb.ListAssistantsResponse(assistants=assistants[:2], next_page_token="more"),
            pb.ListAssistantsResponse(assistants=assistants[2:]),
        )

    def test_the_largest_conversations_and_the_sums_are_printed(self, palaver):
        result = palaver("usage", "--top", "2")
        assert result.exit_code == 0
        assert result.stdout.splitlines() == [
            "MESSAGES      TOKENS  ID",
            "       3         500  large",
            "       3          40  medium",
            "       9         541  (3 assistants)",
        ]
        assert "latest model call" in result.stderr

    def test_json_is_one_line(self, palaver):
        [line] = palaver("usage", "--top", "1", "--json").stdout.splitlines()
        usage = json.loads(line)
        assert [assistant["id"] for assistant in usage.pop("largest")] == ["large"]
        assert usage == {"assistants": 3, "total_messages": 9, "total_tokens": 541}


class TestTurns:
    def test_turns_are_printed_as_a_table(self, palaver, server):
        waiting = turn(
            3725, request_id="r2", phase=pb.RUNNING_TURN_PHASE_WAITING, caller="", chat_model="", usage=None, readers=0
        )
        server.script("ListRunningTurns", turns(waiting, turn(assistant_id="助手")))
        result = palaver("turns")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.splitlines() == [
            "2 turns in process 7 on box",
            "AGE      PHASE    CALLER    MODEL  CHARACTERS  TOKENS  READERS  COLLECTION  ID       REQUEST",
            "1:02:05  waiting                           12       0        0  ChatState   support  r2",
            "1.5s     model    checkout  gpt-x          12     345        1  ChatState   助手     r1",
        ]

    def test_the_turns_that_are_left_out_are_counted(self, palaver, server):
        server.script("ListRunningTurns", turns(turn(), total=250))
        assert palaver("turns", "--limit", "1").stdout.startswith("the oldest 1 of 250 turns in process 7 on box\n")
        assert [request.limit for request in server.requests("ListRunningTurns")] == [1]

    def test_one_turn_and_none(self, palaver, server):
        server.script("ListRunningTurns", turns(turn()), turns())
        assert palaver("turns").stdout.startswith("1 turn in process 7 on box\n")
        assert palaver("turns").stdout == "0 turns in process 7 on box\n"

    def test_json_is_the_response(self, palaver, server):
        server.script("ListRunningTurns", turns(turn()))
        [line] = palaver("turns", "--json").stdout.splitlines()
        assert json_format.Parse(line, pb.ListRunningTurnsResponse()) == turns(turn())
        assert json.loads(line)["turns"][0]["phase"] == "RUNNING_TURN_PHASE_MODEL"

    @pytest.mark.parametrize("arguments", [[], ["--json"]])
    def test_watching_repeats_the_call_until_it_fails(self, palaver, server, arguments):
        server.script("ListRunningTurns", turns(turn()), turns(), DENIED)
        result = palaver("turns", "--watch", "--interval", "0.01", *arguments)
        assert result.exit_code == 1
        assert len(server.requests("ListRunningTurns")) == 3
        assert "PERMISSION_DENIED" in result.stderr
        assert result.stdout.count("box") == 2

    def test_a_turn_is_cancelled(self, palaver, server):
        server.script("CancelTurn", assistant_service_pb2.CancelTurnResponse())
        result = palaver("turns", "cancel", "support", "r1", "--collection", "Chats")
        assert (result.exit_code, result.stdout) == (0, 'Cancelled the turn "r1" of the assistant "support".\n')
        assert server.requests("CancelTurn") == [
            assistant_service_pb2.CancelTurnRequest(id="support", request_id="r1", collection_name="Chats")
        ]
        assert server.requests("ListRunningTurns") == []
        assert palaver("turns", "cancel", "support", "r1", "--json").stdout == "{}\n"


class TestSettings:
    RESPONSE = pb.GetServerSettingsResponse(
        settings=[
            pb.ServerSetting(name="PALAVER_LISTEN", value="127.0.0.1:50051", is_default=True),
            pb.ServerSetting(name="PALAVER_WORKERS", value="4"),
        ],
        storage_connections=[
            pb.ServerConnection(
                name="AzureWebJobsStorage",
                kind=pb.SERVER_CONNECTION_KIND_SQLITE,
                location="/data/palaver.db",
                is_default=True,
            )
        ],
        ai_connections=[
            pb.ServerConnection(name="Main", kind=pb.SERVER_CONNECTION_KIND_AZURE_OPENAI, location="x.openai.azure.com")
        ],
        process=PROCESS,
    )

    def test_settings_and_connections_are_printed(self, palaver, server):
        server.script("GetServerSettings", self.RESPONSE)
        result = palaver("settings")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.splitlines() == [
            "process 7 on box; * is not the default",
            "  PALAVER_LISTEN=127.0.0.1:50051",
            "* PALAVER_WORKERS=4",
            "",
            "storage connections",
            "  AzureWebJobsStorage (default): sqlite, /data/palaver.db",
            "AI connections",
            "  Main: azure_openai, x.openai.azure.com",
        ]

    def test_json_is_the_response(self, palaver, server):
        server.script("GetServerSettings", self.RESPONSE)
        [line] = palaver("settings", "--json").stdout.splitlines()
        assert json_format.Parse(line, pb.GetServerSettingsResponse()) == self.RESPONSE


class TestPing:
    SERVICE = "palaver.v1.AssistantService"

    @pytest.fixture
    def checked(self) -> Iterator[tuple[str, health.HealthServicer]]:
        """A server that has only the health service: its address, and the service to set."""
        with ThreadPoolExecutor() as pool:
            server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
            servicer = health.HealthServicer()
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            yield f"127.0.0.1:{port}", servicer
            server.stop(None).wait()

    @pytest.mark.parametrize(("status", "exit_code"), [("SERVING", 0), ("NOT_SERVING", 1)])
    def test_the_status_decides_the_exit_status(self, checked, status, exit_code):
        target, servicer = checked
        servicer.set(self.SERVICE, getattr(health_pb2.HealthCheckResponse, status))
        result = CliRunner().invoke(palaver_command, ["ping", "--server", target])
        assert (result.exit_code, result.stderr) == (exit_code, "")
        assert result.stdout.startswith(f"{status} (")
        assert result.stdout.endswith(" ms)\n")
        result = CliRunner().invoke(palaver_command, ["ping", "--server", target, "--json"])
        assert result.exit_code == exit_code
        answer = json.loads(result.stdout)
        assert answer.pop("latency").endswith("s")
        assert answer == {"status": status}

    def test_a_server_without_the_service_is_an_error(self, checked):
        result = CliRunner().invoke(palaver_command, ["ping", "--server", checked[0]])
        assert (result.exit_code, result.stdout) == (1, "")
        assert "NOT_FOUND" in result.stderr

    def test_a_server_that_can_not_be_reached_is_an_error(self):
        result = CliRunner().invoke(palaver_command, ["ping", "--server", "127.0.0.1:1", "--json"])
        assert (result.exit_code, result.stdout) == (1, "")
        assert json.loads(result.stderr)["error"]["status"] == "UNAVAILABLE"
