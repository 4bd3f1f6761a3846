"""The Python clients over a connection that breaks, and over servers that come and go."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import palaver
from tests.support.cutting_proxy import CuttingProxy
from tests.support.endpoint import Call, Endpoint, Stream
from tests.support.palaver_server import Served, palaver_server
from tests.support.server_process import server_process

WORDS = [f"{number} " for number in range(2000)]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_long_reply_arrives_whole_over_a_connection_that_keeps_breaking(
    served: Served, endpoint: Endpoint, kind: str
):
    has_arrived = asyncio.Condition()
    text = ""

    async def got(piece: str) -> None:
        nonlocal text
        async with has_arrived:
            text += piece
            has_arrived.notify_all()

    async with CuttingProxy(served.target) as proxy:

        async def cut(call: Call) -> None:
            # Some of the text has arrived, and some is lost in transit.
            async with has_arrived:
                await has_arrived.wait_for(lambda: len(text) >= 1000 * proxy.cuts)
            proxy.cut()

        items = [item for start in range(0, 2000, 300) for item in (*WORDS[start : start + 300], cut)]
        endpoint.script(Stream(*items))
        if kind == "async":
            async with palaver.AsyncClient(proxy.address) as client:
                reply = client.post_user_query("a", "Count.", on_disconnect="continue")
                async for piece in reply.text:
                    await got(piece)
        else:
            loop = asyncio.get_running_loop()

            def read() -> None:
                with palaver.Client(proxy.address) as client:
                    for piece in client.post_user_query("a", "Count.", on_disconnect="continue").text:
                        asyncio.run_coroutine_threadsafe(got(piece), loop).result()

            await asyncio.to_thread(read)
        assert proxy.cuts == 7
    assert text == "".join(WORDS)
    assert len(endpoint.calls) == 1


async def test_a_turn_that_was_cancelled_by_the_cut_runs_again(served: Served, endpoint: Endpoint):
    async with CuttingProxy(served.target) as proxy, palaver.AsyncClient(proxy.address) as client:
        endpoint.script(Stream("Hel", asyncio.Event()), Stream("Good", "bye"))
        shown = ""
        async with client.post_user_query("a", "Hello") as reply:
            async for event in reply:
                if isinstance(event, palaver.TurnStarted):
                    shown = ""
                if isinstance(event, palaver.TextDelta):
                    shown += event.text
                    if shown == "Hel":
                        proxy.cut()
        assert shown == reply.completed.text == "Goodbye"
        assert [message.content async for message in client.list_messages("a")] == ["Be brief.", "Hello", "Goodbye"]
        await endpoint.calls[0].closed.wait()


async def test_a_reply_survives_the_death_of_its_server(tmp_path: Path, endpoint: Endpoint):
    endpoint.script(Stream("Hello, ", asyncio.Event()), Stream("Hello, ", "world"))
    async with (
        server_process(tmp_path, endpoint.url, PALAVER_LEASE_DURATION="1") as dying,
        server_process(tmp_path, endpoint.url) as other,
        CuttingProxy(dying.address) as proxy,
        palaver.AsyncClient(proxy.address) as client,
    ):
        await client.create_assistant("a", instructions="")
        pieces = []
        async for piece in client.post_user_query("a", "Hello").text:
            pieces.append(piece)
            if len(pieces) == 1:
                proxy.upstream = other.address
                dying.process.kill()
        assert pieces == ["Hello, ", "world"]
        assert [message.content async for message in client.list_messages("a")] == ["Hello", "Hello, world"]


async def test_callers_of_a_stopped_server_reconnect_to_another_one(tmp_path: Path, endpoint: Endpoint):
    async with (
        palaver_server(tmp_path, endpoint.url) as one,
        palaver_server(tmp_path, endpoint.url) as other,
        CuttingProxy(one.target) as proxy,
        palaver.AsyncClient(proxy.address) as client,
    ):
        await client.create_assistant("a", instructions="")
        await one.application.stop(0)
        proxy.upstream = other.target
        assert (await client.post_user_query_unary("a", "Hello")).text == "Hello, world"


async def test_without_a_server_the_call_is_unavailable(tmp_path: Path):
    async with palaver_server(tmp_path) as served:
        address = served.target
    async with palaver.AsyncClient(address, reconnect_timeout=0.5) as client:
        with pytest.raises(palaver.UnavailableError):
            await client.post_user_query_unary("a", "Hello")
