"""The identifiers of skill calls, which are also their idempotency keys."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

from palaver_server.domain import strict_json
from palaver_server.domain.conversation import SkillCall, skill_name

MAX_REPEATS = 8
"""The maximum number of objects in the arguments of a call, which some endpoints repeat."""


class CallIdGenerator:
    """Generates the identifiers of the calls of a turn.

    A turn that runs again after a crash gives the same call the same identifier, regardless of the id from the model. A
    skill host can therefore tell a repeated call from a new one.
    """

    def __init__(self, *turn: str) -> None:
        """Takes the values that together identify the turn."""
        self._turn = turn
        self._seen: Counter[tuple[str, str]] = Counter()

    def identify(self, name: str, arguments: str) -> tuple[SkillCall, str]:
        """Returns a call with an identifier, and an error message for the model if the arguments are invalid.

        The call's name and arguments are always valid for endpoints and for the Azure Functions extension, which read
        them later.
        """
        name = skill_name(name)
        error = ""
        try:
            value, arguments = _object(arguments)
            canonical = json.dumps(value, sort_keys=True)
        except ValueError as problem:
            error = f"The arguments are not the JSON text of an object: {problem}"
            canonical = arguments
        self._seen[name, canonical] += 1
        identity = json.dumps([*self._turn, name, canonical, self._seen[name, canonical]])
        call_id = f"call_{hashlib.sha256(identity.encode()).hexdigest()[:32]}"
        return SkillCall(call_id, name, "{}" if error else arguments or "{}"), error


def _object(text: str) -> tuple[dict[str, Any], str]:
    """Returns the arguments as an object and as JSON text; raises `ValueError`."""
    text = text if text.strip() else "{}"
    try:
        value = strict_json.load(text)
    except ValueError:
        value = _repaired(text)
        if value is None:
            raise
        text = json.dumps(value)
        return strict_json.load_object(text), text
    if isinstance(value, str):
        return _object(value)  # the text was encoded twice, at worst a few times
    if value in (None, []):
        return {}, "{}"  # what some languages write for an empty object
    return strict_json.load_object(text), text


def _repaired(text: str) -> dict[str, Any] | None:
    """Returns the arguments in a text that is not quite JSON, if there is no doubt about them.

    Some models write line breaks into strings as they are. Some endpoints begin a call with an empty object in place of
    the arguments, which follow, or send an object whole once more.
    """
    decoder = json.JSONDecoder(strict=False)
    found: dict[str, Any] = {}
    for _ in range(MAX_REPEATS):
        text = text.lstrip()
        if not text:
            return found
        try:
            value, end = decoder.raw_decode(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict) or (value and found and value != found):
            return None
        found, text = found or value, text[end:]
    return None
