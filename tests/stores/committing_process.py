"""Commits turns without end to the database on the command line, and prints the number of messages after each."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from palaver_server.domain.conversation import IfExists
from palaver_server.stores.sqlite import SqliteStore
from tests.support.conversations import exchange, finished, key


async def main(path: Path) -> None:
    store = SqliteStore(path)
    await store.create_assistant(key(), "", IfExists.KEEP)
    while True:
        window = await store.read_window(key(), 0)
        number = window.assistant.total_messages
        texts = (f"Question {number}", "x" * (number * 997 % 30_000))  # from less than a page to several of them
        stored = await store.commit_turn(key(), window.version, finished(*exchange(*texts), request_id=f"r{number}"))
        print(stored.assistant.total_messages, flush=True)


asyncio.run(main(Path(sys.argv[1])))
