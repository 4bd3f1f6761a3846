"""The commands: their requests, output and exit status. They run in the process of the test."""

from __future__ import annotations

import json

import grpc
import pytest
from click.testing import CliRunner
from google.protobuf import json_format

from palaver.cli._app import palaver_command
from palaver.v1 import assistant_pb2, assistant_service_pb2
from tests.support import replies
from tests.support.certificates import issue_certificates
from tests.support.refusals import refusal
from tests.support.scripted_server import HANG, Failure, ScriptedServer
from tests.support.skill_events import skill_call, skill_result

INVALID = refusal(
    grpc.StatusCode.INVALID_ARGUMENT,
    "INVALID_FIELD",
    "temperature: must be from 0 to 2; top_p: must be greater than 0",
    violations={"temperature": "must be from 0 to 2", "top_p": "must be greater than 0"},
    retry_delay=1,
)
LENGTH = assistant_service_pb2.FINISH_REASON_LENGTH


@pytest.fixture
def palaver(server):
    def run(*arguments, **options):
        return CliRunner().invoke(palaver_command, ["--server", server.target, *arguments], **options)

    return run


def test_create(palaver, server, tmp_path):
    file = tmp_path / "instructions.txt"
    file.write_text("Be kind.\nBe brief.\n", "utf-8")
    result = palaver("create", "support", "--instructions", f"@{file}", "--if-exists", "reset")
    assert (result.exit_code, result.stdout, result.stderr) == (0, 'Created the assistant "support".\n', "")
    assert server.requests("CreateAssistant") == [
        assistant_service_pb2.CreateAssistantRequest(
            id="support",
            instructions="Be kind.\nBe brief.\n",
            if_exists=assistant_service_pb2.IF_EXISTS_RESET,
        )
    ]


def test_create_sends_instructions_only_if_given(palaver, server):
    palaver("create", "support")
    palaver("create", "support", "--instructions", "")
    assert [request.HasField("instructions") for request in server.requests("CreateAssistant")] == [False, True]


def test_create_reports_a_kept_assistant(palaver, server):
    server.script(
        "CreateAssistant", assistant_service_pb2.CreateAssistantResponse(assistant=replies.assistant(), created=False)
    )
    assert "Kept" in palaver("create", "support", "--if-exists", "keep").stdout


def test_ask_streams_plain_text(palaver, server):
    server.script("PostUserQuery", replies.turn("Hi **", "there**"))
    result = palaver("ask", "support", "Hello!")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Hi **there**\n", "")
    [request] = server.requests("PostUserQuery")
    assert request.request_id
    request.ClearField("request_id")
    assert request == assistant_service_pb2.PostUserQueryRequest(id="support", user_message="Hello!")


@pytest.mark.parametrize("arguments", [["-"], []])
def test_ask_reads_standard_input(palaver, server, arguments):
    assert palaver("ask", "support", *arguments, input="first\nsecond ü\n").exit_code == 0
    assert server.requests("PostUserQuery")[0].user_message == "first\nsecond ü"


def test_ask_rejects_input_that_is_not_utf8(palaver, server):
    result = palaver("ask", "support", input=b"\xff\xfe")
    assert result.exit_code == 2
    assert "not UTF-8" in result.stderr
    assert server.calls == []


def test_ask_creates_the_assistant_on_demand(palaver, server):
    assert palaver("ask", "support", "Hello!", "--create").exit_code == 0
    assert server.requests("CreateAssistant")[0].if_exists == assistant_service_pb2.IF_EXISTS_KEEP


