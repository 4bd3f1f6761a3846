"""What the library takes and gives: frozen data classes and enums that know nothing of gRPC and Protobuf.

Their names and fields are those of the contract, `palaver.v1`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Literal, TypeAlias, TypedDict


class _StringEnum(str, Enum):
    """An enum whose members are strings, which also print as such (what `enum.StrEnum` is from Python 3.11 on)."""

    def __str__(self) -> str:
        return str(self.value)


class Role(_StringEnum):
    """Who wrote a message."""

    UNKNOWN = "unknown"
    """Not known: the message was stored by a newer version."""
    SYSTEM = "system"
    """The instructions of the assistant."""
    USER = "user"
    """The user."""
    ASSISTANT = "assistant"
    """The model."""
    TOOL = "tool"
    """A skill, answering a call of the model."""


class IfExists(_StringEnum):
    """What creating does with an assistant that exists already."""

    FAIL = "fail"
    """Raise `AlreadyExistsError` and change nothing."""
    KEEP = "keep"
    """Return the assistant as it is. The instructions of the request are not used."""
    RESET = "reset"
    """Delete the conversation and start over with the instructions of the request."""


class Order(_StringEnum):
    """The order of listed messages."""

    OLDEST_FIRST = "oldest_first"
    """By ascending `index`."""
    NEWEST_FIRST = "newest_first"
    """By descending `index`."""


class OnDisconnect(_StringEnum):
    """What becomes of a turn when its last caller cancels, disconnects or reaches its deadline."""

    CANCEL = "cancel"
    """The model call is closed at once, and nothing is stored."""
    CONTINUE = "continue"
    """The turn runs on and is stored."""


class FinishReason(_StringEnum):
    """Why the model stopped writing."""

    UNKNOWN = "unknown"
    """Not known: the endpoint did not tell, or a newer server has a reason that this version does not know."""
    STOP = "stop"
    """The reply is complete."""
    LENGTH = "length"
    """The token limit was reached: the reply is cut off. Set a higher `max_tokens`."""
    CONTENT_FILTER = "content_filter"
    """The endpoint's content filter cut the reply off."""
    SKILL_LIMIT = "skill_limit"
    """The model kept asking for skills until the server's limit of rounds."""
    SKILL_CALLS = "skill_calls"
    """The model asked for caller skills: the conversation waits for their results."""


IfExistsLike: TypeAlias = IfExists | Literal["fail", "keep", "reset"]
OrderLike: TypeAlias = Order | Literal["oldest_first", "newest_first"]
OnDisconnectLike: TypeAlias = OnDisconnect | Literal["cancel", "continue"]


@dataclass(frozen=True, slots=True)
class Assistant:
    """One stored conversation: its instructions and the messages exchanged since.

    Attributes:
        id: The identifier that the creator chose.
        create_time: When the assistant was created or last reset, in UTC.
        update_time: When its newest message was stored, in UTC; `create_time` as long as there is none.
        total_messages: The number of stored messages, the instructions included. It is also the `index` of the newest.
        total_tokens: How many tokens of the model's context the conversation filled in the latest model call; not a
            sum over the calls. 0 until the first turn is stored.
    """

    id: str
    create_time: datetime
    update_time: datetime
    total_messages: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class CreateAssistantResult:
    """What `create_assistant` returns.

    Attributes:
        assistant: The assistant as it is now.
        created: True where the conversation is new, False where `IfExists.KEEP` found an assistant and left it as it
            was.
    """

    assistant: Assistant
    created: bool


@dataclass(frozen=True, slots=True)
class Skill:
    """A skill that the caller itself runs, as the model gets to know it.

    Attributes:
        name: By which the model calls the skill: 1 to 64 letters, digits, `_` and `-`.
        description: What the skill does and when to use it, for the model to read.
        parameters_json_schema: The JSON Schema of the arguments, as JSON text. It must describe an object. Empty: the
            skill has no arguments.
    """

    name: str
    description: str
    parameters_json_schema: str = ""


