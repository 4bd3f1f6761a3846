"""The things that Palaver handles, as frozen data classes that know nothing of gRPC, Protobuf, stores or endpoints."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

DEFAULT_INSTRUCTIONS = "You are a helpful assistant."


class Role(Enum):
    """Who wrote a message; the values are those of OpenAI's chat format."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class IfExists(Enum):
    """What creating does with an assistant that exists."""

    FAIL = "fail"
    KEEP = "keep"
    RESET = "reset"


class Order(Enum):
    """The order of listed messages."""

    OLDEST_FIRST = "oldest_first"
    NEWEST_FIRST = "newest_first"


class FinishReason(Enum):
    """Why the model stopped writing."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"
    UNKNOWN = "unknown"
    SKILL_LIMIT = "skill_limit"
    SKILL_CALLS = "skill_calls"


@dataclass(frozen=True, slots=True)
class AssistantKey:
    """Where an assistant is found: a storage connection, a collection in it, an id in that."""

    connection: str
    collection: str
    id: str

    def folded(self) -> AssistantKey:
        """The same for every spelling of the collection, where letter case does not matter."""
        return replace(self, collection=self.collection.lower())


@dataclass(frozen=True, slots=True)
class Assistant:
    """The state of an assistant."""

    id: str
    create_time: datetime
    update_time: datetime
    total_messages: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class SkillCall:
    """The model's request to run a skill."""

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class SkillResult:
    """What a skill call led to: a result, or what went wrong in words for the model."""

    id: str
    text: str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Skill:
    """What a model must know of a skill to call it."""

    name: str
    description: str
    parameters_json_schema: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A message that is not stored yet."""

    role: Role
    content: str
    skill_calls: tuple[SkillCall, ...] = ()
    skill_call_id: str = ""
    is_error: bool = False
    """The message says why a skill call has no result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(Draft):
    """A stored message."""

    index: int
    create_time: datetime
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and calls, added up over the model calls of a turn."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    model_calls: int = 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """The parameters of a turn that its caller may set; None means that the caller left it to the server."""

    chat_model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    is_reasoning_model: bool = False


@dataclass(frozen=True, slots=True)
class ModelParameters:
    """The parameters of a model call after defaults and limits were applied; None means that it is not sent."""

    chat_model: str
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    is_reasoning_model: bool


@dataclass(frozen=True, slots=True)
class UserQuery:
    """A user message to an assistant, as the caller posted it."""

    assistant: AssistantKey
    user_message: str
    sampling: Sampling = Sampling()
    ai_connection: str = ""
    max_messages: int | None = None
    request_id: str = ""
    """The caller's name of the turn; empty: the server makes one."""
    request_hash: str = ""
    """Tells this request from another one that a caller might post with the same `request_id`."""
    continues: bool = False
    """Whether the turn runs on when nobody follows it any more."""
    caller_skills: tuple[Skill, ...] = ()
    """Skills that the caller runs itself."""
    skill_names: tuple[str, ...] = ()
    """The skills of hosts that the model may call; empty: all."""
    skill_results: tuple[SkillResult, ...] = ()
    """What the caller's skills led to, in place of a user message."""


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The first event of a turn."""

    request_id: str
    ai_connection: str
    parameters: ModelParameters
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the reply."""

    text: str


@dataclass(frozen=True, slots=True)
class TurnCompleted:
    """The last event of a turn: it is stored."""

    assistant: Assistant
    messages: tuple[Message, ...]
    finish_reason: FinishReason
    usage: Usage
    chat_model: str


TurnEvent = TurnStarted | TextDelta | SkillCall | SkillResult | TurnCompleted