def test_every_option_reaches_the_request(palaver, server):
    palaver(
        *["--connection", "Archive", "--collection", "Chats", "ask", "support", "Hello!"],
        *["--model", "gpt-x", "--temperature", "0", "--top-p", "0.5", "--max-tokens", "7", "--reasoning"],
        *["--ai-connection", "Main", "--max-history", "0"],
    )
    [request] = server.requests("PostUserQuery")
    assert request == assistant_service_pb2.PostUserQueryRequest(
        id="support",
        user_message="Hello!",
        chat_model="gpt-x",
        temperature=0,
        top_p=0.5,
        max_tokens=7,
        is_reasoning_model=True,
        ai_connection_name="Main",
        chat_storage_connection_setting="Archive",
        collection_name="Chats",
        request_id=request.request_id,
        history=assistant_service_pb2.History(max_messages=0),
    )


def test_global_options_may_follow_the_command(server):
    arguments = ["--server", "127.0.0.1:1", "ask", "support", "Hello!", "--server", server.target]
    result = CliRunner().invoke(palaver_command, [*arguments, "--collection", "Chats", "--timeout", "1000"])
    assert result.exit_code == 0, result.stderr
    assert server.calls[0].request.collection_name == "Chats"
    assert server.calls[0].time_remaining < 1100


def test_server_and_token_come_from_the_environment(server):
    environment = {"PALAVER_SERVER": server.target, "PALAVER_TOKEN": "s3cret"}
    assert CliRunner().invoke(palaver_command, ["ask", "support", "Hello!"], env=environment).exit_code == 0
    assert server.calls[0].metadata["authorization"] == "Bearer s3cret"


def test_tls_with_a_custom_authority(tmp_path):
    certificates = issue_certificates(tmp_path)
    with ScriptedServer(certificates.server_credentials) as server:
        server.script("PostUserQuery", replies.turn("Hi"))
        arguments = ["--server", server.target, "ask", "a", "b"]
        trusted = CliRunner().invoke(palaver_command, [*arguments, "--ca", str(certificates.authority)])
        unknown = CliRunner().invoke(palaver_command, [*arguments, "--tls"])
    assert trusted.stdout == "Hi\n"
    assert unknown.exit_code == 1


@pytest.mark.parametrize("source", ["options", "environment"])
def test_a_client_certificate(tmp_path, source):
    certificates = issue_certificates(tmp_path)
    options = {
        "ca": certificates.authority,
        "client-certificate": certificates.certificate,
        "client-key": certificates.key,
    }
    arguments = [part for name, path in options.items() for part in (f"--{name}", str(path))]
    environment = {f"PALAVER_{name.upper().replace('-', '_')}": str(path) for name, path in options.items()}
    with ScriptedServer(certificates.mutual_server_credentials) as server:
        server.script("PostUserQuery", replies.turn("Hi"))
        call = ["--server", server.target, "ask", "a", "b"]
        if source == "options":
            result = CliRunner().invoke(palaver_command, [*call, *arguments])
        else:
            result = CliRunner().invoke(palaver_command, call, env=environment)
    assert result.stdout == "Hi\n", result.stderr


def test_ask_reports_a_truncated_reply(palaver, server):
    server.script(
        "PostUserQuery", [replies.started(max_tokens=100), replies.delta("Hi"), replies.completed("Hi", LENGTH)]
    )
    result = palaver("ask", "support", "Hello!")
    assert (result.exit_code, result.stdout) == (0, "Hi\n")
    assert result.stderr == "palaver: The reply was cut off at its token limit of 100; set a higher --max-tokens.\n"


def test_history(palaver, server):
    server.script(
        "ListMessages",
        assistant_service_pb2.ListMessagesResponse(
            messages=[
                replies.message(1, assistant_pb2.ROLE_SYSTEM, "Be kind."),
                replies.message(2, assistant_pb2.ROLE_USER, "What time is it? " * 20),
                replies.message(
                    3,
                    assistant_pb2.ROLE_ASSISTANT,
                    "",
                    skill_calls=[assistant_pb2.SkillCall(id="c", name="clock", arguments_json="{}")],
                ),
            ]
        ),
    )
    result = palaver("history", "support", "--collection", "Chats")
    assert result.exit_code == 0
    heads = [line.partition(",")[0] for line in result.stdout.splitlines() if line.startswith("#")]
    assert heads == ["#1 system", "#2 user", "#3 assistant"]
    assert "What time is it? " * 20 + "\n" in result.stdout  # not wrapped
    assert "[calls clock {}]" in result.stdout
    assert server.requests("ListMessages") == [
        assistant_service_pb2.ListMessagesRequest(
            id="support",
            collection_name="Chats",
            order=assistant_service_pb2.ORDER_OLDEST_FIRST,
            page_size=1000,
        )
    ]


