"""Short ways to fill a store and to read it back."""

from __future__ import annotations

import uuid

from palaver_server.models import Draft, FinishReason, IfExists, Message, Role, Usage
from palaver_server.stores.store import FinishedTurn, Listing, Store, StoredTurn

COLLECTION = "ChatState"


def exchange(question: str = "How are you?", answer: str = "Fine.") -> tuple[Draft, Draft]:
    return Draft(Role.USER, question), Draft(Role.ASSISTANT, answer)


def finished(*messages: Draft, request_id: str = "", total_tokens: int = 7) -> FinishedTurn:
    return FinishedTurn(
        request_id=request_id or uuid.uuid4().hex,
        request_hash="a hash",
        messages=messages or exchange(),
        finish_reason=FinishReason.STOP,
        usage=Usage(prompt_tokens=3, completion_tokens=4, total_tokens=7, model_calls=1),
        total_tokens=total_tokens,
        chat_model="gpt-x",
    )


async def create(store: Store, name: str = "a", instructions: str = "Be brief.", collection: str = COLLECTION) -> None:
    await store.create_assistant(collection, name, instructions, IfExists.FAIL)


async def version_of(store: Store, name: str = "a", collection: str = COLLECTION) -> str:
    return (await store.read_window(collection, name, 0)).version


async def say(store: Store, *messages: Draft, name: str = "a", collection: str = COLLECTION) -> StoredTurn:
    """Commits a turn to the conversation as it is now."""
    version = await version_of(store, name, collection)
    return await store.commit_turn(collection, name, version, finished(*messages))


async def history(store: Store, name: str = "a", collection: str = COLLECTION) -> list[Message]:
    """Reads all messages, page by page."""
    messages: list[Message] = []
    while True:
        after_index = messages[-1].index if messages else None
        page = await store.list_messages(collection, name, Listing(after_index=after_index, limit=1000))
        messages += page.messages
        if not page.has_more:
            return messages


async def contents(store: Store, name: str = "a", collection: str = COLLECTION) -> list[str]:
    return [message.content for message in await history(store, name, collection)]
