"""The command against the real server with its offline model, each in its own process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import palaver


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    command = [sys.executable, "-m", "palaver_server", "--offline-model", "--listen", "127.0.0.1:0"]
    command += ["--data-dir", str(tmp_path_factory.mktemp("data"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip().removeprefix("palaver-server listening on ")
        finally:
            process.terminate()


@pytest.fixture
def run(target):
    def command(*arguments, status=0, **options):
        result = subprocess.run(
            [sys.executable, "-m", "palaver", "--server", target, *arguments],
            check=False,
            capture_output=True,
            text=True,
            **options,
        )
        assert result.returncode == status, result.stderr
        return result.stdout if status == 0 else result.stderr

    return command


def test_create_ask_history_and_delete(run):
    assert run("create", "life", "--instructions", "Be kind.") == 'Created the assistant "life".\n'
    assert "ASSISTANT_EXISTS" in run("create", "life", status=1)
    reply = run("ask", "life", "-", input="Grüße 😀\n")
    assert "Grüße 😀" in reply
    stored = [json.loads(line) for line in run("history", "life", "--json").splitlines()]
    assert [message["role"] for message in stored] == ["ROLE_SYSTEM", "ROLE_USER", "ROLE_ASSISTANT"]
    assert [message["content"] for message in stored] == ["Be kind.", "Grüße 😀", reply.removesuffix("\n")]
    assert run("delete", "life") == 'Deleted the assistant "life".\n'
    assert "ASSISTANT_NOT_FOUND" in run("history", "life", status=1)


def test_ask_prints_the_events_of_a_turn(run):
    lines = run("ask", "events", "Hello!", "--create", "--json", "--max-tokens", "2").splitlines()
    events = [next(iter(json.loads(line))) for line in lines]
    assert events[0] == "started"
    assert set(events[1:-1]) == {"text_delta"}
    assert json.loads(lines[-1])["completed"]["finish_reason"] == "FINISH_REASON_LENGTH"


def test_all_invalid_fields_are_reported(run):
    error = json.loads(run("ask", "events", "", "--temperature", "7", "--json", status=1))["error"]
    assert error["reason"] == "INVALID_FIELD"
    assert {violation["field"] for violation in error["field_violations"]} == {"user_message", "temperature"}


def test_an_operator_finds_out_what_the_server_holds_and_does(run):
    for name in ("big", "small"):
        run("create", name, "--collection", "Operated")
    run("ask", "big", "Hello!", "--collection", "Operated")
    listed = [line.split() for line in run("list", "--collection", "Operated").splitlines()[1:]]
    assert [(line[2], line[-1]) for line in listed] == [("3", "big"), ("1", "small")]
    shown = json.loads(run("show", "big", "--collection", "Operated", "--json"))
    assert [message["role"] for message in shown["messages"]] == ["ROLE_SYSTEM", "ROLE_USER", "ROLE_ASSISTANT"]
    usage = json.loads(run("usage", "--collection", "Operated", "--json"))
    assert (usage["assistants"], usage["total_messages"]) == (2, 4)
    assert usage["total_tokens"] == shown["assistant"]["total_tokens"] > 0
    assert run("turns").startswith("0 turns in process ")
    assert "TURN_NOT_FOUND" in run("turns", "cancel", "big", "r", "--collection", "Operated", status=1)
    assert "* PALAVER_OFFLINE_MODEL=true" in run("settings").splitlines()
    assert run("ping").startswith("SERVING (")


def test_leaving_a_reply_early_stores_nothing(target):
    with palaver.Client(target) as client:
        before = client.create_assistant("early").assistant.total_messages
        with client.post_user_query("early", "Hello!") as reply:
            next(iter(reply.text))
        client.post_user_query_unary("early", "Once more")
        contents = [message.content for message in client.list_messages("early")]
    assert len(contents) == before + 2
    assert "Hello!" not in contents


async def test_both_clients_read_the_same_messages(target):
    async with palaver.AsyncClient(target) as client:
        await client.create_assistant("agree")
        reply = client.post_user_query("agree", "Hello!")
        text = "".join([piece async for piece in reply.text])
        assert text == reply.completed.text
        stored = [message async for message in client.list_messages("agree", order="newest_first", page_size=1)]
        assert stored[0].content == text
        with pytest.raises(palaver.NotFoundError):
            await client.cancel_turn("agree", "r1")
    with palaver.Client(target) as sync_client:
        assert list(sync_client.list_messages("agree"))[::-1] == stored
