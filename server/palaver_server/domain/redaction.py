"""Texts without secrets, for logs and for callers.

Settings and the errors of libraries quote what they were given: URLs with a signature or a password in them, connection
strings, headers, keys. The forms of such secrets are known, so that no place needs to know what a text may hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

MIN_SECRET_CHARACTERS = 8
"""A shorter secret that is a word, such as "none", is a placeholder. To redact it would damage ordinary words."""

KEY = re.compile(
    r"\b(?:sk|xai|pplx|nvapi)-[\w*-]{4,}"
    r"|\bkey-(?=[\w*-]{0,99}[\d*])[\w*-]{4,}"  # ordinary words have no digit
    r"|\b(?:gsk|hf|sk|csk|fw|r8)_\w{8,}"
    r"|\bAIza[\w-]{10,}"
    r"|\beyJ[\w.-]{8,}"
    r"|(?<![\w-])[\w-]+\*{2,}[\w*-]*"  # a key that the endpoint itself has masked, but for its ends
)
"""A text in the form of an endpoint's key or of a JSON Web Token."""

_NAMES = (
    r"account_?key|(?:shared)?_?access_?key|shared_?access_?signature|sig|api[-_]?key|subscription-key|"
    r"(?:access|refresh|id|auth)_?token|(?:client)?_?secret|password|passwd|pwd"
)
# The expressions take linear time, or nearly: a log line may have any length.
_FORMS = (
    (re.compile(r"-----BEGIN [\s\S]*?(?:-----END [^-]*-----|\Z)"), "[key]"),
    # The user part of a URL may itself hold what looks like the end of one.
    (re.compile(r"\b([a-z][a-z0-9+.-]{0,19}://)[^\s'\"<>]{0,999}@", re.IGNORECASE), r"\1[user]@"),
    (re.compile(r"\b([a-z][a-z0-9+.-]{0,19}://[^\s'\"<>?#]{0,999})[?#][^\s'\"<>]*", re.IGNORECASE), r"\1?[query]"),
    (re.compile(rf"\b((?:{_NAMES})['\"]?\s*[=:]\s*['\"]?)[^\s'\"&;,]+", re.IGNORECASE), r"\1[secret]"),
    (re.compile(r"\b(bearer|sharedkey(?:lite)?)\s+(?=\S*\d)[\w.~+/=:-]{8,}", re.IGNORECASE), r"\1 [secret]"),
    (KEY, "[key]"),
)

_HINT = re.compile(
    r"-----BEGIN|[=:]|bearer|sharedkey|sk[-_]|(?:xai|pplx|nvapi|key)-|(?:gsk|hf|fw|r8)_|AIza|eyJ|\*\*", re.IGNORECASE
)
"""A part of every text that has one of the forms. Most texts have none of these parts, and are searched once."""

_SECRET_VARIABLE = re.compile(r"(?<!_TLS)(?:^|[^a-z])(?:api)?(?:key|token|secret|password)$", re.IGNORECASE)
"""The names of variables that hold a secret, except PALAVER_TLS_KEY, which holds the path of a file."""

_SECRET_PART = re.compile(rf"\b(?:{_NAMES})=([^;\s]+)", re.IGNORECASE)


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """Returns a text with its secrets replaced: what has the form of one, and those that are given."""
    for secret in secrets:
        text = text.replace(secret, "[secret]")
    if _HINT.search(text) is None:
        return text
    for form, replacement in _FORMS:
        text = form.sub(replacement, text)
    return text


def secrets_in(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the secrets that environment variables hold: the values of keys, and parts of connection strings."""
    found = {value.strip() for name, value in environment.items() if _SECRET_VARIABLE.search(name)}
    for value in environment.values():
        found.update(_SECRET_PART.findall(value))
    # Longest first, so that no part of one is left over.
    return tuple(sorted(filter(_is_secret, found), key=len, reverse=True))


def _is_secret(value: str) -> bool:
    return len(value) >= MIN_SECRET_CHARACTERS and not value.isalpha()
