"""Access control: what callers may do, decided by their rights alone.

Each decision is made before the engine is called. A refusal therefore reads no store, and says nothing about what the
stores hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import NamedTuple

from palaver_server.domain.conversation import Assistant, AssistantKey, CollectionKey, IfExists, Listing, Page
from palaver_server.domain.errors import FieldViolation, PermissionDenied
from palaver_server.domain.limits import MAX_DENIED_FIELDS, MAX_RULE_CHARACTERS
from palaver_server.domain.rights import ANYTHING, EVERYTHING, Access, Allowed
from palaver_server.domain.turns import Caller, TurnKey, UserQuery
from palaver_server.engine.interface import Engine
from palaver_server.engine.turn import Subscriber


class _Name(NamedTuple):
    """A name in a request, and the caller's rule for it."""

    field: str
    """The path of the field."""
    value: str
    allowed: Allowed
    rule: str
    """The key of the rule in the callers' file."""


class AccessControl:
    """An `Engine` that passes on the calls to which their callers have a right, and refuses all others.

    A caller that joins a running turn or cancels one needs the same rights as the caller that started it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def create_assistant(
        self, caller: Caller, key: AssistantKey, instructions: str, if_exists: IfExists
    ) -> tuple[Assistant, bool]:
        """Creates an assistant. To reset an existing one takes the access that deleting it takes."""
        if if_exists is IfExists.RESET:
            check(caller, Access.ADMIN, _assistant(caller, key), field="if_exists")
        else:
            check(caller, Access.WRITE, _assistant(caller, key))
        return await self._engine.create_assistant(caller, key, instructions, if_exists)

    async def get_assistant(self, caller: Caller, key: AssistantKey) -> Assistant:
        """Returns the state of an assistant."""
        check(caller, Access.READ, _assistant(caller, key))
        return await self._engine.get_assistant(caller, key)

    async def list_messages(self, caller: Caller, key: AssistantKey, listing: Listing) -> Page:
        """Returns a page of messages."""
        check(caller, Access.READ, _assistant(caller, key))
        return await self._engine.list_messages(caller, key, listing)

    async def delete_assistant(self, caller: Caller, key: AssistantKey) -> None:
        """Deletes an assistant and its messages."""
        check(caller, Access.ADMIN, _assistant(caller, key))
        await self._engine.delete_assistant(caller, key)

    def post(self, caller: Caller, query: UserQuery, time_remaining: float | None = None) -> Subscriber:
        """Starts or joins a turn. The model is offered only the skills to which the caller has a right."""
        check(caller, Access.WRITE, chain(_assistant(caller, query.assistant), _query(caller, query)))
        allowed = caller.rights.skills
        offered = query if allowed == query.allowed_skills else replace(query, allowed_skills=allowed)
        return self._engine.post(caller, offered, time_remaining)

    async def cancel(self, caller: Caller, key: TurnKey) -> None:
        """Ends a running turn."""
        check(caller, Access.WRITE, _assistant(caller, key.assistant))
        await self._engine.cancel(caller, key)


def collection_names(caller: Caller, key: CollectionKey | AssistantKey) -> Iterator[_Name]:
    """Yields the names that lead to a collection."""
    rights = caller.rights
    yield _Name("chat_storage_connection_setting", key.connection, rights.storage_connections, "storage_connections")
    yield _Name("collection_name", key.collection.lower(), rights.collections, "collections")


def _assistant(caller: Caller, key: AssistantKey) -> Iterator[_Name]:
    yield from collection_names(caller, key)
    yield _Name("id", key.id, caller.rights.ids, "ids")


def may_name(caller: Caller, key: AssistantKey) -> bool:
    """Returns whether a caller has a right to an assistant."""
    return caller.rights is EVERYTHING or all(name.value in name.allowed for name in _assistant(caller, key))


def _query(caller: Caller, query: UserQuery) -> Iterator[_Name]:
    """Yields what a query names besides its assistant. What it leaves out is the server's default, which is allowed."""
    rights = caller.rights
    if query.options.ai_connection:
        yield _Name("ai_connection_name", query.options.ai_connection, rights.ai_connections, "ai_connections")
    if query.options.chat_model is not None:
        yield _Name("chat_model", query.options.chat_model, rights.chat_models, "chat_models")
    for number, name in enumerate(query.skill_names if rights.skills != ANYTHING else ()):
        yield _Name(f"skill_names[{number}]", name, rights.skills, "skills")


def check(caller: Caller, access: Access, names: Iterable[_Name] = (), field: str = "") -> None:
    """Raises `PermissionDenied` if the caller lacks the access or a right to any of the names."""
    if caller.rights is EVERYTHING:
        return  # without authentication, each call would otherwise check names that are all allowed
    violations: list[FieldViolation] = []
    if caller.rights.access < access:
        violations.append(
            FieldViolation(
                field, f'this needs the access "{access}", and the caller "{caller.name}" has "{caller.rights.access}"'
            )
        )
    denied = (_violation(caller, name) for name in names if name.value not in name.allowed)
    violations.extend(islice(denied, MAX_DENIED_FIELDS - len(violations)))
    if violations:
        raise PermissionDenied(*violations)


def _violation(caller: Caller, name: _Name) -> FieldViolation:
    allowed, value = str(name.allowed)[:MAX_RULE_CHARACTERS], name.value[:MAX_RULE_CHARACTERS]
    return FieldViolation(
        name.field, f'must be among the {name.rule} of the caller "{caller.name}" ({allowed}), not {value!r}'
    )
