"""`palaver chat` in a pseudo-terminal: what the keys do, and what the screen shows."""

from __future__ import annotations

import os
import re
import stat
import sys
import threading

import grpc
import pexpect
import pytest

from palaver.v1 import assistant_service_pb2
from tests.support import replies
from tests.support.refusals import refusal
from tests.support.scripted_server import HANG, Failure
from tests.support.skill_events import skill_call, skill_result

# pexpect forks this process while the scripted server has threads, but the child executes a program immediately.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

CTRL_C, CTRL_D, UP, ALT_ENTER, ENTER = "\x03", "\x04", "\x1b[A", "\x1b\r", "\r"
PROMPT = r"\x1b\[\?2004h[^>]*>"  # it turns on bracketed paste


@pytest.fixture
def chat(server, tmp_path):
    children = []

    def start(*arguments, **variables):
        environment = {
            **os.environ,
            "TERM": "xterm-256color",
            "XDG_STATE_HOME": str(tmp_path),
            "PROMPT_TOOLKIT_NO_CPR": "1",  # the pseudo-terminal does not answer queries for the cursor position
            **variables,
        }
        command = ["-m", "palaver", "--server", server.target, "chat", *arguments]
        child = pexpect.spawn(
            sys.executable, command, env=environment, dimensions=(24, 80), encoding="utf-8", timeout=10
        )
        children.append(child)
        child.expect("/help for the keys")
        child.expect(PROMPT)
        return child

    yield start
    for child in children:
        child.close(force=True)


def leave(child):
    child.send(CTRL_D)
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


def messages(server):
    return [request.user_message for request in server.requests("PostUserQuery")]


def test_a_reply_is_streamed_and_formatted(chat, server):
    go_on = threading.Event()
    finish = threading.Event()
    server.script(
        "PostUserQuery",
        [
            replies.started(),
            go_on,
            replies.delta("Some **bo"),
            replies.delta("ld** text\n\nand then"),
            finish,
            replies.completed("Some **bold** text\n\nand then"),
        ],
    )
    child = chat("support")
    child.send("Hello!" + ENTER)
    child.expect("waiting for the reply")
    go_on.set()
    child.expect(r"\x1b\[1mbold\x1b\[0m text")
    child.expect("and then")
    assert not server.calls[-1].ended.is_set()
    finish.set()
    child.expect(PROMPT)
    leave(child)
    assert server.requests("CreateAssistant")[0].id == "support"
    assert messages(server) == ["Hello!"]


def test_a_model_that_thinks_shows_for_how_long(chat, server):
    finish = threading.Event()
    server.script("PostUserQuery", [replies.started(), replies.progress(35), finish, *replies.turn("Well")[1:]])
    child = chat()
    child.send("Hello!" + ENTER)
    child.expect(r"the model is thinking \(35 s\)")
    finish.set()
    child.expect("Well")
    child.expect(PROMPT)
    leave(child)


def test_ctrl_c_stops_the_reply_but_not_the_program(chat, server):
    server.script("PostUserQuery", [replies.started(), replies.delta("Well"), HANG], replies.turn("Second reply"))
    child = chat()
    child.send("Hello!" + ENTER)
    child.expect("Well")
    child.send(CTRL_C)
    child.expect("This turn was not stored")
    assert server.calls[-1].abandoned.wait(30)
    child.expect(PROMPT)
    child.send("Again" + ENTER)
    child.expect("Second reply")
    child.expect(PROMPT)
    leave(child)
    assert messages(server) == ["Hello!", "Again"]


def test_ctrl_c_stops_waiting_for_the_reply(chat, server):
    server.script("PostUserQuery", [replies.started(), HANG])
    child = chat()
    child.send("Hello!" + ENTER)
    child.expect("waiting for the reply")
    child.send(CTRL_C)
    child.expect("This turn was not stored")
    child.expect(PROMPT)
    leave(child)


def test_ctrl_c_clears_the_message(chat, server):
    child = chat()
    child.send("wrong" + CTRL_C + "right" + ENTER)
    child.expect("Hi there")
    leave(child)
    assert messages(server) == ["right"]


