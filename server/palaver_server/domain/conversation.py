"""Assistants and their messages, as frozen data classes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from json.encoder import encode_basestring_ascii

from palaver_server.domain.limits import DEFAULT_PAGE_SIZE, MAX_SKILL_NAME_CHARACTERS

DEFAULT_INSTRUCTIONS = "You are a helpful assistant."
DEFAULT_STORAGE_CONNECTION = "AzureWebJobsStorage"
DEFAULT_COLLECTION = "ChatState"


class Role(Enum):
    """The author of a message. The values are those of OpenAI's chat format, and one for other programs' roles."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"
    UNKNOWN = "unknown"


class IfExists(Enum):
    """The action of `create_assistant` if the assistant already exists."""

    FAIL = "fail"
    KEEP = "keep"
    RESET = "reset"


class Order(Enum):
    """The order of listed messages."""

    OLDEST_FIRST = "oldest_first"
    NEWEST_FIRST = "newest_first"


@dataclass(frozen=True, slots=True)
class CollectionKey:
    """The address of a collection: a storage connection, and a collection in it."""

    connection: str
    collection: str


@dataclass(frozen=True, slots=True)
class AssistantKey:
    """The address of an assistant: a storage connection, a collection in it, and an id in the collection."""

    connection: str
    collection: str
    id: str

    def normalized(self) -> AssistantKey:
        """Returns the key with the collection in lower case, because collection names are case-insensitive."""
        return AssistantKey(self.connection, self.collection.lower(), self.id)


@dataclass(frozen=True, slots=True)
class Assistant:
    """The state of an assistant."""

    id: str
    create_time: datetime
    update_time: datetime
    total_messages: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class AssistantPage:
    """A page of the assistants of a collection, in the order of their ids."""

    assistants: tuple[Assistant, ...]
    damaged_ids: tuple[str, ...] = ()
    """The ids of the assistants on this page whose state can't be read."""
    next_position: str = ""
    """The position of the next page, which only the store understands, or empty on the last page."""


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a message: its text, and its size in each of the units that limits use."""

    text: str = ""

    def __bool__(self) -> bool:
        return bool(self.text)

    @property
    def is_blank(self) -> bool:
        """True if there is nothing to see."""
        return not self.text.strip()

    @classmethod
    def joined(cls, contents: Iterable[Content]) -> Content:
        """Returns one content that has all of them, except for blank ones, as paragraphs."""
        return cls("\n\n".join(content.text for content in contents if not content.is_blank))

    @property
    def utf16_units(self) -> int:
        """The length in UTF-16 code units, in which Azure Table Storage and .NET measure text."""
        text = self.text
        return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2

    @property
    def utf8_bytes(self) -> int:
        """The size in UTF-8, the encoding of gRPC."""
        return len(self.text) if self.text.isascii() else len(self.text.encode())

    @property
    def json_bytes(self) -> int:
        """The size in ASCII JSON, where a character outside ASCII is an escape sequence of 6 or 12 bytes."""
        return len(encode_basestring_ascii(self.text)) - 2


@dataclass(frozen=True, slots=True)
class Skill:
    """A skill as the model sees it. From this, the model decides when and how to call it."""

    name: str
    description: str
    parameters_json_schema: str


def sound(text: str) -> str:
    """Returns a text in which U+FFFD stands for halves of surrogate pairs. No text with such a half can be sent."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def skill_name(text: str) -> str:
    """Returns a text with its other characters replaced, so that it can be the name of a skill."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)[:MAX_SKILL_NAME_CHARACTERS] or "_"


@dataclass(frozen=True, slots=True)
class SkillCall:
    """A model's request to run a skill."""

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class SkillResult:
    """The outcome of a skill call: its result, or an error message for the model."""

    id: str
    text: str
    is_error: bool = False
    error_type: str = field(default="", compare=False)
    """The kind of the failure, for operators: a gRPC status, or `skill_error` if the skill itself reported it."""
    source: str = field(default="", compare=False)
    """The host that was called, or empty if none was."""

    @classmethod
    def failure(cls, call: SkillCall, error: str, error_type: str = "") -> SkillResult:
        """Returns the result of a call that failed."""
        return cls(call.id, error, is_error=True, error_type=error_type)


@dataclass(frozen=True, slots=True)
class Draft:
    """A message that is not stored yet."""

    role: Role
    content: Content
    skill_calls: tuple[SkillCall, ...] = ()
    skill_call_id: str = ""
    is_error: bool = False
    """True if the content says why a skill call has no result."""
    endpoint_state: str = ""
    """State that the endpoint wants back with a message of skill calls: a JSON object that only `llm` understands."""
    reasoning: str = ""
    """The model's reasoning before the skill calls. Endpoints may want it back within the turn; it is never stored."""
    skill_name: str = ""
    """The skill that wrote a tool message without a call id, which only older versions of the extension store."""

    @property
    def json_bytes(self) -> int:
        """The size of the content and of the skill calls in ASCII JSON."""
        size = self.content.json_bytes
        for call in self.skill_calls:
            size += Content(call.name + call.arguments_json).json_bytes
        return size

    @property
    def utf8_bytes(self) -> int:
        """The size of the content and of the arguments of the skill calls in UTF-8."""
        size = self.content.utf8_bytes
        for call in self.skill_calls:
            size += Content(call.arguments_json).utf8_bytes
        return size

    @classmethod
    def from_result(cls, result: SkillResult) -> Draft:
        """Returns the tool message that holds the result of a skill call."""
        return cls(Role.TOOL, Content(result.text), skill_call_id=result.id, is_error=result.is_error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(Draft):
    """A stored message."""

    index: int
    create_time: datetime
    request_id: str = ""


class MessageBudget:
    """The room for messages that are read together. One message fits however large it is."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._messages = max_messages
        self._bytes = max_bytes
        self._is_unused = True

    def takes(self, message: Draft) -> bool:
        """Counts a message, and returns whether there was room for it."""
        self._messages -= 1
        self._bytes -= message.utf8_bytes
        fits = self._messages >= 0 and (self._bytes >= 0 or self._is_unused)
        self._is_unused = False
        return fits


@dataclass(frozen=True, slots=True)
class Listing:
    """A range of messages to list, and their order."""

    order: Order = Order.OLDEST_FIRST
    after_time: datetime | None = None
    """Only messages with a later `create_time` are listed."""
    after_index: int | None = None
    """The listing continues after the message with this index, in the given order."""
    limit: int = DEFAULT_PAGE_SIZE


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing."""

    messages: tuple[Message, ...]
    has_more: bool
