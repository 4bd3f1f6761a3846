"""The interfaces of what the server depends on: stores, models, skills and the callers that it knows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from palaver_server.domain.conversation import (
    Assistant,
    AssistantKey,
    AssistantPage,
    CollectionKey,
    Draft,
    IfExists,
    Listing,
    Page,
    Skill,
    SkillCall,
    SkillResult,
)
from palaver_server.domain.generation import GenerationParameters
from palaver_server.domain.limits import DEFAULT_HISTORY_BYTES
from palaver_server.domain.turns import (
    Caller,
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

TraceHeaders = Callable[[], Mapping[str, str]]
"""Returns the headers that join a call of another service to the trace of the current turn."""


def no_trace_headers() -> Mapping[str, str]:
    """Returns no headers: the turn is not traced."""
    return {}


class AssistantStore(Protocol):
    """The assistants of a storage connection.

    Like all methods of a store, these raise `StoreUnavailable`, `StoreCredentialsRejected` and `StoreCorrupt`.
    """

    async def create_assistant(
        self, key: AssistantKey, instructions: str, if_exists: IfExists
    ) -> tuple[Assistant, bool]:
        """Creates an assistant, and its collection if that does not exist. Blank instructions are not stored.

        Returns the assistant, and True if its conversation is new. Raises `AssistantExists` if the assistant exists and
        `if_exists` is `FAIL`.
        """

    async def get_assistant(self, key: AssistantKey) -> Assistant:
        """Returns the state of an assistant, or raises `AssistantNotFound`."""

    async def list_assistants(self, key: CollectionKey, limit: int, position: str) -> AssistantPage:
        """Returns the assistants of a collection behind a position, which is empty for the first page.

        A page has at most `limit` assistants, and may have none although more follow: the work for a page is bounded.
        Raises `InvalidFields` if the position is not one of this store.
        """

    async def list_messages(self, key: AssistantKey, listing: Listing) -> Page:
        """Returns the first messages of a listing, or raises `AssistantNotFound`."""

    async def delete_assistant(self, key: AssistantKey) -> None:
        """Deletes an assistant and its messages, or raises `AssistantNotFound`."""


class TurnStore(Protocol):
    """The turns of the assistants of a storage connection."""

    async def read_window(
        self,
        key: AssistantKey,
        max_messages: int,
        lease: Lease | None = None,
        *,
        max_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> Window:
        """Returns the instructions and at most `max_messages` of the newest messages, of at most `max_bytes` in all.

        The newest message is returned however large it is, unless `max_messages` is 0. Messages that are left out are
        hardly read, so the cost depends neither on their number nor on their size. With a lease, it also takes the
        lease, or raises `AssistantBusy` if another holder has one. The next commit ends the lease. Raises
        `AssistantNotFound`.
        """

    async def find_turn(self, turn: TurnKey) -> FoundTurn | None:
        """Returns the stored turn, or None if there is no such turn or no such assistant."""

    async def commit_turn(self, key: AssistantKey, version: Version, turn: FinishedTurn) -> StoredTurn:
        """Appends a turn to a conversation in one transaction.

        The messages get the next indexes and strictly increasing times. Raises `ConcurrentWrite` if the conversation
        has changed since `version` was read or already has a turn with this `request_id`, `TurnCancelled` if the lease
        was cancelled, `ConversationFull`, `TurnTooLarge` or `StoreFull`. After an error, nothing is stored.
        """


class LeaseStore(Protocol):
    """The leases of the assistants of a storage connection. `TurnStore.read_window` takes them."""

    async def renew_lease(self, key: AssistantKey, version: Version, lease: Lease) -> Version:
        """Extends a lease to its full duration from now, and returns the new version of the conversation.

        Raises `ConcurrentWrite` if another holder has the lease or the conversation has changed, and `TurnCancelled` if
        the lease was cancelled.
        """

    async def release_lease(self, key: AssistantKey, holder: LeaseHolder) -> None:
        """Ends the lease of a holder. Does nothing if the holder no longer has it."""

    async def has_lease(self, turn: TurnKey) -> bool:
        """Returns whether a turn has a lease that has neither expired nor been cancelled: a server is running it."""

    async def cancel_lease(self, turn: TurnKey) -> bool:
        """Ends the lease of a turn, so that the turn can't be committed. Returns False if the turn has no lease."""


class Store(AssistantStore, TurnStore, LeaseStore, Protocol):
    """The conversations of a storage connection. `tests/stores` is the suite that every implementation must pass."""

    @property
    def location(self) -> str:
        """Where the conversations are, for operators: the host of a service, or the path of a file."""

    async def close(self) -> None:
        """Ends the calls in progress and releases all resources. The store can't be used afterwards."""


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
    """The output of the model that arrived together. A field without output is empty or None."""

    text: str = ""
    skill_calls: Sequence[SkillCallDelta] = ()
    reasoning: str = ""
    """Reasoning, which is not part of the reply but shows progress."""
    endpoint_state: Sequence[object] = ()
    """Pieces of state that the endpoint wants back with the message if it calls skills. They can be written as JSON."""
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

    async def lists_models(self) -> bool:
        """Asks the endpoint for its models, which costs nothing. Returns False if it has no list of them.

        Either answer means that the endpoint works. Raises a `ModelError` if a model call would fail, too.
        """


class ModelConnections(Protocol):
    """The AI connections of the server."""

    def resolve(self, name: str) -> tuple[str, ChatModel]:
        """Returns the name and the model of the connection with this name, or else of the fallback.

        Raises `ConnectionNotConfigured` if there is neither.
        """


@dataclass(frozen=True, slots=True)
class SkillInvocation:
    """A skill call, and the turn that it belongs to, so that the skill can authorise the call."""

    call: SkillCall
    turn: TurnKey


class SkillSource(Protocol):
    """A provider of skills that the server can call."""

    def offered(self) -> tuple[Skill, ...]:
        """Returns the skills that are available now."""

    async def invoke(self, invocation: SkillInvocation) -> SkillResult:
        """Runs a skill. A failure of any kind is returned as a result, for the model to read."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials with which a call identifies its caller."""

    authorization: str = field(default="", repr=False)
    """The value of the metadata `authorization`."""
    certificate_names: tuple[str, ...] = ()
    """The names in the verified client certificate of the connection."""


class Authenticator(Protocol):
    """The callers that the server knows."""

    async def authenticate(self, credentials: Credentials) -> Caller:
        """Returns the caller with these credentials; raises `Unauthenticated` or `PermissionDenied`."""