def test_a_message_may_have_several_lines(chat, server):
    child = chat()
    child.send("eins" + ALT_ENTER + "zwei" + ENTER)
    child.expect("Hi there")
    leave(child)
    assert messages(server) == ["eins\nzwei"]


def test_the_message_history_is_private(chat, server, tmp_path):
    child = chat()
    child.send("remember me" + ENTER)
    child.expect("Hi there")
    leave(child)
    again = chat()
    again.send(UP + ENTER)
    again.expect("Hi there")
    leave(again)
    assert messages(server) == ["remember me", "remember me"]
    assert stat.S_IMODE((tmp_path / "palaver" / "history").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "palaver").stat().st_mode) == 0o700


def test_an_unwritable_history_does_not_stop_the_chat(chat, server, tmp_path):
    (tmp_path / "file").touch()
    child = chat(XDG_STATE_HOME=str(tmp_path / "file"))
    child.send("Hello!" + ENTER)
    child.expect("Hi there")
    leave(child)


def test_an_error_is_shown_and_the_chat_continues(chat, server):
    failure = refusal(grpc.StatusCode.UNAVAILABLE, "MODEL_UNAVAILABLE", "try later")
    server.script("PostUserQuery", [failure], replies.turn("Hi there"))
    child = chat()
    child.send("Hello!" + ENTER)
    child.expect(r"try later \(UNAVAILABLE, MODEL_UNAVAILABLE\)")
    child.expect(PROMPT)
    child.send("Again" + ENTER)
    child.expect("Hi there")
    leave(child)


def test_a_restarted_reply_is_announced(chat, server):
    broken = Failure(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    server.script("PostUserQuery", [replies.started(), replies.delta("Hi"), broken], replies.turn("Good day"))
    child = chat()
    child.send("Hello!" + ENTER)
    child.expect("Hi.*The connection broke; the reply restarts.*Good day")
    leave(child)


def test_a_truncated_reply_suggests_the_option(chat, server):
    length = assistant_service_pb2.FINISH_REASON_LENGTH
    server.script(
        "PostUserQuery", [replies.started(max_tokens=100), replies.delta("Hi"), replies.completed("Hi", length)]
    )
    child = chat("--max-tokens", "100")
    child.send("Hello!" + ENTER)
    child.expect("cut off at its token limit of 100; set a higher --max-tokens")
    leave(child)


def test_skills_are_shown(chat, server):
    server.script(
        "PostUserQuery",
        [
            replies.started(),
            skill_call("c1", arguments_json='{"zone": "UTC"}'),
            skill_result("c1", error="no clock"),
            *replies.turn("Who knows")[1:],
        ],
    )
    child = chat()
    child.send("Hello!" + ENTER)
    child.expect('calling clock {"zone": "UTC"}')
    child.expect("the skill failed: no clock")
    child.expect("Who knows")
    leave(child)


def test_slash_commands(chat, server):
    child = chat()
    child.send("/help" + ENTER)
    child.expect("Alt-Enter")
    child.send("/nonsense" + ENTER)
    child.expect("Unknown command /nonsense")
    child.send(ENTER)
    child.send("/quit" + ENTER)
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0
    assert messages(server) == []


def test_a_message_may_start_with_a_slash(chat, server):
    child = chat()
    child.send("/etc/hosts is a file?" + ENTER)
    child.expect("Hi there")
    leave(child)
    assert messages(server) == ["/etc/hosts is a file?"]


def test_no_color_disables_colors(chat, server):
    server.script("PostUserQuery", replies.turn("# Title\n\n`code`\n\n```python\nx = 1\n```\n\nThe end"))
    child = chat(NO_COLOR="1")
    child.send("Hello!" + ENTER)
    child.expect("The end")
    shown = child.before
    leave(child)
    assert "Title" in shown
    assert not re.search(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7])(?:;[0-9;]*)?m", shown)


def test_chat_without_a_server_fails_with_one_line(tmp_path):
    child = pexpect.spawn(
        sys.executable, ["-m", "palaver", "--server", "127.0.0.1:1", "chat"], encoding="utf-8", timeout=10
    )
    output = child.read()
    child.wait()
    assert child.exitstatus == 1
    assert output.startswith("palaver: can't reach the server at 127.0.0.1:1")
