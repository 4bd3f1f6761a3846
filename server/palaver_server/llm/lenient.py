"""Reading chunks whose fields are not of the usual types.

Compatible endpoints send text as lists of parts, arguments as objects, counts as floats and indexes as strings. A field
of another type must not cost the caller a paid reply, so this module converts what it can and drops the rest. It works
on decoded JSON and costs several times the decoder for the usual types, which is why it only runs when that one fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from palaver_server.domain.conversation import sound
from palaver_server.domain.limits import MAX_ENDPOINT_STATE_CHARACTERS

HIGH_SURROGATES = range(0xD800, 0xDC00)
MAX_DIGITS = 300
"""Python refuses to convert longer integers than a few thousand digits."""

MAX_BYTES = 1024 * 1024
"""The largest event that is read leniently, which takes ten times as long as the decoder for the usual types."""

MAX_ITEMS = 4_096
"""The most items of a list that are read. A content has a few parts, and a reply a few calls."""

TEXT_KEYS = ("text", "content", "value", "parts")
REASONING_PARTS = frozenset({"thinking", "reasoning", "reasoning_text", "reasoning.text", "summary_text"})


def decode(data: bytes) -> Any:
    """Decodes JSON, lone surrogates and NaN included; raises `ValueError` or `RecursionError`."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"the event has more than {MAX_BYTES:,} bytes")
    try:
        text = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")  # a character that was cut costs no more than itself
    return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> float:
    return int(digits) if len(digits) < MAX_DIGITS else float(digits)


def _without_depths(read: Callable[[object], str]) -> Callable[[object], str]:
    """Makes a function that reads nested values leave out what is nested too deeply for it."""

    @wraps(read)
    def guarded(value: object) -> str:
        try:
            return read(value)
        except RecursionError:
            return ""

    return guarded


@_without_depths
def text_of(content: object) -> str:
    """Returns the text of a content, which may be a string, a part or a list of parts. Reasoning is left out."""
    match content:
        case str():
            return content
        case Mapping():
            if _is_reasoning(content):
                return ""
            return next((text_of(content[name]) for name in TEXT_KEYS if content.get(name) is not None), "")
        case Sequence():
            return "".join(map(text_of, content[:MAX_ITEMS]))
        case bool():
            return ""
        case int() | float():
            return json.dumps(content)
        case _:
            return ""


def _is_reasoning(part: Mapping[str, Any]) -> bool:
    # Gemini marks the parts that are thoughts with a field of this name.
    return part.get("type") in REASONING_PARTS or "thinking" in part or part.get("thought") is True


@_without_depths
def reasoning_of(content: object) -> str:
    """Returns the reasoning among the parts of a content."""
    match content:
        case Mapping():
            if not _is_reasoning(content):
                return ""
            parts = (content.get(name) for name in ("thinking", "reasoning", "text", "summary"))
            return next((text for part in parts if (text := plain_text_of(part))), "")
        case Sequence() if not isinstance(content, str):
            return "".join(map(reasoning_of, content[:MAX_ITEMS]))
        case _:
            return ""


@_without_depths
def plain_text_of(value: object) -> str:
    """Returns all text of a value that is known to be reasoning."""
    match value:
        case str():
            return value
        case Mapping():
            parts = (value.get(name) for name in ("text", "content", "summary"))
            return next((text for part in parts if (text := plain_text_of(part))), "")
        case Sequence():
            return "".join(map(plain_text_of, value[:MAX_ITEMS]))
        case _:
            return ""


def arguments_of(value: object) -> str:
    """Returns the arguments of a call as text. Some endpoints send the object itself."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def state_of(value: object) -> object:
    """Returns a state that can be stored and sent back as JSON, or None for any other value."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (ValueError, RecursionError):
        return None
    return value if len(text) <= MAX_ENDPOINT_STATE_CHARACTERS else None


def string_of(value: object) -> str:
    """Returns a name or an identifier."""
    match value:
        case str():
            return sound(value)
        case bool() | None:
            return ""
        case int() | float():
            return str(value)
        case Mapping():
            return string_of(value.get("type"))
        case _:
            return ""


def integer_of(value: object) -> int | None:
    """Returns a whole number, or None for any other value."""
    match value:
        case bool() | None:
            return None
        case int():
            return value
        case float() | str():
            try:
                return int(float(value))
            except (ValueError, OverflowError):
                return None
        case _:
            return None


def object_of(value: object) -> Mapping[str, Any]:
    """Returns a JSON object, or an empty one for any other value."""
    return value if isinstance(value, Mapping) else {}


def list_of(value: object) -> Sequence[Any]:
    """Returns a JSON array. A single object counts as an array of one."""
    match value:
        case Mapping():
            return (value,)
        case Sequence() if not isinstance(value, str):
            return value[:MAX_ITEMS]
        case _:
            return ()


class SurrogatePairs:
    """Joins the halves of surrogate pairs that two pieces share, and replaces halves without a partner."""

    def __init__(self) -> None:
        self._high = ""

    def add(self, text: str) -> str:
        """Returns the text that is complete with this piece."""
        text, self._high = self._high + text, ""
        if text and ord(text[-1]) in HIGH_SURROGATES:
            text, self._high = text[:-1], text[-1]
        return sound(text)

    @property
    def is_open(self) -> bool:
        """True if the last piece ended with the first half of a pair."""
        return bool(self._high)