def test_history_limit_and_order(palaver, server):
    page = assistant_service_pb2.ListMessagesResponse(
        messages=[replies.message(index) for index in (9, 8, 7)], next_page_token="more"
    )
    server.script("ListMessages", page)
    result = palaver("history", "support", "--newest-first", "--limit", "2", "--json")
    assert [json.loads(line)["index"] for line in result.stdout.splitlines()] == [9, 8]
    (request,) = server.requests("ListMessages")
    assert (request.order, request.page_size) == (assistant_service_pb2.ORDER_NEWEST_FIRST, 2)


def test_delete(palaver, server):
    server.script("DeleteAssistant", assistant_service_pb2.DeleteAssistantResponse())
    assert palaver("delete", "support").stdout == 'Deleted the assistant "support".\n'
    assert palaver("delete", "support", "--json").stdout == "{}\n"


# JSON: each line is a message of the contract in Protobuf's JSON format, with the field names of the contract.


def _parse(line, message):
    assert set(json.loads(line)) <= {field.name for field in message.DESCRIPTOR.fields}  # not "fieldName"
    return json_format.Parse(line, message)


def test_ask_prints_an_event_per_line(palaver, server):
    events = [
        replies.started(temperature=0.5),
        skill_call("c1"),
        replies.progress(45.5),
        skill_result("c1", error="broken"),
        replies.delta("Grüße\n\x1b[31m"),
        replies.completed("Hi", LENGTH),
    ]
    server.script("PostUserQuery", events)
    result = palaver("ask", "support", "Hello!", "--json")
    lines = result.stdout.splitlines()
    parsed = [_parse(line, assistant_service_pb2.PostUserQueryResponse()) for line in lines]
    for event in events:
        event.ClearField("sequence")
    assert parsed == events
    assert json.loads(lines[0])["started"]["max_tokens"] is None
    assert json.loads(lines[-1])["completed"]["finish_reason"] == "FINISH_REASON_LENGTH"
    assert result.stderr == ""  # the JSON has the finish reason


def test_create_and_history_print_the_messages_of_the_contract(palaver, server):
    created = assistant_service_pb2.CreateAssistantResponse(assistant=replies.assistant(), created=True)
    messages = [replies.message(1, 99), replies.message(2, assistant_pb2.ROLE_TOOL, "noon", skill_call_id="c1")]
    server.script("CreateAssistant", created)
    server.script("ListMessages", assistant_service_pb2.ListMessagesResponse(messages=messages))
    assert _parse(palaver("create", "a", "--json").stdout, assistant_service_pb2.CreateAssistantResponse()) == created
    lines = palaver("history", "a", "--json").stdout.splitlines()
    messages[0].role = assistant_pb2.ROLE_UNSPECIFIED
    assert [_parse(line, assistant_pb2.Message()) for line in lines] == messages


# Errors.


def test_an_error_is_one_line_with_its_reason(palaver, server):
    failure = refusal(grpc.StatusCode.NOT_FOUND, "ASSISTANT_NOT_FOUND", "there is no\nsuch assistant")
    server.script("PostUserQuery", [failure])
    result = palaver("ask", "support", "Hello!")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "palaver: there is no such assistant (NOT_FOUND, ASSISTANT_NOT_FOUND)\n"


def test_each_invalid_field_has_a_line(palaver, server):
    server.script("PostUserQuery", [INVALID])
    result = palaver("ask", "support", "Hello!")
    assert result.stderr.splitlines() == [
        "palaver: the request is invalid (INVALID_ARGUMENT, INVALID_FIELD)",
        "  temperature: must be from 0 to 2",
        "  top_p: must be greater than 0",
    ]


