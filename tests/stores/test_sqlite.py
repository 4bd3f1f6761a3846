"""The SQLite store: crashes, damaged files, full disks and other processes."""

# ruff: noqa: ASYNC220, ASYNC240 - nothing else runs in the event loop meanwhile

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from palaver_server.domain.conversation import IfExists, Listing, Role
from palaver_server.domain.errors import StoreCorrupt, StoreError, StoreUnavailable
from palaver_server.domain.limits import MAX_MESSAGE_UNITS
from palaver_server.domain.stages import Observer, Stage
from palaver_server.domain.turns import TurnKey
from palaver_server.stores.common import REPORTING_MARGIN, StoreTimeouts
from palaver_server.stores.sqlite import SqliteStore, schema
from palaver_server.stores.sqlite.file import CHECKED_BYTES
from tests.stores.small_disk import run_on_small_disk
from tests.support.conversations import (
    add_turn,
    contents,
    create,
    draft,
    exchange,
    finished,
    history,
    key,
    lease,
    version_of,
)
from tests.support.damages import DAMAGES, garbage_header, garbage_in_the_middle
from tests.support.locks import another_process_holds_the_lock

COMMITTING_PROCESS = [sys.executable, "-m", "tests.stores.committing_process"]
REPOSITORY = Path(__file__).parents[2]

MESSAGES_PER_CONVERSATION = 15
"""Of the largest size, so that three conversations are more than a database that is checked whole."""


@asynccontextmanager
async def opened(path: Path, timeouts: StoreTimeouts | None = None) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, timeouts)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "palaver.db"


@pytest.fixture
async def sound(path: Path) -> Path:
    """A closed database with a conversation of many pages."""
    async with opened(path) as store:
        await create(store)
        for number in range(20):
            await add_turn(store, *exchange(f"Question {number}", "x" * 5000))
    return path


