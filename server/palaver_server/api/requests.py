"""The request parser: it reads and checks each field of a request, and returns objects of the domain.

All invalid fields of a request are reported together, in one `InvalidFields`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from palaver.v1 import admin_service_pb2 as admin_pb
from palaver.v1 import assistant_pb2
from palaver.v1 import assistant_service_pb2 as pb
from palaver_server.api.page_tokens import INDEX_BYTES, parse_page_token
from palaver_server.api.request_hash import request_hash
from palaver_server.domain import json_schema
from palaver_server.domain.conversation import (
    DEFAULT_COLLECTION,
    DEFAULT_INSTRUCTIONS,
    DEFAULT_STORAGE_CONNECTION,
    AssistantKey,
    CollectionKey,
    Content,
    IfExists,
    Listing,
    Order,
    Skill,
    SkillResult,
)
from palaver_server.domain.errors import FieldViolation, InvalidFields
from palaver_server.domain.generation import GenerationOptions
from palaver_server.domain.limits import (
    DEFAULT_PAGE_SIZE,
    HISTORY_MESSAGES,
    MAX_CALLER_SKILLS,
    MAX_CHAT_MODEL_CHARACTERS,
    MAX_ID_CHARACTERS,
    MAX_MESSAGE_UNITS,
    MAX_PAGE_SIZE,
    MAX_QUOTED_CHARACTERS,
    MAX_REQUEST_ID_CHARACTERS,
    MAX_SCHEMAS_CHARACTERS,
    MAX_SKILL_NAMES,
    MAX_TURN_MESSAGES,
    NEXT_PAGE_RULE,
    SKILL_NAME,
    SKILL_NAME_RULE,
    TEMPERATURE,
    TOP_P,
    Interval,
)
from palaver_server.domain.turns import TurnKey, UserQuery

IF_EXISTS: dict[int, IfExists] = {
    pb.IF_EXISTS_UNSPECIFIED: IfExists.FAIL,
    pb.IF_EXISTS_FAIL: IfExists.FAIL,
    pb.IF_EXISTS_KEEP: IfExists.KEEP,
    pb.IF_EXISTS_RESET: IfExists.RESET,
}
ORDERS: dict[int, Order] = {
    pb.ORDER_UNSPECIFIED: Order.OLDEST_FIRST,
    pb.ORDER_OLDEST_FIRST: Order.OLDEST_FIRST,
    pb.ORDER_NEWEST_FIRST: Order.NEWEST_FIRST,
}
CONTINUES: dict[int, bool] = {
    pb.ON_DISCONNECT_UNSPECIFIED: False,
    pb.ON_DISCONNECT_CANCEL: False,
    pb.ON_DISCONNECT_CONTINUE: True,
}

_CONTROL_CHARACTERS = r"\x00-\x1f\x7f-\x9f"
_CONTROL = re.compile(rf"[{_CONTROL_CHARACTERS}]")
_FORBIDDEN_IN_ID = re.compile(rf"[/\\#?{_CONTROL_CHARACTERS}]")
_COLLECTION_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{2,62}")
_RESERVED_COLLECTION = "tables"
_REQUEST_ID = re.compile(rf"[!-~]{{1,{MAX_REQUEST_ID_CHARACTERS}}}")
_MAX_SECONDS = 253_402_300_799  # the end of the year 9999, where google.protobuf.Timestamp ends
_MIN_SECONDS = -62_135_596_800  # the beginning of the year 1

T = TypeVar("T")


def assistant_key(request: pb.GetAssistantRequest | pb.DeleteAssistantRequest) -> AssistantKey:
    """Returns the assistant of a request that only names one."""
    parser = _Parser(request)
    key = parser.assistant_key()
    parser.finish()
    return key


def create_assistant(request: pb.CreateAssistantRequest) -> tuple[AssistantKey, str, IfExists]:
    """Returns the assistant to create, its instructions, and the action if it already exists."""
    parser = _Parser(request)
    key = parser.assistant_key()
    instructions = parser.message_text("instructions")
    if_exists = parser.enum("if_exists", IF_EXISTS, IfExists.FAIL)
    parser.finish()
    return key, instructions if request.HasField("instructions") else DEFAULT_INSTRUCTIONS, if_exists


def list_messages(request: pb.ListMessagesRequest) -> tuple[AssistantKey, Listing]:
    """Returns the assistant and the listing of its messages."""
    parser = _Parser(request)
    key = parser.assistant_key()
    listing = Listing(
        order=parser.enum("order", ORDERS, Order.OLDEST_FIRST),
        after_time=parser.after_time(),
        limit=parser.page_size(),
        after_index=parser.after_index(),
    )
    parser.finish()
    return key, listing


def list_assistants(request: admin_pb.ListAssistantsRequest) -> tuple[CollectionKey, int, str]:
    """Returns the collection, the size of the page, and its position, which is empty for the first page."""
    parser = _Parser(request)
    listing = parser.collection_key(), parser.page_size(), parser.position()
    parser.finish()
    return listing


def list_running_turns(request: admin_pb.ListRunningTurnsRequest) -> int:
    """Returns the limit of the turns."""
    parser = _Parser(request)
    limit = parser.page_size("limit")
    parser.finish()
    return limit


def cancel_turn(request: pb.CancelTurnRequest) -> TurnKey:
    """Returns the turn to cancel."""
    parser = _Parser(request)
    key = TurnKey(parser.assistant_key(), parser.request_id(is_required=True))
    parser.finish()
    return key


def user_query(request: pb.PostUserQueryRequest, address: str) -> UserQuery:
    """Returns the query of a `PostUserQueryRequest` that came from an address."""
    parser = _Parser(request)
    query = UserQuery(
        assistant=parser.assistant_key(),
        content=Content(parser.user_message()),
        caller_skills=parser.caller_skills(),
        skill_names=tuple(parser.items("skill_names", MAX_SKILL_NAMES)),
        skill_results=parser.skill_results(),
        options=GenerationOptions(
            ai_connection=request.ai_connection_name,
            chat_model=parser.chat_model(),
            temperature=parser.number("temperature", TEMPERATURE),
            top_p=parser.number("top_p", TOP_P),
            max_tokens=parser.max_tokens(),
            is_reasoning_model=request.is_reasoning_model,
        ),
        max_messages=parser.max_messages(),
        request_id=parser.request_id(),
        continues=parser.enum("on_disconnect", CONTINUES, default=False),
    )
    parser.finish()
    digest = request_hash(request, without=("request_id", "on_disconnect"))
    return replace(query, request_hash=digest.hex(), address=address)


class _Parser:
    """Reads the fields of one request and collects violations."""

    def __init__(self, request: Message) -> None:
        self._request: Any = request
        self._violations: list[FieldViolation] = []

    def fail(self, field: str, description: str) -> None:
        """Adds a violation."""
        self._violations.append(FieldViolation(field, description))

    def finish(self) -> None:
        """Raises `InvalidFields` if there are violations."""
        if self._violations:
            raise InvalidFields(*self._violations)

    def assistant_key(self) -> AssistantKey:
        """Reads the fields that name the assistant. The engine checks whether the connection exists."""
        assistant_id = self._request.id
        if not 1 <= len(assistant_id) <= MAX_ID_CHARACTERS:
            self.fail("id", f"must have 1 to {MAX_ID_CHARACTERS} characters, not {len(assistant_id)}")
        if _FORBIDDEN_IN_ID.search(assistant_id):
            self.fail("id", r"must have none of the characters / \ # ? and no control characters")
        key = self.collection_key()
        return AssistantKey(key.connection, key.collection, assistant_id)

    def collection_key(self) -> CollectionKey:
        """Reads the fields that name the collection."""
        collection = self._request.collection_name or DEFAULT_COLLECTION
        if not _COLLECTION_NAME.fullmatch(collection) or collection.lower() == _RESERVED_COLLECTION:
            self.fail(
                "collection_name",
                f'must be 3 to 63 ASCII letters and digits, the first one a letter, and not "{_RESERVED_COLLECTION}"',
            )
        connection = self._request.chat_storage_connection_setting or DEFAULT_STORAGE_CONNECTION
        return CollectionKey(connection, collection)

    def message_text(self, field: str) -> str:
        """Reads a text that is stored as the content of a message."""
        return self._message_text(field, getattr(self._request, field))

    def _message_text(self, path: str, text: str) -> str:
        units = Content(text).utf16_units
        if units > MAX_MESSAGE_UNITS:
            self.fail(path, f"must have at most {MAX_MESSAGE_UNITS:,} UTF-16 code units, not {units:,}")
        return text

    def user_message(self) -> str:
        """Reads `user_message`. A request must have either this or `skill_results`."""
        request = self._request
        if request.user_message and request.skill_results:
            self.fail("user_message", "must be empty when there are skill_results")
        elif not (request.user_message or request.skill_results):
            self.fail("user_message", "must not be empty")
        return self.message_text("user_message")

    def items(self, field: str, limit: int) -> Sequence[Any]:
        """Returns the items of a repeated field, or none if there are too many to read."""
        items: Sequence[Any] = getattr(self._request, field)
        if len(items) <= limit:
            return items
        self.fail(field, f"must be at most {limit}, not {len(items):,}")
        return ()

    def caller_skills(self) -> tuple[Skill, ...]:
        """Reads `caller_skills`."""
        skills = self.items("caller_skills", MAX_CALLER_SKILLS)
        characters = sum(len(skill.parameters_json_schema) for skill in skills)
        if characters > MAX_SCHEMAS_CHARACTERS:
            self.fail(
                "caller_skills",
                f"must have schemas of at most {MAX_SCHEMAS_CHARACTERS:,} characters in all, not {characters:,}",
            )
            return ()
        self._check_unique("caller_skills", "name", (skill.name for skill in skills))
        return tuple(self._caller_skill(f"caller_skills[{number}]", skill) for number, skill in enumerate(skills))

    def _caller_skill(self, path: str, skill: assistant_pb2.Skill) -> Skill:
        if not SKILL_NAME.fullmatch(skill.name):
            self.fail(f"{path}.name", SKILL_NAME_RULE)
        if error := json_schema.schema_error(skill.parameters_json_schema):
            self.fail(f"{path}.parameters_json_schema", error[:MAX_QUOTED_CHARACTERS])
        return Skill(skill.name, skill.description, skill.parameters_json_schema)

    def skill_results(self) -> tuple[SkillResult, ...]:
        """Reads `skill_results`."""
        results = self.items("skill_results", MAX_TURN_MESSAGES)
        self._check_unique("skill_results", "id", (result.id for result in results))
        return tuple(self._skill_result(f"skill_results[{number}]", result) for number, result in enumerate(results))

    def _skill_result(self, path: str, result: assistant_pb2.SkillResult) -> SkillResult:
        outcome = result.WhichOneof("outcome")
        if outcome is None:
            self.fail(path, "must have either content or an error")
            return SkillResult(result.id, "")
        text = self._message_text(f"{path}.{outcome}", getattr(result, outcome))
        return SkillResult(result.id, text, is_error=outcome == "error")

    def _check_unique(self, field: str, part: str, values: Iterable[str]) -> None:
        seen: set[str] = set()
        for number, value in enumerate(values):
            if value in seen:
                self.fail(f"{field}[{number}].{part}", f"must not be given twice: {value[:MAX_QUOTED_CHARACTERS]!r}")
            seen.add(value)

    def enum(self, field: str, known: Mapping[int, T], default: T) -> T:
        """Reads an enum field. Returns the default for an unknown number, which is a violation."""
        number = getattr(self._request, field)
        if number not in known:
            self.fail(field, f"must be a known value ({', '.join(map(str, known))}), not {number}")
        return known.get(number, default)

    def after_time(self) -> datetime | None:
        """Reads `after_time`."""
        if not self._request.HasField("after_time"):
            return None
        time: Timestamp = self._request.after_time
        if _MIN_SECONDS <= time.seconds <= _MAX_SECONDS and 0 <= time.nanos < 1_000_000_000:
            return time.ToDatetime(timezone.utc)
        self.fail("after_time", "must be a time of the years 1 to 9999, with nanos from 0 to 999,999,999")
        return None

    def page_size(self, field: str = "page_size") -> int:
        """Reads a field with the maximum number of items in a response."""
        page_size: int = getattr(self._request, field)
        if not 0 <= page_size <= MAX_PAGE_SIZE:
            self.fail(field, f"must be from 1 to {MAX_PAGE_SIZE:,}, or 0 for the default, not {page_size}")
        return page_size or DEFAULT_PAGE_SIZE

    def after_index(self) -> int | None:
        """Reads `page_token`, and returns the index of the last message before the page."""
        position = self._position()
        if position is not None and len(position) != INDEX_BYTES:
            self.fail("page_token", NEXT_PAGE_RULE)
        return None if position is None else int.from_bytes(position, "big")

    def position(self) -> str:
        """Reads `page_token`, and returns the position of the page in the store, or an empty text for the first one."""
        try:
            return (self._position() or b"").decode()
        except UnicodeDecodeError:
            self.fail("page_token", NEXT_PAGE_RULE)
            return ""

    def _position(self) -> bytes | None:
        if not self._request.page_token:
            return None
        position = parse_page_token(self._request)
        if position is None:
            self.fail("page_token", NEXT_PAGE_RULE)
        return position

    def chat_model(self) -> str | None:
        """Reads `chat_model`."""
        chat_model: str = self._request.chat_model
        if len(chat_model) > MAX_CHAT_MODEL_CHARACTERS:
            self.fail("chat_model", f"must have at most {MAX_CHAT_MODEL_CHARACTERS} characters, not {len(chat_model)}")
        if _CONTROL.search(chat_model):
            self.fail("chat_model", "must have no control characters")
        return chat_model or None

    def number(self, field: str, allowed: Interval) -> float | None:
        """Reads an optional number."""
        if not self._request.HasField(field):
            return None
        number: float = getattr(self._request, field)
        if number not in allowed:
            self.fail(field, f"must be {allowed}, not {number:g}")
        return number

    def max_tokens(self) -> int | None:
        """Reads `max_tokens`."""
        if not self._request.HasField("max_tokens"):
            return None
        max_tokens: int = self._request.max_tokens
        if max_tokens < 1:
            self.fail("max_tokens", f"must be 1 or more, not {max_tokens}")
        return max_tokens

    def max_messages(self) -> int | None:
        """Reads `history.max_messages`."""
        history: pb.History = self._request.history
        if not history.HasField("max_messages"):
            return None
        if history.max_messages not in HISTORY_MESSAGES:
            self.fail("history.max_messages", f"must be {HISTORY_MESSAGES}, not {history.max_messages}")
        return history.max_messages

    def request_id(self, *, is_required: bool = False) -> str:
        """Reads `request_id`."""
        request_id: str = self._request.request_id
        if (is_required or request_id) and not _REQUEST_ID.fullmatch(request_id):
            self.fail("request_id", f"must be 1 to {MAX_REQUEST_ID_CHARACTERS} visible ASCII characters")
        return request_id
