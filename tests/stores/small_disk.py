"""Tests on a disk that is full or read-only.

`python -m tests.stores.small_disk SCENARIO FOLDER` runs a scenario on a small file system, mounted at the folder.
`run_on_small_disk` runs it in a mount namespace of its own, without root if user namespaces are allowed.
"""

# ruff: noqa: ASYNC221 - nothing else runs in the event loop meanwhile

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from palaver_server.domain.conversation import IfExists
from palaver_server.domain.errors import StoreFull, StoreUnavailable
from palaver_server.stores.sqlite import SqliteStore
from tests.support.calls import create_assistant, messages_of, query
from tests.support.conversations import add_turn, contents, create, exchange, finished, key, version_of
from tests.support.endpoint import Call, Endpoint, Stream
from tests.support.palaver_server import palaver_server
from tests.support.statuses import failure_of

ROOT = Path(__file__).parents[2]


def run_on_small_disk(scenario: str, folder: Path) -> None:
    """Runs a scenario in a process of its own, or skips the test if no small disk can be mounted."""
    folder.mkdir()
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = 'mount -t tmpfs -o size=2m tmpfs "$0" && echo mounted && exec "$@"'
    command = ["unshare", *user, "--mount", "--propagation", "private", "sh", "-c", script, str(folder),
               sys.executable, "-m", "tests.stores.small_disk", scenario, str(folder)]  # fmt: skip
    try:
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    except FileNotFoundError:
        pytest.skip("NOT TESTED: there is no unshare(1) to make a small disk with")
    if "mounted" not in result.stdout:
        pytest.skip(f"NOT TESTED: no small disk can be mounted here: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr


async def full(folder: Path) -> None:
    store = SqliteStore(folder / "palaver.db")
    await create(store)
    stored = await add_turn(store, *exchange("Before"))
    _fill(folder / "filler")
    version = await version_of(store)
    turn = finished(*exchange("During", "x" * 200_000))
    for _ in range(3):
        with pytest.raises(StoreFull, match="the disk of the database is full"):
            await store.commit_turn(key(), version, turn)
        assert await store.get_assistant(key()) == stored.assistant
        assert await contents(store) == ["Be brief.", "Before", "Fine."]
    with pytest.raises(StoreFull):
        await store.create_assistant(key(), "x" * 200_000, IfExists.RESET)
    (folder / "filler").unlink()
    await store.commit_turn(key(), version, turn)
    assert await contents(store) == ["Be brief.", "Before", "Fine.", "During", "x" * 200_000]
    await store.close()
    store = SqliteStore(folder / "palaver.db")
    assert (await store.get_assistant(key())).total_messages == 5
    await store.close()


async def full_from_the_start(folder: Path) -> None:
    store = SqliteStore(folder / "palaver.db")
    _fill(folder / "filler")
    for _ in range(2):
        with pytest.raises(StoreFull):
            await store.open()
    (folder / "filler").unlink()
    await create(store)
    await add_turn(store)
    await store.close()


async def full_during_a_turn(folder: Path) -> None:
    async def fill(_call: Call) -> None:
        _fill(folder / "filler")

    async with Endpoint() as endpoint, palaver_server(folder, endpoint.url) as served:
        await create_assistant(served)
        endpoint.script(Stream("x" * 200_000, fill))
        for _ in range(2):  # the second time, it is full from the start of the turn
            failure = await failure_of(served.stub.PostUserQueryUnary(query()))
            assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")
            assert failure.retry_delay is None
            assert await messages_of(served) == []
        (folder / "filler").unlink()
        completed = (await served.stub.PostUserQueryUnary(query(), timeout=5)).completed
        assert [message.content for message in completed.messages] == ["Hello", "Hello, world"]


async def read_only(folder: Path) -> None:
    store = SqliteStore(folder / "palaver.db")
    await create(store)
    await store.close()
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    store = SqliteStore(folder / "palaver.db")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await store.create_assistant(key("b"), "", IfExists.FAIL)
    subprocess.run(["mount", "-o", "remount,bind,rw", str(folder)], check=True)
    await store.create_assistant(key("b"), "", IfExists.FAIL)
    assert await contents(store) == ["Be brief."]
    await store.close()


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


if __name__ == "__main__":
    _, chosen, place = sys.argv
    asyncio.run(
        {scenario.__name__: scenario for scenario in (full, full_from_the_start, full_during_a_turn, read_only)}[
            chosen
        ](Path(place))
    )
