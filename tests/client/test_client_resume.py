"""A reply whose connection breaks: the turn is posted again, and the caller gets each piece of it once."""

from __future__ import annotations

import asyncio
import threading

import grpc
import pytest

import palaver
from palaver.v1 import assistant_service_pb2
from tests.support import replies
from tests.support.refusals import refusal
from tests.support.scripted_server import HANG, Failure

BREAK = Failure(grpc.StatusCode.UNAVAILABLE, "Socket closed")
SHUTTING_DOWN = refusal(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
LONG = 1000.0


def shown(events: list[palaver.Event]) -> list[str]:
    """Returns what a program that prints all events would have printed."""
    lines: list[str] = []
    for event in events:
        if isinstance(event, palaver.TurnStarted):
            lines.append("started")
        elif isinstance(event, palaver.TextDelta):
            lines.append(event.text)
        else:
            assert isinstance(event, palaver.TurnCompleted)
            lines.append("completed")
    return lines


@pytest.mark.parametrize("end", [BREAK, SHUTTING_DOWN, Failure(grpc.StatusCode.INTERNAL, "Received RST_STREAM")])
async def test_a_turn_is_posted_again_and_continues_where_it_stopped(driver, server, end):
    server.script(
        "PostUserQuery",
        [replies.started(), replies.delta("Hel"), end],
        [end],
        [replies.started(), replies.delta("He"), end],
        [replies.started(), replies.delta("Hello, "), end],
        replies.turn("Hello, wor", "ld"),
    )
    reply, events = await driver.post("support", "Hello!", temperature=0.0)
    assert shown(events) == ["started", "Hel", "lo, ", "wor", "ld", "completed"]
    assert reply.completed is events[-1]
    first, *others = server.requests("PostUserQuery")
    assert others == [first] * 4
    assert first.request_id == reply.request_id != ""


async def test_each_turn_gets_its_own_request_id_unless_the_caller_sets_one(driver, server):
    server.script("PostUserQuery", replies.turn("Hi"))
    server.script(
        "PostUserQueryUnary", assistant_service_pb2.PostUserQueryUnaryResponse(completed=replies.turn_completed())
    )
    names = [(await driver.post("support", "Hello!"))[0].request_id for _ in range(2)]
    reply, _ = await driver.post("support", "Hello!", request_id="mine")
    assert reply.request_id == "mine"
    await driver.call("post_user_query_unary", "support", "Hello!")
    await driver.call("post_user_query_unary", "support", "Hello!", request_id="mine")
    *made, streamed, unary, given = [call.request.request_id for call in server.calls]
    assert made == names
    assert (streamed, given) == ("mine", "mine")
    assert len({*made, unary}) == 3


async def test_a_unary_turn_is_posted_again(driver, server):
    completed = assistant_service_pb2.PostUserQueryUnaryResponse(completed=replies.turn_completed())
    server.script("PostUserQueryUnary", BREAK, SHUTTING_DOWN, completed)
    assert (await driver.call("post_user_query_unary", "support", "Hello!")).text == "Hi there"
    first, *others = server.requests("PostUserQueryUnary")
    assert others == [first] * 2


def restarting(server):
    server.script("PostUserQuery", [replies.started(), replies.delta("One"), BREAK], [*replies.turn("Two")[:-1], HANG])
    return pytest.raises(palaver.UnavailableError, match="ran again")


async def test_async_text_never_mixes_two_replies(server):
    seen = []
    with restarting(server):
        async with palaver.AsyncClient(server.target) as client:
            async for text in client.post_user_query("support", "Hello!").text:
                seen.append(text)  # noqa: PERF401 - the pieces before the error count
    assert seen == ["One"]
    assert await asyncio.to_thread(server.calls[1].abandoned.wait, 30)


def test_text_never_mixes_two_replies(server):
    seen = []
    with restarting(server), palaver.Client(server.target) as client:
        for text in client.post_user_query("support", "Hello!").text:
            seen.append(text)  # noqa: PERF402 - the pieces before the error count
    assert seen == ["One"]
    assert server.calls[1].abandoned.wait(30)


def test_text_can_be_read_after_some_events(server):
    server.script("PostUserQuery", [replies.started(), replies.delta("One"), BREAK], replies.turn("Two"))
    with palaver.Client(server.target) as client:
        reply = client.post_user_query("support", "Hello!")
        assert shown([next(reply), next(reply), next(reply)]) == ["started", "One", "started"]
        assert list(reply.text) == ["Two"]
        assert reply.completed.text == "Two"


# When it is not posted again.


@pytest.mark.parametrize(
    "error",
    [
        refusal(grpc.StatusCode.UNAVAILABLE, "MODEL_UNAVAILABLE"),
        Failure(grpc.StatusCode.INTERNAL, "somebody else's"),
    ],
    ids=lambda failure: f"{failure.status.name} {len(failure.details)}",
)
async def test_what_a_server_has_decided_is_for_the_caller(driver, server, error):
    server.script("PostUserQuery", [replies.started(), replies.delta("Hi"), error])
    server.script("PostUserQueryUnary", error)
    for call in (driver.post("support", "Hello!"), driver.call("post_user_query_unary", "support", "Hello!")):
        with pytest.raises(palaver.PalaverError) as caught:
            await call
        assert caught.value.status is error.status
    assert len(server.calls) == 2


async def test_it_ends_when_the_connection_is_gone_for_too_long(connect, server):
    driver = await connect(server.target, reconnect_timeout=0.5)
    server.script("PostUserQuery", [replies.started(), replies.delta("Hi"), BREAK], [BREAK])
    server.script("PostUserQueryUnary", BREAK)
    for call in (driver.post("support", "Hello!"), driver.call("post_user_query_unary", "support", "Hello!")):
        with pytest.raises(palaver.UnavailableError, match="Socket closed"):
            await call
    assert len(server.calls) > 4


async def test_a_break_counts_anew_once_the_server_has_answered(connect, server):
    driver = await connect(server.target, reconnect_timeout=0.4)
    # Each of these pauses is shorter than that, and all of them together are longer. Each post brings a character.
    broken = [[replies.started(), replies.delta("x" * length), BREAK] for length in range(1, 13)]
    server.script("PostUserQuery", *broken, replies.turn("x" * 12))
    _, events = await driver.post("support", "Hello!")
    assert shown(events) == ["started", *"x" * 12, "completed"]


async def test_it_can_be_turned_off(connect, server):
    driver = await connect(server.target, reconnect_timeout=0)
    server.script("PostUserQuery", [replies.started(), BREAK])
    server.script("PostUserQueryUnary", BREAK)
    for call in (driver.post("support", "Hello!"), driver.call("post_user_query_unary", "support", "Hello!")):
        with pytest.raises(palaver.UnavailableError):
            await call
    assert len(server.calls) == 2


async def test_it_never_outlasts_the_deadline(connect, server):
    driver = await connect(server.target, timeout=60, reconnect_timeout=2000)
    long = refusal(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", retry_delay=LONG)
    short = refusal(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", retry_delay=2)
    server.script("PostUserQuery", [replies.started(), short], [long])
    server.script("PostUserQueryUnary", short, long)
    for call in (driver.post("support", "Hello!"), driver.call("post_user_query_unary", "support", "Hello!")):
        with pytest.raises(palaver.UnavailableError, match="refused"):
            await call
    streamed, again, unary, unary_again = [call.time_remaining for call in server.calls]
    # gRPC rounds deadlines to about a tenth of a second.
    assert 0 < again < streamed - 1 < 60
    assert 0 < unary_again < unary - 1 < 60


def test_another_thread_can_cancel_during_the_retry_delay(server):
    server.script("PostUserQuery", [refusal(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", retry_delay=LONG)])
    with palaver.Client(server.target, reconnect_timeout=2000) as client:
        reply = client.post_user_query("support", "Hello!")
        assert server.wait_for_calls(1)[0].ended.wait(30)
        thread = threading.Thread(target=reply.cancel)
        thread.start()
        with pytest.raises(palaver.CanceledError):
            next(reply)
        thread.join()
    assert len(server.calls) == 1


async def test_closing_the_client_ends_the_retry_delay(server):
    server.script("PostUserQuery", [refusal(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", retry_delay=LONG)])
    client = palaver.AsyncClient(server.target, reconnect_timeout=2000)
    reply = client.post_user_query("support", "Hello!")
    reading = asyncio.ensure_future(reply.__anext__())
    await asyncio.to_thread(server.wait_for_calls, 1)
    await client.close()
    with pytest.raises(palaver.CanceledError):
        await reading
    assert len(server.calls) == 1
