"""The arguments and results of the library: frozen data classes and enums, independent of gRPC and Protobuf.

Their names and fields are those of the contract, `palaver.v1`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Literal, TypeAlias, TypedDict


class _StringEnum(str, Enum):
    """An enum whose members are strings and print as such, like `enum.StrEnum` of Python 3.11."""

    def __str__(self) -> str:
        return str(self.value)


class Role(_StringEnum):
    """The author of a message."""

    UNKNOWN = "unknown"
    """Unknown: a newer version of Palaver or another program stored the message."""
    SYSTEM = "system"
    """The instructions of the assistant."""
    USER = "user"
    """The user."""
    ASSISTANT = "assistant"
    """The model."""
    TOOL = "tool"
    """A skill, with the result of a call."""


class IfExists(_StringEnum):
    """What `create_assistant` does if the assistant exists already."""

    FAIL = "fail"
    """Raise `AlreadyExistsError` and change nothing."""
    KEEP = "keep"
    """Return the assistant unchanged. The instructions of the request are ignored."""
    RESET = "reset"
    """Delete the conversation and start over with the instructions of the request."""


class Order(_StringEnum):
    """The order of listed messages."""

    OLDEST_FIRST = "oldest_first"
    """By ascending `index`."""
    NEWEST_FIRST = "newest_first"
    """By descending `index`."""


class OnDisconnect(_StringEnum):
    """What happens to a turn when its last caller cancels, disconnects or reaches its deadline."""

    CANCEL = "cancel"
    """The server closes the model call immediately and stores nothing."""
    CONTINUE = "continue"
    """The turn continues and is stored."""


class ProgressPhase(_StringEnum):
    """What a running turn is waiting for."""

    UNKNOWN = "unknown"
    """Unknown: a newer server has a phase that this version does not know."""
    MODEL = "model"
    """The model."""
    SKILL = "skill"
    """The results of skill calls."""


class FinishReason(_StringEnum):
    """Why the model stopped writing."""

    UNKNOWN = "unknown"
    """Unknown: the endpoint gave no reason, or a newer server has one that this version does not know."""
    STOP = "stop"
    """The reply is complete."""
    LENGTH = "length"
    """The reply was cut off at the token limit. Set a higher `max_tokens`."""
    CONTENT_FILTER = "content_filter"
    """The endpoint's content filter cut the reply off."""
    SKILL_LIMIT = "skill_limit"
    """The model kept calling skills until the turn reached the server's limit of rounds or had no room for more."""
    SKILL_CALLS = "skill_calls"
    """The model called skills of the caller. The conversation waits for their results."""


IfExistsLike: TypeAlias = IfExists | Literal["fail", "keep", "reset"]
OrderLike: TypeAlias = Order | Literal["oldest_first", "newest_first"]
OnDisconnectLike: TypeAlias = OnDisconnect | Literal["cancel", "continue"]


@dataclass(frozen=True, slots=True)
class Assistant:
    """A stored conversation: its instructions and the messages exchanged since.

    Attributes:
        id: The identifier that its creator chose.
        create_time: When the assistant was created or last reset, in UTC.
        update_time: When its newest message was stored, in UTC. Equals `create_time` until there is one.
        total_messages: The number of stored messages, including the instructions. Also the `index` of the newest.
        total_tokens: The number of context tokens that the conversation took up in the latest model call; not a sum
            over all calls. 0 until the first turn is stored.
    """

    id: str
    create_time: datetime
    update_time: datetime
    total_messages: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class CreateAssistantResult:
    """The result of `create_assistant`.

    Attributes:
        assistant: The assistant as it is now.
        created: True if the conversation is new, False if `IfExists.KEEP` found an assistant and left it unchanged.
    """

    assistant: Assistant
    created: bool


@dataclass(frozen=True, slots=True)
class Skill:
    """A skill that the caller runs, as described to the model.

    Attributes:
        name: The name by which the model calls the skill: 1 to 64 letters, digits, `_` and `-`.
        description: What the skill does and when to use it, for the model to read.
        parameters_json_schema: The JSON Schema of the arguments, as JSON text. It must describe an object. Empty if
            the skill has no arguments.
    """

    name: str
    description: str
    parameters_json_schema: str = ""


@dataclass(frozen=True, slots=True)
class SkillCall:
    """A call of a skill by the model: an event of a reply, and a part of a stored message.

    Attributes:
        id: The identifier of the call, generated by the server and unique within the conversation.
        name: The name of the skill.
        arguments_json: The arguments, as JSON text of an object.
    """

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class SkillResult:
    """The result of a skill call: an event of a reply, and the answer of a caller for its own skills.

    Either `content` or `error` is set. The model reads both as text.

    Attributes:
        id: The `id` of the `SkillCall`.
        content: The result. JSON is a good choice for structured results.
        error: What went wrong, worded so that the model can continue.
    """

    id: str
    content: str | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        if self.content is not None and self.error is not None:
            raise ValueError(f'the result of the skill call "{self.id}" has both a content and an error')


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message of a conversation.

    Attributes:
        index: The position in the conversation, starting at 1, without gaps.
        role: The author of the message.
        content: The text. It may be empty if a message of the model contains only skill calls.
        create_time: When the message was stored, in UTC. It increases strictly within a conversation, so that polling
            with `after_time` misses no message.
        skill_calls: The skill calls of the model in this message.
        skill_call_id: The `id` of the skill call that this message answers. Empty unless the role is `TOOL`.
        request_id: The turn that stored the message. Empty for the instructions and for messages that another program
            wrote to the same table.
    """

    index: int
    role: Role
    content: str
    create_time: datetime
    skill_calls: tuple[SkillCall, ...] = ()
    skill_call_id: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens that a turn used, as reported by the endpoint. Values that it does not report are 0.

    Attributes:
        prompt_tokens: Tokens read by the model.
        completion_tokens: Tokens written by the model, including reasoning.
        total_tokens: Tokens read and written.
        cached_tokens: The part of `prompt_tokens` that the endpoint had cached.
        reasoning_tokens: The part of `completion_tokens` that the model spent on reasoning.
        model_calls: The number of model calls.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    model_calls: int = 0


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The first event of a reply: the server has accepted the turn, with these parameters in effect.

    Attributes:
        request_id: The identifier of the turn.
        chat_model: The model that the server calls.
        ai_connection_name: The AI connection in use: a configured name, or `OPENAI`, `AZURE_OPENAI` or `OFFLINE` for
            the fallbacks.
        temperature: The temperature that is sent to the model, if any.
        top_p: The nucleus sampling mass that is sent to the model, if any.
        max_tokens: The token limit that is sent to the model, if any.
        replayed: True if the turn was stored before and is replayed from the store, without a model call.
    """

    request_id: str
    chat_model: str
    ai_connection_name: str
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    replayed: bool


