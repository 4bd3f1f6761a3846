"""Short ways to write to a store and to read from it."""

from __future__ import annotations

import uuid
from typing import Any

from palaver_server.domain.conversation import AssistantKey, Content, Draft, IfExists, Listing, Message, Role
from palaver_server.domain.generation import GenerationParameters
from palaver_server.domain.ports import Store
from palaver_server.domain.turns import FinishedTurn, FinishReason, Lease, LeaseHolder, StoredTurn, Usage, Version

COLLECTION = "ChatState"
PARAMETERS = GenerationParameters(ai_connection="OPENAI", chat_model="gpt", temperature=0.5, max_tokens=100)


def key(name: str = "a", collection: str = COLLECTION) -> AssistantKey:
    return AssistantKey("AzureWebJobsStorage", collection, name)


def draft(role: Role, text: str, *rest: Any, **named: Any) -> Draft:
    return Draft(role, Content(text), *rest, **named)


def lease(request_id: str, seconds: float = 60, server: str = "") -> Lease:
    """Returns a lease of a turn on a server, by default on a server of its own."""
    return Lease(LeaseHolder.of(request_id, server or request_id), seconds)


def exchange(question: str = "How are you?", answer: str = "Fine.") -> tuple[Draft, Draft]:
    return draft(Role.USER, question), draft(Role.ASSISTANT, answer)


def finished(*messages: Draft, request_id: str = "", total_tokens: int = 7) -> FinishedTurn:
    return FinishedTurn(
        request_id=request_id or uuid.uuid4().hex,
        request_hash="a hash",
        messages=messages or exchange(),
        finish_reason=FinishReason.STOP,
        usage=Usage(prompt_tokens=3, completion_tokens=4, total_tokens=7, model_calls=1),
        total_tokens=total_tokens,
        chat_model="gpt-x",
        parameters=PARAMETERS,
    )


async def create(store: Store, name: str = "a", instructions: str = "Be brief.", collection: str = COLLECTION) -> None:
    await store.create_assistant(key(name, collection), instructions, IfExists.FAIL)


async def version_of(store: Store, name: str = "a", collection: str = COLLECTION) -> Version:
    return (await store.read_window(key(name, collection), 0)).version


async def add_turn(store: Store, *messages: Draft, name: str = "a", collection: str = COLLECTION) -> StoredTurn:
    """Commits a turn to the present conversation."""
    version = await version_of(store, name, collection)
    return await store.commit_turn(key(name, collection), version, finished(*messages))


async def history(store: Store, name: str = "a", collection: str = COLLECTION) -> list[Message]:
    """Returns all messages, read page by page."""
    messages: list[Message] = []
    while True:
        after_index = messages[-1].index if messages else None
        page = await store.list_messages(key(name, collection), Listing(after_index=after_index, limit=1000))
        messages += page.messages
        if not page.has_more:
            return messages


async def contents(store: Store, name: str = "a", collection: str = COLLECTION) -> list[str]:
    return [message.content.text for message in await history(store, name, collection)]
