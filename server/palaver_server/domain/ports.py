"""The interfaces between the engine and what it depends on: stores, models and skills."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from palaver_server.domain.conversation import (
    Assistant,
    AssistantKey,
    Draft,
    IfExists,
    Listing,
    Page,
    Skill,
    SkillCall,
    SkillResult,
)
from palaver_server.domain.generation import GenerationParameters
from palaver_server.domain.turns import (
    FinishedTurn,
    FinishReason,
    FoundTurn,
    Lease,
    LeaseHolder,
    StoredTurn,
    TurnKey,
    Usage,
    Version,
    Window,
)


class AssistantStore(Protocol):
    """The assistants of a storage connection.

    As every method of a store, these raise `StoreUnavailable`, `StoreCredentialsRejected` and `StoreCorrupt`.
    """

    async def create_assistant(
        self, key: AssistantKey, instructions: str, if_exists: IfExists
    ) -> tuple[Assistant, bool]:
        """Creates an assistant, and its collection if that does not exist; blank instructions make no message.

        Returns the assistant, and True if its conversation is new. Raises `AssistantExists` if `if_exists` says so.
        """

    async def get_assistant(self, key: AssistantKey) -> Assistant:
        """Returns the state of an assistant, or raises `AssistantNotFound`."""

    async def list_messages(self, key: AssistantKey, listing: Listing) -> Page:
        """Returns the first messages of a listing, or raises `AssistantNotFound`."""

    async def delete_assistant(self, key: AssistantKey) -> None:
        """Deletes an assistant and its messages, or raises `AssistantNotFound`."""


class TurnStore(Protocol):
    """The turns of the assistants of a storage connection."""

    async def read_window(self, key: AssistantKey, max_messages: int, lease: Lease | None = None) -> Window:
        """Returns the instructions and at most `max_messages` of the newest messages.

        The cost does not depend on the length of the conversation. With a lease, it also takes the lease, or raises
        `AssistantBusy` while another holder has one; the next commit ends every lease. Raises `AssistantNotFound`.
        """

    async def find_turn(self, turn: TurnKey) -> FoundTurn | None:
        """Returns the stored turn, or None if there is no such turn or no such assistant."""

    async def commit_turn(self, key: AssistantKey, version: Version, turn: FinishedTurn) -> StoredTurn:
        """Appends a turn to a conversation in one transaction.

        The messages get the next indexes, and times that grow strictly. Raises `ConcurrentWrite` if the conversation
        has changed since `version` was read or already has a turn with this `request_id`, `TurnCancelled` if the lease
        was cancelled, `ConversationFull`, `TurnTooLarge` or `StoreFull`. After an error nothing is stored.
        """


class LeaseStore(Protocol):
    """The leases of the assistants of a storage connection. `TurnStore.read_window` takes them."""

    async def renew_lease(self, key: AssistantKey, version: Version, lease: Lease) -> Version:
        """Extends a lease from now on, and returns the version that names the conversation afterwards.

        Raises `ConcurrentWrite` if another holder has the lease or the conversation has changed, and `TurnCancelled` if
        the lease was cancelled.
        """

    async def release_lease(self, key: AssistantKey, holder: LeaseHolder) -> None:
        """Ends the lease of a holder. Does nothing if another holder has it by now."""

    async def cancel_lease(self, turn: TurnKey) -> bool:
        """Ends the lease of a turn, which can't be committed afterwards. Returns False if the turn has no lease."""


class Store(AssistantStore, TurnStore, LeaseStore, Protocol):
    """The conversations of a storage connection. `tests/stores` is the suite that every implementation must pass."""

    async def close(self) -> None:
        """Ends the calls in progress and releases all resources. No call may follow."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The input of a model call."""

    messages: tuple[Draft, ...]
    parameters: GenerationParameters
    skills: tuple[Skill, ...] = ()
    """The skills that the model may call."""


@dataclass(slots=True)
class SkillCallDelta:
    """A piece of a skill call that the model is writing."""

    position: int
    """The position of the call among those of the reply."""
    name: str = ""
    arguments: str = ""
    endpoint_state: object = None
    """State that the endpoint wants back with the call. It can be written as JSON."""


@dataclass(slots=True)
class ModelDelta:
    """The output that arrived from the model at once. A field without output is empty or None."""

    text: str = ""
    skill_calls: Sequence[SkillCallDelta] = ()
    reasoning: str = ""
    """Reasoning, which is not part of the reply but shows progress."""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    chat_model: str = ""


class ChatModel(Protocol):
    """A connection to an endpoint that generates replies."""

    def stream(self, prompt: Prompt) -> AsyncGenerator[ModelDelta, None]:
        """Makes one model call and yields the output as it arrives.

        The reply is whole only if the generator ends normally; otherwise it raises a `ModelError`. Closing the
        generator closes the request to the endpoint at once.
        """


class ModelConnections(Protocol):
    """The AI connections of the server."""

    def resolve(self, name: str) -> tuple[str, ChatModel]:
        """Returns the name and the model of the connection with this name, or else of the fallback.

        Raises `ConnectionNotConfigured` if there is neither.
        """


@dataclass(frozen=True, slots=True)
class SkillInvocation:
    """A skill call, and the turn that it belongs to, which a skill may authorise by."""

    call: SkillCall
    turn: TurnKey


class SkillSource(Protocol):
    """A provider of skills that the server can call."""

    def offered(self) -> tuple[Skill, ...]:
        """Returns the skills that are available now."""

    async def invoke(self, invocation: SkillInvocation) -> SkillResult:
        """Runs a skill. A failure of any kind is a result that tells the model about it."""
