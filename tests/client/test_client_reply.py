"""A reply: its events, its text, its end, and leaving it early."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from datetime import timedelta

import grpc
import pytest
from google.protobuf import duration_pb2

import palaver
from palaver.v1 import assistant_service_pb2
from tests.support import replies
from tests.support.scripted_server import HANG, Failure
from tests.support.skill_events import skill_call, skill_result


async def test_all_kinds_of_events_arrive_unchanged(driver, server):
    server.script(
        "PostUserQuery",
        [
            replies.started(temperature=0.0, max_tokens=100),
            skill_call("c1", arguments_json='{"zone":"UTC"}'),
            skill_result("c1", content="noon"),
            skill_result("c2", error="broken"),
            replies.delta("Hi "),
            replies.delta("there"),
            replies.completed("Hi there"),
        ],
    )
    reply, events = await driver.post("support", "Hello!")
    assert events == [
        palaver.TurnStarted(
            request_id="r1",
            chat_model="gpt-x",
            ai_connection_name="OPENAI",
            temperature=0.0,
            top_p=None,
            max_tokens=100,
            replayed=False,
        ),
        palaver.SkillCall("c1", "clock", '{"zone":"UTC"}'),
        palaver.SkillResult("c1", content="noon"),
        palaver.SkillResult("c2", error="broken"),
        palaver.TextDelta("Hi "),
        palaver.TextDelta("there"),
        palaver.TurnCompleted(
            assistant=palaver.Assistant("support", replies.TIME, replies.TIME, 3, 42),
            messages=(
                palaver.Message(2, palaver.Role.USER, "Hello", replies.TIME),
                palaver.Message(3, palaver.Role.ASSISTANT, "Hi there", replies.TIME, request_id="r1"),
            ),
            finish_reason=palaver.FinishReason.STOP,
            usage=palaver.Usage(30, 12, 42, 8, 4, 1),
            chat_model="gpt-x-2026",
        ),
    ]
    assert reply.completed is events[-1]
    assert reply.completed.text == "Hi there"


@pytest.mark.parametrize("phase", list(palaver.ProgressPhase))
async def test_every_phase_of_progress(driver, server, phase):
    number = 77
    if phase is not palaver.ProgressPhase.UNKNOWN:
        number = assistant_service_pb2.ProgressPhase.Value(f"PROGRESS_PHASE_{phase.name}")
    server.script("PostUserQuery", [replies.started(), replies.progress(30.5, number), *replies.turn("Hi")[1:]])
    _, events = await driver.post("support", "Hello!")
    assert events[1] == palaver.Progress(phase, timedelta(seconds=30.5))


async def test_progress_that_is_out_of_range_breaks_the_contract(driver, server):
    elapsed = duration_pb2.Duration(seconds=10**15)
    malformed = assistant_service_pb2.PostUserQueryResponse(progress=assistant_service_pb2.Progress(elapsed=elapsed))
    server.script("PostUserQuery", [replies.started(), malformed, HANG])
    with pytest.raises(palaver.InternalError):
        await driver.post("support", "Hello!")


def test_the_text_of_a_reply_skips_progress(server):
    server.script("PostUserQuery", [replies.started(), replies.progress(15), *replies.turn("Hi ", "there")[1:]])
    with palaver.Client(server.target) as client:
        assert list(client.post_user_query("support", "Hello!").text) == ["Hi ", "there"]


@pytest.mark.parametrize("reason", list(palaver.FinishReason))
async def test_every_finish_reason(driver, server, reason):
    number = 0
    if reason is not palaver.FinishReason.UNKNOWN:
        number = assistant_service_pb2.FinishReason.Value(f"FINISH_REASON_{reason.name}")
    server.script("PostUserQuery", [replies.completed(finish_reason=number)])
    reply, _ = await driver.post("support", "Hello!")
    assert reply.completed.finish_reason is reason


def test_the_five_lines_of_the_readme_print_the_reply(server, capsys):
    server.script(
        "CreateAssistant", assistant_service_pb2.CreateAssistantResponse(assistant=replies.assistant(), created=True)
    )
    server.script("PostUserQuery", replies.turn("Hi ", "there"))
    with palaver.Client(server.target) as client:
        client.create_assistant("support-42", if_exists="keep")
        for text in client.post_user_query("support-42", "Hello!").text:
            print(text, end="", flush=True)
    assert capsys.readouterr().out == "Hi there"


async def test_the_async_reply_can_be_read_as_text(server):
    server.script("PostUserQuery", replies.turn("Hi ", "there"))
    async with palaver.AsyncClient(server.target) as client:
        reply = client.post_user_query("support", "Hello!")
        assert [text async for text in reply.text] == ["Hi ", "there"]
        assert reply.completed.text == "Hi there"


async def test_an_event_of_a_newer_server_is_skipped(driver, server):
    unknown = b"\x08\x02\xfa\x06\x03\x0a\x01x"  # sequence 2, and field 111 of the oneof
    server.script("PostUserQuery", [replies.started(), unknown, b"", *replies.turn("Hi")[1:]])
    _, events = await driver.post("support", "Hello!")
    assert [type(event).__name__ for event in events] == ["TurnStarted", "TextDelta", "TurnCompleted"]


async def test_a_stream_that_ends_without_completed_is_an_error(driver, server):
    server.script("PostUserQuery", replies.turn("Hi")[:-1])
    with pytest.raises(palaver.InternalError, match="without `completed`"):
        await driver.post("support", "Hello!")


async def test_an_unparsable_event_is_an_error(driver, server):
    server.script("PostUserQuery", [replies.started(), b"\xff\xff\xff", *replies.turn("Hi")[1:]])
    with pytest.raises(palaver.InternalError):
        await driver.post("support", "Hello!")


async def test_a_malformed_event_is_an_error_and_ends_the_call(driver, server):
    completed = replies.completed()
    completed.completed.assistant.create_time.seconds = 2**60
    server.script("PostUserQuery", [replies.started(), completed, HANG])
    with pytest.raises(palaver.InternalError, match="out of range"):
        await driver.post("support", "Hello!")
    assert await asyncio.to_thread(server.calls[0].abandoned.wait, 30)


async def test_a_stream_that_breaks_after_completed_is_a_success(driver, server):
    server.script("PostUserQuery", [*replies.turn("Hi"), Failure(grpc.StatusCode.UNAVAILABLE, "shutting down")])
    reply, events = await driver.post("support", "Hello!")
    assert reply.is_completed
    assert events[-1] is reply.completed


async def test_many_events_arrive_completely_and_in_order(driver, server):
    texts = [f"{number} " for number in range(3000)]
    server.script("PostUserQuery", replies.turn(*texts))
    _, events = await driver.post("support", "Hello!")
    assert [event.text for event in events if isinstance(event, palaver.TextDelta)] == texts


async def test_events_arrive_while_the_turn_is_running(server):
    go_on = threading.Event()
    server.script("PostUserQuery", [replies.started(), replies.delta("Hi "), go_on, *replies.turn("there")[1:]])
    async with palaver.AsyncClient(server.target) as client:
        texts = client.post_user_query("support", "Hello!").text
        assert await texts.__anext__() == "Hi "
        go_on.set()
        assert [text async for text in texts] == ["there"]


def test_completed_is_not_available_before_the_end(server):
    server.script("PostUserQuery", [replies.started(), HANG])
    with palaver.Client(server.target) as client, client.post_user_query("support", "Hello!") as reply:
        next(reply)
        assert not reply.is_completed
        with pytest.raises(RuntimeError, match="not completed"):
            _ = reply.completed


# Leaving early. In each of these tests, the server is in the middle of a reply that would never end.


@pytest.fixture
def endless(server):
    server.script("PostUserQuery", [replies.started(), replies.delta("Hi"), HANG])
    return server


def test_leaving_the_with_block_cancels(endless):
    with palaver.Client(endless.target) as client:
        with client.post_user_query("support", "Hello!") as reply:
            for _ in reply.text:
                break
        assert endless.calls[0].abandoned.wait(30)
        with pytest.raises(palaver.CanceledError):
            next(reply)


async def test_leaving_the_async_with_block_cancels(endless):
    async with palaver.AsyncClient(endless.target) as client:
        async with client.post_user_query("support", "Hello!") as reply:
            async for _ in reply.text:
                break
        assert await asyncio.to_thread(endless.calls[0].abandoned.wait, 30)
        with pytest.raises(palaver.CanceledError):
            await reply.__anext__()


async def test_aclosing_cancels(endless):
    async with palaver.AsyncClient(endless.target) as client:
        async with contextlib.aclosing(client.post_user_query("support", "Hello!")) as reply:
            await reply.__anext__()
        assert await asyncio.to_thread(endless.calls[0].abandoned.wait, 30)


def test_dropping_the_reply_cancels(endless):
    with palaver.Client(endless.target) as client:
        for _ in client.post_user_query("support", "Hello!").text:
            break
        gc.collect()
        assert endless.calls[0].abandoned.wait(30)


async def test_dropping_the_async_reply_cancels(endless):
    async with palaver.AsyncClient(endless.target) as client:
        async for _ in client.post_user_query("support", "Hello!").text:
            break
        gc.collect()
        assert await asyncio.to_thread(endless.calls[0].abandoned.wait, 30)


def test_another_thread_can_cancel(endless):
    with palaver.Client(endless.target) as client:
        reply = client.post_user_query("support", "Hello!")
        assert isinstance(next(reply), palaver.TurnStarted)
        assert next(reply) == palaver.TextDelta("Hi")
        thread = threading.Thread(target=reply.cancel)
        thread.start()
        with pytest.raises(palaver.CanceledError):
            next(reply)
        thread.join()
        assert endless.calls[0].abandoned.wait(30)


async def test_another_task_can_cancel(endless):
    async with palaver.AsyncClient(endless.target) as client:
        reply = client.post_user_query("support", "Hello!")
        await reply.__anext__()
        await reply.__anext__()
        reading = asyncio.ensure_future(reply.__anext__())
        await asyncio.sleep(0)  # let it start reading
        reply.cancel()
        with pytest.raises(palaver.CanceledError):
            await reading
        assert await asyncio.to_thread(endless.calls[0].abandoned.wait, 30)


@pytest.mark.parametrize("method", ["stream", "unary"])
async def test_canceling_the_task_raises_cancelled_error_and_ends_the_call(endless, method):
    endless.script("PostUserQueryUnary", HANG)

    async def stream():
        async for _ in client.post_user_query("support", "Hello!"):
            pass

    async def unary():
        await client.post_user_query_unary("support", "Hello!")

    async with palaver.AsyncClient(endless.target) as client:
        task = asyncio.ensure_future({"stream": stream, "unary": unary}[method]())
        (call,) = await asyncio.to_thread(endless.wait_for_calls, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(call.abandoned.wait, 30)


async def test_a_turn_canceled_by_the_server_does_not_cancel_the_task(driver, server):
    server.script("PostUserQuery", [replies.started(), Failure(grpc.StatusCode.CANCELLED, "the turn was canceled")])
    with pytest.raises(palaver.CanceledError, match="the turn was canceled"):
        await driver.post("support", "Hello!")


async def test_closing_the_client_ends_its_calls(endless):
    client = palaver.AsyncClient(endless.target)
    reply = client.post_user_query("support", "Hello!")
    await reply.__anext__()
    await client.close()
    await client.close()
    assert await asyncio.to_thread(endless.calls[0].abandoned.wait, 30)


def test_canceling_after_the_end_does_nothing(server):
    server.script("PostUserQuery", replies.turn("Hi"))
    with palaver.Client(server.target) as client:
        with client.post_user_query("support", "Hello!") as reply:
            events = list(reply)
        reply.cancel()
        assert list(reply) == []
        assert reply.completed is events[-1]
        assert not server.calls[0].abandoned.is_set()


async def test_canceling_after_the_end_of_an_async_reply_does_nothing(server):
    server.script("PostUserQuery", replies.turn("Hi"))
    async with palaver.AsyncClient(server.target) as client:
        async with client.post_user_query("support", "Hello!") as reply:
            events = [event async for event in reply]
        reply.cancel()
        assert [event async for event in reply] == []
        assert reply.completed is events[-1]