@dataclass(frozen=True, slots=True)
class SkillCall:
    """The model asked for a skill: an event of a reply, and a part of a stored message.

    Attributes:
        id: The identifier of the call, which the server made. It is unique within a conversation.
        name: The name of the skill.
        arguments_json: The arguments, as the JSON text of an object.
    """

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class SkillResult:
    """What a skill call led to: an event of a reply, and what a caller answers for its own skills.

    Either `content` or `error` is set; both are text that the model reads.

    Attributes:
        id: The `id` of the `SkillCall` that this answers.
        content: The result. JSON is a good choice where it has a structure.
        error: What went wrong, in words that help the model to go on.
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
        index: The position in the conversation, from 1 and without gaps.
        role: Who wrote the message.
        content: The text. It may be empty when an assistant's message consists of skill calls alone.
        create_time: When the message was stored, in UTC. It grows strictly from message to message of an assistant, so
            whoever polls with `after_time` misses nothing.
        skill_calls: The skills that the model asked for in this message.
        skill_call_id: The `id` of the skill call that this message answers; empty but for the role `TOOL`.
        request_id: The turn that stored the message. Empty for the instructions, and for messages that another program
            wrote into the same table.
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
    """What a turn used, in tokens, as the endpoint reported it. A figure that it does not report is 0.

    Attributes:
        prompt_tokens: Read by the model.
        completion_tokens: Written by the model, reasoning included.
        total_tokens: Read and written.
        cached_tokens: Those of `prompt_tokens` that the endpoint had cached.
        reasoning_tokens: Those of `completion_tokens` that the model spent on reasoning.
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
    """The first event of a reply: the turn was accepted, and these parameters are in effect.

    Attributes:
        request_id: The identifier of the turn: the caller's, or the one that the server made.
        chat_model: The model that is asked.
        ai_connection_name: The AI connection in use: a configured name, or `OPENAI`, `AZURE_OPENAI` or `OFFLINE` for
            the fallbacks.
        temperature: The temperature that is sent; None where none is.
        top_p: The nucleus sampling mass that is sent; None where none is.
        max_tokens: The token limit that is sent; None where none is.
        replayed: True when the turn was stored before and is replayed from the store, without a model call.
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
        text: To be appended to what came before. How a reply is cut into pieces has no meaning.
    """

    text: str


@dataclass(frozen=True, slots=True)
class TurnCompleted:
    """The last event of a reply: the turn is stored, and survives any crash from now on.

    Attributes:
        assistant: The assistant after this turn.
        messages: The messages that this turn stored, by ascending `index`. The reply is the last one, unless the turn
            ended with skill calls, whose results follow it.
        finish_reason: Why the model stopped writing.
        usage: What the turn used, added up over its model calls.
        chat_model: The model that answered, as the endpoint reported it. It may be more exact than what was asked for.
    """

    assistant: Assistant
    messages: tuple[Message, ...]
    finish_reason: FinishReason
    usage: Usage
    chat_model: str

    @property
    def text(self) -> str:
        """The text of the model's last message: the whole reply, unless skills were called in between."""
        return next((message.content for message in reversed(self.messages) if message.role is Role.ASSISTANT), "")


Event: TypeAlias = TurnStarted | TextDelta | SkillCall | SkillResult | TurnCompleted
"""What happens during a turn, in this order: started, then text and skills in any mixture, then completed."""


class QueryOptions(TypedDict, total=False):
    """What `post_user_query` and `post_user_query_unary` take as keyword arguments. All of them are optional.

    What is left out is not sent, so that the server's default applies; zero is sent as zero.

    Attributes:
        chat_model: The model that answers; on Azure OpenAI, the name of its deployment. At most 256 characters. The
            default is the server's, `gpt-3.5-turbo` unless its settings say otherwise.
        temperature: The sampling temperature, from 0 (most focused) to 2 (most random). The default is the server's,
            0.5 unless its settings say otherwise; when only `top_p` is given, no temperature is sent to the model.
        top_p: Nucleus sampling: only the most likely tokens whose probabilities add up to this mass are considered.
            Greater than 0 and at most 1. Set `temperature` or `top_p`, better not both.
        max_tokens: The most tokens that the model may generate in one call, 1 at least. The default is the server's,
            100 unless its settings say otherwise. The server may lower it; `TurnStarted` tells.
        is_reasoning_model: True for a reasoning model, which is sent neither `temperature` nor `top_p`, and no token
            limit unless `max_tokens` is given.
        ai_connection_name: The name of the AI connection in the server's settings. The default, and what a name that
            the server does not offer leads to, is its OpenAI key or else its Azure OpenAI endpoint.
        chat_storage_connection_setting: The name of the storage connection. The default is `AzureWebJobsStorage`.
        collection_name: The collection that holds the conversation. The default is `ChatState`.
        request_id: The caller's identifier of this turn, at most 128 visible ASCII characters. By default the client
            makes one. Posting again with the same one and the same request is safe, at any time: a turn is stored once.
        on_disconnect: What becomes of the turn when its last caller is gone. The default is `OnDisconnect.CANCEL`.
        max_history_messages: The most stored messages that the model is sent besides the instructions and the new
            message, counted from the newest: `history.max_messages` of the contract. 0: none. At most 65,535. The
            default is the server's, 100 unless its settings say otherwise.
        caller_skills: Skills that the caller itself runs, at most 128, with schemas of 32,768 characters in all. When
            the model asks for one, the turn ends with `FinishReason.SKILL_CALLS`; run the skills and post their
            `skill_results`. To check the model's arguments against the schema is up to the caller.
        skill_names: The skills that the model may call, of those that the server's skill hosts offer. Empty: all.
        skill_results: The results of the caller skills that the conversation waits for, with an empty `user_message`
            and the `caller_skills` again.
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
