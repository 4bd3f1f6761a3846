"""The interface of the chat engine, which the API calls.

`ChatEngine` implements it for everyone, and `AccessControl` for callers with rights.
"""

from __future__ import annotations

from typing import Protocol

from palaver_server.domain.conversation import Assistant, AssistantKey, IfExists, Listing, Page
from palaver_server.domain.turns import Caller, TurnKey, UserQuery
from palaver_server.engine.turn import Subscriber


class Engine(Protocol):
    """Creates, reads and deletes assistants, and runs their turns."""

    async def create_assistant(
        self, caller: Caller, key: AssistantKey, instructions: str, if_exists: IfExists
    ) -> tuple[Assistant, bool]:
        """Creates an assistant; returns it, and True if its conversation is new."""

    async def get_assistant(self, caller: Caller, key: AssistantKey) -> Assistant:
        """Returns the state of an assistant."""

    async def list_messages(self, caller: Caller, key: AssistantKey, listing: Listing) -> Page:
        """Returns a page of messages."""

    async def delete_assistant(self, caller: Caller, key: AssistantKey) -> None:
        """Deletes an assistant and its messages."""

    def post(self, caller: Caller, query: UserQuery, time_remaining: float | None = None) -> Subscriber:
        """Starts a turn, or joins the running turn with the same key, and returns the caller's view of it.

        The caller must call `leave` on it in the end. `time_remaining` is the time until its deadline, in seconds.
        """

    async def cancel(self, caller: Caller, key: TurnKey) -> None:
        """Ends a running turn, here or on another server; raises `TurnNotFound`."""
