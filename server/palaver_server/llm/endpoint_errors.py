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

from palaver_server.domain.conversation import sound
from palaver_server.domain.limits import MAX_REFUSAL_BYTES
from palaver_server.llm import pauses

MAX_MESSAGE_CHARACTERS = 2_000
"""The most characters of an error's words that count. The expressions that search them take quadratic time."""

OF_KEYS = "".join(map(chr, range(33, 127)))
"""The characters that a key may have: all of ASCII that can be seen."""

MAX_DEPTH = 12
"""How deep an error may be nested, for instance in the JSON text of another error's message."""


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
    if isinstance(body, (str, bytes)):
        body = body[:MAX_REFUSAL_BYTES]
    facts = _Facts()
    _collect(body, facts, MAX_DEPTH)
    message = sound(_shortened(" ".join(dict.fromkeys(filter(None, facts.messages))) or _whole(body)))
    retry_after = pauses.of_headers(headers or {})
    if retry_after is None:
        retry_after = facts.retry_after if facts.retry_after is not None else pauses.of_text(message)
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
    if text.startswith(("data:", "event:", "error:")):
        data = re.search(r"^(?:data|error):(.*)", text, re.MULTILINE)  # an event of a stream
        text = data.group(1).strip() if data else text
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


def _shortened(text: str) -> str:
    """Returns the beginning of a text, up to the end of a word: half a key could not be recognised as one."""
    return text if len(text) <= MAX_MESSAGE_CHARACTERS else text[:MAX_MESSAGE_CHARACTERS].rstrip(OF_KEYS)


def _whole(body: object) -> str:
    """Returns the JSON of an error whose words stand under unusual names, so that they arrive all the same."""
    if isinstance(body, (str, bytes)):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return ""
    try:
        return json.dumps(body, ensure_ascii=False) if body and isinstance(body, (Mapping, list)) else ""
    except (TypeError, ValueError, RecursionError):
        return ""


def _text_of_html(page: str) -> str:
    """Returns the title of a page, or else its first words. The pages of proxies say no more than that."""
    # Not one expression: it would take quadratic time on a page of beginnings without ends.
    opened = re.split(r"<title", page, maxsplit=1, flags=re.IGNORECASE)
    closed = re.split(r"</title>", opened[-1].partition(">")[2], maxsplit=1, flags=re.IGNORECASE)
    if len(opened) == len(closed) == 2:
        text = closed[0]
    else:
        text = re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", page[:MAX_MESSAGE_CHARACTERS], flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", text)).strip()[:200]


def _collect_object(error: Mapping[str, object], facts: _Facts, depth: int) -> None:
    for name in ("code", "type", "status", "reason", "statusCode", "status_code", "error_code", "errorCode"):
        _collect_code(error.get(name), facts)
    parameter = error.get("param")
    if isinstance(parameter, str):
        facts.parameter = facts.parameter or parameter
    location = error.get("loc")
    if isinstance(location, list) and location:
        path = [str(part) for part in location if isinstance(part, (str, int))]
        facts.parameter = facts.parameter or "".join(path[-1:])
        facts.messages.append(".".join(path) + ":")
    if facts.retry_after is None:
        facts.retry_after = pauses.of_object(error)
    for name in ("error", "errors", "message", "Message", "msg", "detail", "details", "title", "error_description",
                 "error_msg", "errorMessage", "status_msg", "innererror", "inner_error", "metadata", "raw", "base_resp",
                 "response", "choices"):  # fmt: skip
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
