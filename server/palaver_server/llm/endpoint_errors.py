"""Reading the errors of endpoints, whatever their form.

One function understands them all: the object of OpenAI, the same in an array, `detail` of FastAPI, problem details,
plain text, the HTML of a proxy, an error with the status 200, and an error event within a stream.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

MAX_DEPTH = 12
"""How deep an error may be nested, for instance in the JSON text of another error's message."""

MAX_RETRY_AFTER = 7 * 24 * 3600.0
"""The longest pause that is believed, in seconds."""


@dataclass(frozen=True, slots=True)
class EndpointError:
    """An error of an endpoint, read from any form."""

    message: str = ""
    codes: frozenset[str] = frozenset()
    """The codes, types and reasons in it, in lower case."""
    status: int | None = None
    """The HTTP status that it names itself, which may differ from that of the response."""
    parameter: str = ""
    """The parameter that it names."""
    retry_after: float | None = None
    """The seconds that it asks to wait."""


@dataclass(slots=True)
class _Facts:
    messages: list[str] = field(default_factory=list)
    codes: set[str] = field(default_factory=set)
    status: int | None = None
    parameter: str = ""
    retry_after: float | None = None


def read_error(body: object, headers: Mapping[str, str] | None = None) -> EndpointError:
    """Reads an error from the body of a response: text, bytes or decoded JSON."""
    facts = _Facts()
    _collect(body, facts, MAX_DEPTH)
    message = " ".join(dict.fromkeys(filter(None, facts.messages)))
    retry_after = _retry_after_header(headers or {})
    if retry_after is None:
        retry_after = facts.retry_after if facts.retry_after is not None else _retry_after_text(message)
    return EndpointError(message, frozenset(facts.codes), facts.status, facts.parameter, retry_after)


def _collect(value: object, facts: _Facts, depth: int) -> None:
    if not depth:
        return
    match value:
        case bytes():
            _collect(value.decode("utf-8", "replace"), facts, depth)
        case str():
            _collect_text(value, facts, depth)
        case Mapping():
            _collect_object(value, facts, depth)
        case list() | tuple():
            for item in value[:5]:
                _collect(item, facts, depth - 1)


def _collect_text(text: str, facts: _Facts, depth: int) -> None:
    text = text.strip()
    if text.startswith("data:"):
        text = text[5:].strip()
    if text[:1] in ("{", "["):
        try:
            _collect(json.loads(text), facts, depth - 1)
        except (ValueError, RecursionError):
            pass
        else:
            return
    if re.match(r"<(!doctype|html|\?xml|head|body)", text, re.IGNORECASE):
        text = _text_of_html(text)
    if text:
        facts.messages.append(text)


def _text_of_html(page: str) -> str:
    """Returns the title of a page, or else its first words. The pages of proxies say no more than that."""
    title = re.search(r"<title[^>]*>(.*?)</title>", page, re.IGNORECASE | re.DOTALL)
    text = title.group(1) if title else re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", page[:10_000], flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", text)).strip()[:200]


def _collect_object(error: Mapping[str, object], facts: _Facts, depth: int) -> None:
    for name in ("code", "type", "status", "reason", "statusCode", "error_code", "errorCode"):
        _collect_code(error.get(name), facts)
    parameter = error.get("param")
    if isinstance(parameter, str):
        facts.parameter = facts.parameter or parameter
    location = error.get("loc")
    if isinstance(location, list) and location:
        facts.parameter = facts.parameter or str(location[-1])
        facts.messages.append(".".join(map(str, location)) + ":")
    for name in ("retryDelay", "retry_after", "retryAfter"):
        if facts.retry_after is None:
            facts.retry_after = _seconds(error.get(name))
    for name in ("error", "errors", "message", "msg", "detail", "details", "title", "error_description", "innererror",
                 "inner_error", "metadata", "raw"):  # fmt: skip
        if name in error:
            _collect(error[name], facts, depth - 1)


def _collect_code(code: object, facts: _Facts) -> None:
    if isinstance(code, bool):
        return
    if isinstance(code, float) and code.is_integer():
        code = int(code)
    if isinstance(code, int) or (isinstance(code, str) and code.isascii() and code.isdigit() and len(code) < 9):
        if 400 <= int(code) < 600 and facts.status is None:
            facts.status = int(code)
        facts.codes.add(str(code))
    elif isinstance(code, str):
        facts.codes.add(code.lower())


def _seconds(value: object) -> float | None:
    """Returns a pause given as a number of seconds, as text ("17s"), or as an object of seconds and nanos."""
    if isinstance(value, Mapping):
        value = value.get("seconds")
    if isinstance(value, str):
        value = value.strip().removesuffix("s")
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return _believable(seconds)


def _believable(seconds: float) -> float | None:
    return seconds if 0 <= seconds <= MAX_RETRY_AFTER else None


def _retry_after_text(message: str) -> float | None:
    """Returns the pause that the wording of an error asks for: "try again in 6m0.5s", "retry after 45 seconds"."""
    found = re.search(
        r"(?:try again|retry)(?:ing)?\s+(?:in|after)\s+(?:(\d+)\s*h)?\s*(?:(\d+)\s*m(?!s))?(?:in\w*)?\s*"
        r"(?:(\d+(?:\.\d+)?)\s*(ms|s))?",
        message,
        re.IGNORECASE,
    )
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds, unit = found.groups()
    last = float(seconds or 0) * (0.001 if unit and unit.lower() == "ms" else 1)
    return _believable(int(hours or 0) * 3600.0 + int(minutes or 0) * 60.0 + last)


def _retry_after_header(headers: Mapping[str, str]) -> float | None:
    """Returns the pause of a header, in seconds, or None.

    `Retry-After` has seconds or a date; `retry-after-ms`, which OpenAI and Azure send, is more precise.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return _believable(float(value) * unit)
        except ValueError:
            pass
        try:
            date = parsedate_to_datetime(value)
        except (ValueError, IndexError, OverflowError):
            continue
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        return _believable(max(0.0, (date - datetime.now(timezone.utc)).total_seconds()))
    return None
