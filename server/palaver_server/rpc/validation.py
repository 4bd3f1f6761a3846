"""The rules for request fields. All violations of a request are collected, then raised as one `InvalidFields`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from palaver_server.engine import schemas
from palaver_server.engine.limits import MAX_MESSAGE_UNITS, utf16_units
from palaver_server.engine.skills import MAX_NAME_LENGTH
from palaver_server.errors import FieldViolation, InvalidFields
from palaver_server.stores.store import MAX_MESSAGES

MAX_ID_LENGTH = 255
MAX_CHAT_MODEL_LENGTH = 256
MAX_REQUEST_ID_LENGTH = 128
MAX_PAGE_SIZE = 1000
MAX_CALLER_SKILLS = 128
"""As many as OpenAI takes."""

MAX_SCHEMAS_LENGTH = 32_768
"""Characters of the schemas of a request. To check that many takes about a tenth of a second."""

MAX_WORDS = 300
SKILL_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME_LENGTH}}}")

_FORBIDDEN_IN_ID = re.compile(r"[/\\#?\x00-\x1f\x7f-\x9f]")
_COLLECTION_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{2,62}")
_RESERVED_COLLECTION = "tables"
_REQUEST_ID = re.compile(rf"[!-~]{{1,{MAX_REQUEST_ID_LENGTH}}}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MAX_SECONDS = 253_402_300_799  # the end of the year 9999, where google.protobuf.Timestamp ends
_MIN_SECONDS = -62_135_596_800  # the beginning of the year 1

T = TypeVar("T")


class Checks:
    """Checks the fields of one request and remembers what is wrong."""

    def __init__(self, request: Message) -> None:
        self._request: Any = request
        self._violations: list[FieldViolation] = []

    def fail(self, field: str, description: str) -> None:
        """Adds a violation."""
        self._violations.append(FieldViolation(field, description))

    def finish(self) -> None:
        """Raises all violations at once, if there are any."""
        if self._violations:
            raise InvalidFields(*self._violations)

    def assistant(self) -> None:
        """Checks `id` and `collection_name`. The connection is checked by those who know which there are."""
        assistant_id = self._request.id
        if not 1 <= len(assistant_id) <= MAX_ID_LENGTH:
            self.fail("id", f"must have 1 to {MAX_ID_LENGTH} characters, not {len(assistant_id)}")
        if _FORBIDDEN_IN_ID.search(assistant_id):
            self.fail("id", r"must have none of the characters / \ # ? and no control characters")
        collection = self._request.collection_name
        if collection and (not _COLLECTION_NAME.fullmatch(collection) or collection.lower() == _RESERVED_COLLECTION):
            self.fail(
                "collection_name",
                f'must be 3 to 63 ASCII letters and digits, the first one a letter, and not "{_RESERVED_COLLECTION}"',
            )

    def text(self, field: str) -> None:
        """Checks that a text can be stored as one message."""
        units = utf16_units(getattr(self._request, field))
        if units > MAX_MESSAGE_UNITS:
            self.fail(field, f"must have at most {MAX_MESSAGE_UNITS:,} UTF-16 code units, not {units:,}")

    def user_message(self) -> None:
        """Checks `user_message`."""
        if self._request.user_message and self._request.skill_results:
            self.fail("user_message", "must be empty when there are skill_results")
        elif not (self._request.user_message or self._request.skill_results):
            self.fail("user_message", "must not be empty")
        self.text("user_message")

    def skills(self) -> None:
        """Checks `caller_skills`, `skill_names` and `skill_results`."""
        request = self._request
        if len(request.caller_skills) > MAX_CALLER_SKILLS:
            self.fail("caller_skills", f"must be at most {MAX_CALLER_SKILLS}, not {len(request.caller_skills)}")
        schemas_length = sum(len(skill.parameters_json_schema) for skill in request.caller_skills)
        if schemas_length > MAX_SCHEMAS_LENGTH:
            words = f"must have schemas of at most {MAX_SCHEMAS_LENGTH:,} characters in all, not {schemas_length:,}"
            self.fail("caller_skills", words)
            return
        for number, skill in enumerate(request.caller_skills):
            path = f"caller_skills[{number}]"
            if not SKILL_NAME.fullmatch(skill.name):
                self.fail(f"{path}.name", "must be 1 to 64 ASCII letters, digits, _ and -")
            if wrong := schemas.problem(skill.parameters_json_schema):
                self.fail(f"{path}.parameters_json_schema", f"{wrong[:MAX_WORDS]}")
        self._unique("caller_skills", "name")
        self._unique("skill_results", "id")
        for number, result in enumerate(request.skill_results):
            path = f"skill_results[{number}]"
            if result.WhichOneof("outcome") is None:
                self.fail(path, "must have a content or an error")
            for field in ("content", "error"):
                units = utf16_units(getattr(result, field))
                if units > MAX_MESSAGE_UNITS:
                    self.fail(
                        f"{path}.{field}", f"must have at most {MAX_MESSAGE_UNITS:,} UTF-16 code units, not {units:,}"
                    )

    def _unique(self, field: str, part: str) -> None:
        values = [getattr(item, part) for item in getattr(self._request, field)]
        for number, value in enumerate(values):
            if value in values[:number]:
                self.fail(f"{field}[{number}].{part}", f"must not be given twice: {value[:MAX_WORDS]!r}")

    def enum(self, field: str, known: Mapping[int, T]) -> T | None:
        """Returns what the number of an enum field stands for."""
        number = getattr(self._request, field)
        if number not in known:
            self.fail(field, f"must be a known value ({', '.join(map(str, known))}), not {number}")
        return known.get(number)

    def after_time(self) -> None:
        """Checks `after_time`."""
        time: Timestamp = self._request.after_time
        if not (_MIN_SECONDS <= time.seconds <= _MAX_SECONDS and 0 <= time.nanos < 1_000_000_000):
            self.fail("after_time", "must be a time of the years 1 to 9999, with nanos from 0 to 999,999,999")

    def page_size(self) -> None:
        """Checks `page_size`."""
        if not 0 <= self._request.page_size <= MAX_PAGE_SIZE:
            self.fail(
                "page_size", f"must be from 1 to {MAX_PAGE_SIZE:,}, or 0 for the default, not {self._request.page_size}"
            )

    def sampling(self) -> None:
        """Checks the model and its parameters."""
        request = self._request
        if len(request.chat_model) > MAX_CHAT_MODEL_LENGTH:
            self.fail(
                "chat_model", f"must have at most {MAX_CHAT_MODEL_LENGTH} characters, not {len(request.chat_model)}"
            )
        if _CONTROL.search(request.chat_model):
            self.fail("chat_model", "must have no control characters")
        # A NaN is in no interval, so these comparisons refuse it too.
        if request.HasField("temperature") and not 0 <= request.temperature <= 2:
            self.fail("temperature", f"must be from 0 to 2, not {request.temperature:g}")
        if request.HasField("top_p") and not 0 < request.top_p <= 1:
            self.fail("top_p", f"must be greater than 0 and at most 1, not {request.top_p:g}")
        if request.HasField("max_tokens") and request.max_tokens < 1:
            self.fail("max_tokens", f"must be 1 or more, not {request.max_tokens}")

    def history(self) -> None:
        """Checks `history`."""
        history = self._request.history
        if history.HasField("max_messages") and not 0 <= history.max_messages <= MAX_MESSAGES:
            self.fail("history.max_messages", f"must be from 0 to {MAX_MESSAGES:,}, not {history.max_messages}")

    def request_id(self, *, required: bool) -> None:
        """Checks `request_id`."""
        request_id = self._request.request_id
        if (required or request_id) and not _REQUEST_ID.fullmatch(request_id):
            self.fail("request_id", f"must be 1 to {MAX_REQUEST_ID_LENGTH} visible ASCII characters")