class TestCrash:
    @pytest.mark.parametrize("acknowledged", [1, 10, 60])
    async def test_every_acknowledged_turn_survives_a_kill(self, path: Path, acknowledged: int):
        command = [*COMMITTING_PROCESS, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
            for _ in range(acknowledged):
                printed = process.stdout.readline()
            process.kill()
            printed = ([printed, *process.stdout.read().splitlines()])[-1]
        assert path.with_name("palaver.db-wal").stat().st_size > 0  # no checkpoint has run
        async with opened(path) as store:
            messages = await history(store)
            assistant = await store.get_assistant(key())
            # The turn after the last acknowledged one may be stored as well, but only whole.
            assert len(messages) in (int(printed), int(printed) + 2)
            assert [message.index for message in messages] == list(range(1, len(messages) + 1))
            assert assistant.total_messages == len(messages)
            for number, (question, answer) in enumerate(zip(messages[::2], messages[1::2], strict=True)):
                assert question.content.text == f"Question {2 * number}"
                assert len(answer.content.text) == 2 * number * 997 % 30_000
                assert question.request_id == answer.request_id == f"r{2 * number}"
            await add_turn(store)

    async def test_killing_one_process_does_not_affect_the_others(self, path: Path):
        async with opened(path) as store:
            command = [*COMMITTING_PROCESS, str(path)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
                for _ in range(5):
                    process.stdout.readline()
                process.kill()
            stored = await add_turn(store, *exchange("Still here"))
            assert stored.messages[0].index >= 11
            assert (await contents(store))[-2:] == ["Still here", "Fine."]


def rows_by_table(path: Path) -> dict[str, int]:
    """Returns the number of rows in each table."""
    with closing(sqlite3.connect(path)) as connection:
        names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        tables = [name for (name,) in connection.execute(names)]
        return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


async def assert_refused(path: Path, text: str) -> None:
    """Checks that the store refuses the file when it opens and at each call, and does not change it."""
    before = path.read_bytes()
    store = SqliteStore(path)
    try:
        with pytest.raises(StoreCorrupt, match=text):
            await store.open()
        with pytest.raises(StoreCorrupt, match=text):
            await store.get_assistant(key())
        with pytest.raises(StoreCorrupt, match=text):
            await store.create_assistant(key(), "", IfExists.RESET)
    finally:
        await store.close()
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


class TestDamage:
    @pytest.mark.parametrize("damage", DAMAGES)
    async def test_a_damaged_file_is_refused_and_never_replaced(self, sound: Path, damage: Callable[[bytes], bytes]):
        sound.write_bytes(damage(sound.read_bytes()))
        await assert_refused(sound, "the database is damaged")

    @pytest.mark.parametrize("journal_mode", ["delete", "wal"])
    async def test_the_database_of_another_program_is_refused(self, path: Path, journal_mode: str):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA journal_mode = {journal_mode}")
            connection.execute("CREATE TABLE assistants (name TEXT)")
        await assert_refused(path, "not one of Palaver's")

    async def test_a_database_of_the_first_version_is_migrated(self, sound: Path):
        with sqlite3.connect(sound) as connection:
            for column in ("lease_holder", "lease_until"):
                connection.execute(f"ALTER TABLE assistants DROP COLUMN {column}")
            connection.execute("ALTER TABLE messages DROP COLUMN is_error")
            connection.execute("PRAGMA user_version = 1")
        connection.close()
        for _ in range(2):
            store = SqliteStore(sound)
            await store.open()
            before = await contents(store)
            window = await store.read_window(key(), 10, lease("ours", 60))
            await store.commit_turn(key(), window.version, finished(*exchange("New", "Indeed")))
            assert await contents(store) == [*before, "New", "Indeed"]
            await store.close()

    @pytest.mark.parametrize("version", [0, schema.SCHEMA_VERSION + 1])
    async def test_a_schema_of_another_version_is_refused(self, sound: Path, version: int):
        with closing(sqlite3.connect(sound)) as connection:
            connection.execute(f"PRAGMA user_version = {version}")
        await assert_refused(sound, f"schema version {version}; this server knows version {schema.SCHEMA_VERSION}")

    async def test_a_store_recovers_when_its_file_is_restored(self, sound: Path):
        whole = sound.read_bytes()
        sound.write_bytes(garbage_header(whole))
        store = SqliteStore(sound)
        try:
            with pytest.raises(StoreCorrupt):
                await store.open()
            sound.write_bytes(whole)
            assert len(await history(store)) == 41
            await add_turn(store)
        finally:
            await store.close()

    async def test_an_empty_file_becomes_a_database(self, path: Path):
        path.touch()
        async with opened(path) as store:
            await create(store)
            assert await contents(store) == ["Be brief."]

    @pytest.mark.parametrize(
        ("damage", "text"),
        [
            ("role = 'nobody'", "a stored message can't be read"),
            ("skill_calls = '{'", "a stored message can't be read"),
            ("skill_calls = '[[1]]'", "a stored message can't be read"),
            ("skill_calls = '[[1, 2, 3]]'", "a stored message can't be read"),
            ("skill_calls = printf('%.*c', 100000, '[')", "a stored message can't be read"),
            ("created_at = 9223372036854775807", "a stored message can't be read"),
            ("content = CAST(x'7bff' AS TEXT)", "the database is damaged"),  # not UTF-8
        ],
    )
    async def test_a_damaged_message_is_reported_and_stops_no_turn_that_does_not_read_it(
        self, sound: Path, damage: str, text: str
    ):
        with closing(sqlite3.connect(sound)) as connection, connection:
            connection.execute(f'UPDATE messages SET {damage} WHERE "index" = 10')
        async with opened(sound) as store:
            with pytest.raises(StoreCorrupt, match=text):
                await store.list_messages(key(), Listing())
            with pytest.raises(StoreCorrupt):
                await store.read_window(key(), 32)
            assert len((await store.read_window(key(), 31)).messages) == 31
            await add_turn(store)

    @pytest.mark.parametrize(
        ("damage", "text"),
        [
            ("created_at = 9223372036854775807", "the state of the assistant can't be read"),
            ("updated_at = -9223372036854775808", "the state of the assistant can't be read"),
            ("total_messages = -1", "the state of the assistant can't be read"),
            ("total_messages = 65536", "the state of the assistant can't be read"),
            ("total_tokens = 2147483648", "the state of the assistant can't be read"),
            ("lease_until = 9223372036854775807", "the lease of the assistant can't be read"),
        ],
    )
    async def test_a_damaged_state_is_reported_and_a_reset_replaces_it(self, sound: Path, damage: str, text: str):
        with closing(sqlite3.connect(sound)) as connection, connection:
            connection.execute(f"UPDATE assistants SET {damage}")
        async with opened(sound) as store:
            with pytest.raises(StoreCorrupt, match=text):
                await store.read_window(key(), 10, lease("ours"))
            await store.create_assistant(key(), "Anew.", IfExists.RESET)
            assert await contents(store) == ["Anew."]

    async def test_a_message_beyond_the_state_is_reported_and_never_replaced(self, sound: Path):
        with closing(sqlite3.connect(sound)) as connection, connection:
            connection.execute("UPDATE assistants SET total_messages = total_messages - 1")
        async with opened(sound) as store:
            before = await contents(store)
            with pytest.raises(StoreCorrupt, match="more messages than its state says"):
                await add_turn(store)
            assert await contents(store) == before


class TestSize:
    async def test_opening_a_large_database_reads_no_more_of_it_than_its_schema(self, path: Path):
        async with opened(path) as store:
            for name in ("first", "damaged", "last"):
                await create(store, name, instructions="")
                for _ in range(MESSAGES_PER_CONVERSATION):
                    await add_turn(store, draft(Role.ASSISTANT, "x" * MAX_MESSAGE_UNITS), name=name)
        assert path.stat().st_size > CHECKED_BYTES
        path.write_bytes(garbage_in_the_middle(path.read_bytes()))
        async with opened(path) as store:
            for name in ("first", "last"):
                await add_turn(store, name=name)
                assert len(await contents(store, name)) == MESSAGES_PER_CONVERSATION + 2
            with pytest.raises(StoreCorrupt, match="the database is damaged"):
                await contents(store, "damaged")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestPermissions:
    @pytest.fixture(autouse=True)
    def umask(self) -> Iterator[None]:
        """The most open one."""
        before = os.umask(0)
        yield
        os.umask(before)

    async def test_a_new_database_is_open_to_its_user_alone(self, tmp_path: Path, caplog: pytest.LogCaptureFixture):
        path = tmp_path / "data" / "palaver.db"
        async with opened(path) as store:
            await create(store)
            modes = {file.name: mode_of(file) for file in path.parent.iterdir()}
        assert modes == dict.fromkeys(("palaver.db", "palaver.db-wal", "palaver.db-shm"), 0o600)
        assert mode_of(path.parent) == 0o700
        assert caplog.messages == []

    @pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
    async def test_a_database_that_others_may_open_is_closed_to_them(
        self, sound: Path, mode: int, caplog: pytest.LogCaptureFixture
    ):
        async with opened(sound) as other_server:
            await add_turn(other_server)
            files = list(sound.parent.iterdir())
            assert len(files) == 3
            for file in files:
                file.chmod(mode)
            async with opened(sound) as store:
                await add_turn(store)
                assert [mode_of(file) for file in files] == [0o600] * 3
        assert caplog.messages == [f"{sound} was open to other users; it no longer is"]

    @pytest.mark.parametrize(("mode", "is_safe"), [(0o755, True), (0o2775, True), (0o1777, True), (0o777, False)])
    async def test_a_folder_that_exists_keeps_its_mode(
        self, tmp_path: Path, mode: int, is_safe: bool, caplog: pytest.LogCaptureFixture
    ):
        folder = tmp_path / "data"
        folder.mkdir()
        folder.chmod(mode)
        async with opened(folder / "palaver.db"):
            assert mode_of(folder) == mode
        warning = f"every user of this machine can replace the files in {folder}"
        assert caplog.messages == ([] if is_safe else [warning])


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def replace_by_an_empty_file(folder: Path) -> None:
    empty(folder)
    (folder / "palaver.db").touch()


def replace_by_a_new_database(folder: Path) -> None:
    empty(folder)
    with closing(sqlite3.connect(folder / "palaver.db")) as connection:
        connection.execute("CREATE TABLE t (x)")


class TestRemoval:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "data" / "palaver.db"

    @pytest.mark.parametrize("damage", [remove, empty, replace_by_an_empty_file, replace_by_a_new_database])
    async def test_nothing_succeeds_without_the_file_and_no_other_one_is_created(
        self, sound: Path, damage: Callable[[Path], None]
    ):
        async with opened(sound) as store:
            version = await version_of(store)
            damage(sound.parent)
            left = sorted(sound.parent.parent.rglob("*"))
            for _ in range(2):
                with pytest.raises(StoreError):
                    await store.commit_turn(key(), version, finished())
                with pytest.raises(StoreError):
                    await store.read_window(key(), 10, lease("ours"))
                with pytest.raises(StoreError):
                    await store.get_assistant(key())
                with pytest.raises(StoreError):
                    await create(store, "b")
            assert sorted(sound.parent.parent.rglob("*")) == left

    async def test_a_commit_that_went_into_a_removed_file_is_an_error(self, sound: Path):
        class RemovingObserver(Observer):
            def reached(self, stage: Stage, turn: TurnKey, detail: object = None) -> None:
                if stage is Stage.WRITTEN:
                    remove(sound.parent)

        store = SqliteStore(sound, observer=RemovingObserver())
        version = await version_of(store)
        with pytest.raises(StoreUnavailable, match="the database file was removed or replaced"):
            await store.commit_turn(key(), version, finished())
        await store.close()

    async def test_the_store_goes_on_when_the_folder_is_back(self, sound: Path):
        away = sound.parent.with_name("away")
        async with opened(sound) as store:
            sound.parent.rename(away)
            with pytest.raises(StoreUnavailable):
                await add_turn(store)
            away.rename(sound.parent)
            await add_turn(store)
            assert len(await history(store)) == 43

    async def test_the_store_goes_on_with_a_backup(self, sound: Path):
        backup = sound.read_bytes()
        async with opened(sound) as store:
            await add_turn(store)
            empty(sound.parent)
            sound.write_bytes(backup)
            assert len(await history(store)) == 41
            await add_turn(store)
            assert len(await history(store)) == 43


class TestDisk:
    def test_a_turn_that_does_not_fit_on_the_disk_is_stored_once_there_is_room(self, tmp_path: Path):
        run_on_small_disk("full", tmp_path / "disk")

    def test_a_store_on_a_full_disk_opens_once_there_is_room(self, tmp_path: Path):
        run_on_small_disk("full_from_the_start", tmp_path / "disk")

    def test_a_store_on_a_read_only_disk_is_unavailable_until_it_is_writable(self, tmp_path: Path):
        run_on_small_disk("read_only", tmp_path / "disk")

    @pytest.mark.parametrize("name", ["file/palaver.db", "file/folder/palaver.db", "folder"])
    async def test_a_path_that_can_not_be_a_file_is_unavailable(self, tmp_path: Path, name: str):
        (tmp_path / "file").write_text("not a folder")
        (tmp_path / "folder").mkdir()
        store = SqliteStore(tmp_path / name)
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.open()
        await store.close()
        assert (tmp_path / "file").read_text() == "not a folder"

    async def test_missing_folders_are_created(self, tmp_path: Path):
        async with opened(tmp_path / "some" / "where" / "palaver.db") as store:
            await create(store)
        assert (tmp_path / "some" / "where" / "palaver.db").is_file()


class TestOtherProcesses:
    async def test_a_lock_that_is_not_released_makes_writes_unavailable(self, sound: Path):
        async with opened(sound, StoreTimeouts(call=REPORTING_MARGIN + 0.05)) as store:
            version = await version_of(store)
            with another_process_holds_the_lock(sound) as release:
                for _ in range(2):
                    with pytest.raises(StoreUnavailable):
                        await store.commit_turn(key(), version, finished())
                # Reads do not wait for the writer.
                assert len(await history(store)) == 41
                release()
                await store.commit_turn(key(), version, finished())

    async def test_reads_do_not_queue_behind_a_write_that_waits(self, sound: Path):
        async with opened(sound) as store:
            version = await version_of(store)
            with another_process_holds_the_lock(sound) as release:
                writing = asyncio.create_task(store.commit_turn(key(), version, finished(request_id="r")))
                assert (await store.get_assistant(key())).total_messages == 41
                assert len(await history(store)) == 41
                assert len((await store.read_window(key(), 10)).messages) == 10
                assert await store.find_turn(TurnKey(key(), "r")) is None
                assert not await store.has_lease(TurnKey(key(), "r"))
                assert not writing.done()
                await asyncio.to_thread(release)
                await writing

    async def test_writes_that_queue_do_not_wait_one_after_the_other(self, sound: Path):
        timeouts = StoreTimeouts(call=REPORTING_MARGIN + 0.3)
        async with opened(sound, timeouts) as store, opened(sound, timeouts) as other:
            with another_process_holds_the_lock(sound) as release:
                writing = [
                    asyncio.create_task(store.create_assistant(key(f"{number}"), "", IfExists.FAIL))
                    for number in range(10)
                ]
                await asyncio.wait(writing, return_when=asyncio.FIRST_COMPLETED)
                # A write that begins after all of them and waits as long: when it fails, the time of each is over.
                with pytest.raises(StoreUnavailable):
                    await other.create_assistant(key("later"), "", IfExists.FAIL)
                await asyncio.to_thread(release)  # in time for those whose wait would only begin with their turn
                results = await asyncio.gather(*writing, return_exceptions=True)
        assert [type(result) for result in results] == [StoreUnavailable] * 10

    async def test_a_lock_that_is_released_in_time_is_waited_for(self, sound: Path):
        async with opened(sound) as store:
            with another_process_holds_the_lock(sound) as release:
                writing = asyncio.create_task(store.create_assistant(key("b"), "Late", IfExists.FAIL))
                done, _ = await asyncio.wait([writing], timeout=0.05)
                assert not done
                await asyncio.to_thread(release)
                await writing
                assert await contents(store, "b") == ["Late"]

    @pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN; SELECT count(*) FROM sqlite_schema"])
    @pytest.mark.parametrize("journal_mode", ["delete", "wal"])
    @pytest.mark.parametrize("exists", [False, True])
    async def test_opening_waits_for_another_process_that_opens_the_file(
        self, path: Path, begin: str, journal_mode: str, exists: bool
    ):
        if exists:
            async with opened(path) as store:
                await create(store)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA journal_mode = {journal_mode}")
        store = SqliteStore(path)
        try:
            with another_process_holds_the_lock(path, begin) as release:
                opening = asyncio.create_task(store.open())
                await asyncio.wait([opening], timeout=0.05)
                await asyncio.to_thread(release)
                await opening
            await (add_turn(store) if exists else create(store))
            assert (await store.get_assistant(key())).total_messages == (3 if exists else 1)
        finally:
            await store.close()

    async def test_stores_that_open_a_new_database_at_once_can_all_use_it(self, tmp_path: Path):
        for number in range(20):
            stores = [SqliteStore(tmp_path / f"{number}.db") for _ in range(4)]
            try:
                await asyncio.gather(*(store.open() for store in stores))
                await create(stores[0])
                assert {(await store.get_assistant(key())).total_messages for store in stores} == {1}
            finally:
                for store in stores:
                    await store.close()

    async def test_a_long_read_does_not_block_writers(self, sound: Path):
        with closing(sqlite3.connect(sound, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM messages").fetchone()
            async with opened(sound) as store:
                await add_turn(store)
                assert len(await history(store)) == 43
            assert reader.execute("SELECT count(*) FROM messages").fetchone() == (41,)

    @pytest.mark.parametrize("if_exists", [IfExists.RESET, None], ids=["reset", "delete"])
    async def test_a_deleted_conversation_leaves_no_rows(self, sound: Path, if_exists: IfExists | None):
        async with opened(sound) as store:
            await add_turn(store, draft(Role.ASSISTANT, "", endpoint_state='["signature"]'))
            assert all(rows_by_table(sound).values())
            if if_exists is None:
                await store.delete_assistant(key())
            else:
                await store.create_assistant(key(), "", if_exists)
        left = {table for table, rows in rows_by_table(sound).items() if rows}
        assert left == ({"assistants"} if if_exists is IfExists.RESET else set())

    async def test_a_turn_with_a_message_that_can_not_be_stored_leaves_no_rows(self, sound: Path):
        async with opened(sound) as store:
            before = await history(store)
            version = await version_of(store)
            with pytest.raises(UnicodeEncodeError):  # the engine lets no lone surrogate through
                await store.commit_turn(key(), version, finished(*exchange(), draft(Role.USER, "\ud800")))
            assert await history(store) == before
            await store.commit_turn(key(), version, finished())
