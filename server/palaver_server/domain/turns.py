"""Turns: the query, the events while a turn runs, and what is stored of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from enum import Enum

from palaver_server.domain.conversation import (
    Assistant,
    AssistantKey,
    Content,
    Draft,
    Message,
    Skill,
    SkillCall,
    SkillResult,
)
from palaver_server.domain.generation import GenerationOptions, GenerationParameters
from palaver_server.domain.limits import MAX_TOKENS
from palaver_server.domain.rights import ANYTHING, EVERYTHING, Allowed, Rights


class ProgressPhase(Enum):
    """The phase of a running turn: it waits either for the model or for skills."""

    MODEL = "model"
    SKILL = "skill"


class FinishReason(Enum):
    """The reason that a turn ended."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"
    UNKNOWN = "unknown"
    SKILL_LIMIT = "skill_limit"
    SKILL_CALLS = "skill_calls"


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated caller of a request. Without authentication every caller is anonymous."""

    name: str = ""
    """The name of the caller's block in the callers' file. It may appear in logs and as a label of metrics."""
    subject: str = ""
    """The user or service within the block whose limits apply. Empty if the block stands for a single caller."""
    rights: Rights = EVERYTHING


ANONYMOUS = Caller()


@dataclass(frozen=True, slots=True)
class TurnKey:
    """The identity of a turn."""

    assistant: AssistantKey
    request_id: str

    def normalized(self) -> TurnKey:
        """Returns the key with the collection in lower case."""
        return TurnKey(self.assistant.normalized(), self.request_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserQuery:
    """A user message to an assistant, as the caller posted it."""

    assistant: AssistantKey
    content: Content
    """The user's message. It is empty if there are `skill_results`."""
    options: GenerationOptions = field(default_factory=GenerationOptions)
    max_messages: int | None = None
    """The caller's `history.max_messages`. None: the server's default."""
    request_id: str = ""
    """The caller's identifier of the turn. Empty: the server generates one."""
    request_hash: str = ""
    """A hash of the request, to detect a different request with the same `request_id`."""
    continues: bool = False
    """True if the turn keeps running after its last caller has left."""
    address: str = ""
    """The address that the query came from, or empty if it came from no network."""
    caller_skills: tuple[Skill, ...] = ()
    """The skills that the caller runs itself."""
    skill_names: tuple[str, ...] = ()
    """The server's skills that the model may call. Empty: all of those in `allowed_skills`."""
    allowed_skills: Allowed = ANYTHING
    """The server's skills that the caller has a right to."""
    skill_results: tuple[SkillResult, ...] = ()
    """The results of caller skills, posted instead of a user message."""


@dataclass(frozen=True, slots=True)
class WindowSize:
    """The most that the model gets of the stored messages, besides the instructions."""

    max_messages: int
    max_bytes: int
    """The limit of their texts and arguments, in UTF-8."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens and the model calls of a turn."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    model_calls: int = 0

    def __add__(self, other: Usage) -> Usage:
        sums = (getattr(self, each.name) + getattr(other, each.name) for each in fields(Usage))
        return Usage(*(min(number, MAX_TOKENS) for number in sums))


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The first event of a turn."""

    request_id: str
    parameters: GenerationParameters
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the reply."""

    text: str


@dataclass(frozen=True, slots=True)
class TurnCompleted:
    """The last event of a turn: the turn is stored."""

    assistant: Assistant
    messages: tuple[Message, ...]
    finish_reason: FinishReason
    usage: Usage
    chat_model: str


TurnEvent = TurnStarted | TextDelta | SkillCall | SkillResult | TurnCompleted


@dataclass(frozen=True, slots=True)
class Progress:
    """A sign to one caller that the turn is still running. It is not an event of the turn, and never stored."""

    phase: ProgressPhase
    elapsed: float
    """The seconds since the turn started."""


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """The holder of a lease: a turn, and the server that runs it."""

    turn: str
    """A digest of the turn's `request_id`, which may itself contain the separators of the stored form."""
    server: str

    @classmethod
    def of(cls, request_id: str, server: str) -> LeaseHolder:
        """Returns the holder that stands for a turn on a server."""
        return cls(cls.digest(request_id), server)

    @staticmethod
    def digest(request_id: str) -> str:
        """Returns the `turn` of all holders of a turn."""
        return hashlib.sha256(request_id.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Lease:
    """The exclusive right to the next turn of an assistant, for a limited time."""

    holder: LeaseHolder
    seconds: float
    """How long the lease lasts unless it is renewed, by the clock of the server that takes it."""

    def may_replace(self, holder: LeaseHolder | None) -> bool:
        """Returns whether this lease may be taken although another holder's has not expired.

        A server runs the turns of an assistant one after the other. If the same server has another lease, the lease was
        left behind when the store failed, and there is no need to wait for it.
        """
        return holder is None or holder.server == self.holder.server


class Version:
    """An opaque token for the state of a conversation. Only the store that created it looks inside."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a conversation that a turn reads, as of one moment."""

    assistant: Assistant
    version: Version
    """The state that was read. `commit_turn` refuses to write over any other."""
    instructions: Message | None
    """The system message that the conversation begins with, if it has one."""
    messages: tuple[Message, ...]
    """The newest messages besides the instructions, oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedTurn:
    """A turn that is ready to be stored."""

    request_id: str
    request_hash: str
    """A hash of the request, to detect a different request with the same `request_id`."""
    messages: tuple[Draft, ...]
    finish_reason: FinishReason
    usage: Usage
    total_tokens: int
    """The `total_tokens` of the turn's last model call, which become the assistant's."""
    chat_model: str
    """The model that answered, as the endpoint reported it."""
    parameters: GenerationParameters


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """The outcome of storing a turn."""

    assistant: Assistant
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundTurn:
    """A turn that was found in the store."""

    assistant: Assistant
    """The current state of the assistant."""
    messages: tuple[Message, ...]
    request_hash: str
    finish_reason: FinishReason
    usage: Usage
    chat_model: str
    parameters: GenerationParameters | None
    """The parameters that were in effect, or None if an older server stored the turn without them."""
