"""Backups of SQLite: the command of the guide copies the database of a busy server, and the copy can be used."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
from pathlib import Path

from palaver_server.connections import DATABASE_NAME
from tests.deploy.programs import ROOT
from tests.support.calls import create_assistant, messages_of, query, read_rest
from tests.support.endpoint import Endpoint
from tests.support.palaver_server import palaver_server

GUIDE = ROOT / "docs" / "guides" / "deployment.md"


def command(database: Path, copy: Path) -> list[str]:
    """Returns the command of the guide, with other paths."""
    found = re.search(
        r"^python3 (.*) /var/lib/palaver/palaver.db /var/backups/palaver.db$", GUIDE.read_text(), re.MULTILINE
    )
    assert found
    return [sys.executable, *shlex.split(found.group(1)), str(database), str(copy)]


async def test_a_busy_database_is_copied_whole(tmp_path: Path, endpoint: Endpoint):
    folder, restored = tmp_path / "data", tmp_path / "restored"
    restored.mkdir(mode=0o700)
    # The copy has the lease of the turn that runs meanwhile, which blocks its assistant until it ends.
    async with palaver_server(folder, endpoint.url, lease_duration=1) as server:
        await create_assistant(server)
        await read_rest(server.stub.PostUserQuery(query("before the backup")))
        is_copied = asyncio.Event()

        async def post() -> None:
            while not is_copied.is_set():
                await read_rest(server.stub.PostUserQuery(query("during the backup")))

        posting = asyncio.create_task(post())
        process = await asyncio.create_subprocess_exec(
            *command(folder / DATABASE_NAME, restored / DATABASE_NAME), stderr=subprocess.PIPE
        )
        _, errors = await process.communicate()
        is_copied.set()
        await posting
    assert (process.returncode, errors) == (0, b"")
    async with palaver_server(restored, endpoint.url) as server:
        messages = await messages_of(server)
        assert "before the backup" in [message.content for message in messages]
        # No turn is in it by half.
        assert len(messages) % 2 == 0
        await read_rest(server.stub.PostUserQuery(query("after the backup")))
