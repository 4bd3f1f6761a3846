"""Quoting an endpoint's words without the secrets in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from urllib.parse import quote as percent_encoded

from palaver_server.domain.redaction import KEY, MIN_SECRET_CHARACTERS

MAX_QUOTED_CHARACTERS = 400
"""The most characters of an endpoint's own words that callers receive."""

LABELLED = re.compile(
    r"(\bBearer\s+|\b(?:x-)?(?:api|subscription)[-_ ]?key[\"'`]?\s*[:=]\s*[\"'`]?)(?=[\w.~+/=-]*\d)[\w.~+/=-]{8,}",
    re.IGNORECASE,
)
"""A key with a label. The digit tells it from an ordinary word."""


def quote(text: str, secret: str) -> str:
    """Returns an endpoint's words as callers may read them: short, and without keys and addresses."""
    text = _without(secret, text)
    text = LABELLED.sub(r"\1[key]", KEY.sub("[key]", text))
    text = re.sub(r"\b[a-z]+://\S+", "[address]", text)
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= MAX_QUOTED_CHARACTERS else text[: MAX_QUOTED_CHARACTERS - 1] + "…"


def _without(secret: str, text: str) -> str:
    if len(secret) >= MIN_SECRET_CHARACTERS:
        text = re.sub("|".join(map(re.escape, _spellings(secret))), "[key]", text, flags=re.IGNORECASE)
        return re.sub(r"([\w-]{2,})(?:\.{2,}|…|\*+)([\w-]+)", lambda found: _without_ends(secret, found), text)
    if not secret or secret.isalpha():
        return text
    return re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "[key]", text)


def _without_ends(secret: str, found: re.Match[str]) -> str:
    """Returns a text that an endpoint has shortened, unless its ends are those of the key."""
    head, tail = (end.lower() for end in found.groups())
    is_key = secret.lower().startswith(head) and secret.lower().endswith(tail)
    return "[key]" if is_key else found.group()


def _spellings(secret: str) -> Iterable[str]:
    """Returns the forms in which a key may stand in a message, longest first: in JSON and in an address."""
    in_json = json.dumps(secret)[1:-1]
    forms = {secret, in_json, in_json.replace("/", "\\/"), json.dumps(in_json)[1:-1], percent_encoded(secret, safe=""),
             percent_encoded(secret)}  # fmt: skip
    return sorted(forms, key=len, reverse=True)
