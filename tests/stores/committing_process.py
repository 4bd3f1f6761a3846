"""Commits turns without end to the database that is named on the command line, and says so after each of them."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from palaver_server.models import Draft, FinishReason, IfExists, Role, Usage
from palaver_server.stores.sqlite import SqliteStore
from palaver_server.stores.store import FinishedTurn


async def main(path: Path) -> None:
    store = SqliteStore(path)
    await store.create_assistant("ChatState", "a", "", IfExists.KEEP)
    while True:
        window = await store.read_window("ChatState", "a", 0)
        number = window.assistant.total_messages
        texts = (f"Question {number}", "x" * (number * 997 % 30_000))  # from less than a page to several of them
        messages = (Draft(Role.USER, texts[0]), Draft(Role.ASSISTANT, texts[1]))
        turn = FinishedTurn(f"r{number}", "hash", messages, FinishReason.STOP, Usage(), number, "gpt-x")
        stored = await store.commit_turn("ChatState", "a", window.version, turn)
        print(stored.assistant.total_messages, flush=True)


asyncio.run(main(Path(sys.argv[1])))