@dataclass(frozen=True, slots=True)
class TextDelta:
    """An event of a reply: a piece of its text.

    Attributes:
        text: The text to append to the earlier pieces. The boundaries between pieces have no meaning.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """An event of a reply: the turn is still running, and the server had nothing else to send for a while.

    It has no content, and is never stored or replayed. By default, servers send one after every 15 s of silence.

    Attributes:
        phase: What the turn is waiting for.
        elapsed: The time since the turn started.
    """

    phase: ProgressPhase
    elapsed: timedelta


@dataclass(frozen=True, slots=True)
class TurnCompleted:
    """The last event of a reply: the turn is stored and survives any crash.

    Attributes:
        assistant: The assistant after this turn.
        messages: The messages that this turn stored, by ascending `index`. The last one is the reply, unless the turn
            ended with skill calls: then results of skill calls may follow it.
        finish_reason: Why the model stopped writing.
        usage: The token usage, summed over the model calls of the turn.
        chat_model: The model that answered, as reported by the endpoint. May be more specific than the requested one.
    """

    assistant: Assistant
    messages: tuple[Message, ...]
    finish_reason: FinishReason
    usage: Usage
    chat_model: str

    @property
    def text(self) -> str:
        """The text of the model's last message: the whole reply, unless the model called skills in between."""
        return next((message.content for message in reversed(self.messages) if message.role is Role.ASSISTANT), "")


Event: TypeAlias = TurnStarted | TextDelta | SkillCall | SkillResult | Progress | TurnCompleted
"""An event of a turn. `TurnStarted` comes first, then text, skills and progress in any order, then `TurnCompleted`."""


class QueryOptions(TypedDict, total=False):
    """The keyword arguments of `post_user_query` and `post_user_query_unary`. All of them are optional.

    Omitted options are not sent, so that the server's defaults apply. Zero is sent as zero.

    Attributes:
        chat_model: The model that answers; on Azure OpenAI, the name of its deployment. At most 256 characters. The
            default is the server's, `gpt-3.5-turbo` unless its settings say otherwise.
        temperature: The sampling temperature, from 0 (most focused) to 2 (most random). The default is the server's,
            0.5 unless its settings say otherwise. If only `top_p` is given, no temperature is sent to the model.
        top_p: Nucleus sampling: only the most likely tokens whose probabilities add up to this mass are considered.
            Greater than 0 and at most 1. Prefer to set only one of `temperature` and `top_p`.
        max_tokens: The maximum number of tokens that the model may generate in one call, at least 1. The default is the
            server's, 100 unless its settings say otherwise. The server may lower it; `TurnStarted` has the limit in
            effect.
        is_reasoning_model: True for a reasoning model. It is sent neither `temperature` nor `top_p`, and a token limit
            only if `max_tokens` is given.
        ai_connection_name: The name of an AI connection in the server's settings. By default, and for an unknown name,
            the server uses its OpenAI key or else its Azure OpenAI endpoint.
        chat_storage_connection_setting: The name of the storage connection. The default is `AzureWebJobsStorage`.
        collection_name: The collection of the conversation. The default is `ChatState`.
        request_id: Your identifier of this turn, the idempotency key: at most 128 visible ASCII characters. By default
            the client generates one. It is always safe to post the same request again with the same `request_id`: a
            turn is stored once.
        on_disconnect: What happens to the turn when its last caller is gone. The default is `OnDisconnect.CANCEL`.
        max_history_messages: How many of the newest stored messages to send to the model, in addition to the
            instructions and the new message: `history.max_messages` of the contract. From 0 to 65,535. The default is
            the server's, 100 unless its settings say otherwise.
        caller_skills: Skills that the caller runs, at most 128, whose schemas have at most 32,768 characters in total.
            When the model calls one, the turn ends with `FinishReason.SKILL_CALLS`; run the skills and post their
            `skill_results`. Check the model's arguments against the schema first; the server does not.
        skill_names: Which skills of the server's skill hosts the model may call. Empty: all of them.
        skill_results: The results of the caller skills that the conversation waits for. Post them with an empty
            `user_message` and the same `caller_skills`.
    """

    chat_model: str
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    is_reasoning_model: bool
    ai_connection_name: str
    chat_storage_connection_setting: str
    collection_name: str
    request_id: str
    on_disconnect: OnDisconnectLike | None
    max_history_messages: int | None
    caller_skills: Sequence[Skill]
    skill_names: Sequence[str]
    skill_results: Sequence[SkillResult]