def test_an_error_as_json(palaver, server):
    server.script("PostUserQuery", [replies.started(), INVALID])
    result = palaver("ask", "support", "Hello!", "--json")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 1
    assert json.loads(result.stderr) == {
        "error": {
            "status": "INVALID_ARGUMENT",
            "reason": "INVALID_FIELD",
            "message": INVALID.message,
            "field_violations": [
                {"field": "temperature", "description": "must be from 0 to 2"},
                {"field": "top_p", "description": "must be greater than 0"},
            ],
            "retry_delay": 1.0,
        }
    }


def test_an_error_starts_on_a_new_line_after_the_text(palaver, server):
    server.script("PostUserQuery", [replies.started(), replies.delta("Hi"), Failure(grpc.StatusCode.INTERNAL, "oh")])
    result = palaver("ask", "support", "Hello!")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "Hi\n", "palaver: oh (INTERNAL)\n")


def test_a_restarted_reply_starts_on_a_new_line(palaver, server):
    broken = Failure(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    server.script("PostUserQuery", [replies.started(), replies.delta("Hi"), broken], replies.turn("Good ", "day"))
    result = palaver("ask", "support", "Hello!")
    assert (result.exit_code, result.stdout) == (0, "Hi\nGood day\n")
    assert result.stderr == "palaver: The connection broke; the reply restarts.\n"


def test_an_unreachable_server_is_unavailable():
    result = CliRunner().invoke(palaver_command, ["--server", "127.0.0.1:1", "delete", "support"])
    assert result.exit_code == 1
    assert result.stderr.startswith("palaver: can't reach the server at 127.0.0.1:1: ")
    assert len(result.stderr.splitlines()) == 1


def test_the_timeout_option_sets_the_deadline(palaver, server):
    server.script("PostUserQuery", [HANG])
    result = palaver("ask", "support", "Hello!", "--timeout", "0.2")
    assert result.exit_code == 1
    assert "DEADLINE_EXCEEDED" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask"], "Missing argument 'ID'"),
        (["ask", "a", "b", "--max-tokens", "99999999999"], "out of range"),
        (["ask", "a", "b", "--max-tokens", "many"], "not a whole number"),
        (["ask", "a", "b\udcff"], "not UTF-8"),
        (["ask", "a", "b", "--timeout", "0"], "--timeout"),
        (["create", "a", "--instructions", "@/nowhere"], "No such file"),
        (["create", "a", "--if-exists", "perhaps"], "--if-exists"),
        (["ask", "a", "b", "--server", "palaver.example:1", "--token", "t"], "use TLS"),
        (["ask", "a", "b", "--ca", "/nowhere"], "--ca"),
        (["ask", "a", "b", "--client-certificate", __file__, "--client-key", __file__], "requires TLS"),
        (["ask", "a", "b", "--tls", "--client-certificate", __file__], "require each other"),
    ],
)
def test_invalid_usage(palaver, server, arguments, message):
    result = palaver(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert server.calls == []


# Chat without a terminal.


def test_chat_without_a_terminal_posts_each_line(palaver, server):
    server.script("PostUserQuery", replies.turn("one"), [Failure(grpc.StatusCode.ABORTED, "busy")], replies.turn("two"))
    result = palaver("chat", "--instructions", "Be kind.", input="eins\n\nzwei\ndrei")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "one\ntwo\n", "palaver: busy (ABORTED)\n")
    (creation,) = server.requests("CreateAssistant")
    assert (creation.id, creation.instructions, creation.if_exists) == (
        "chat",
        "Be kind.",
        assistant_service_pb2.IF_EXISTS_KEEP,
    )
    assert [request.user_message for request in server.requests("PostUserQuery")] == ["eins", "zwei", "drei"]
