"""The pauses that endpoints ask for: in headers, in the fields of an error, or in its words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER = 7 * 24 * 3600.0
"""The longest pause that is believed, in seconds."""

UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_NUMBER_AND_UNIT = (
    r"(\d{1,12}(?:\.\d{1,12})?)\s{0,3}"
    r"(ms|millisec(?:ond)?s?|d(?:ays?)?|h(?:ours?|rs?)?|m(?:in(?:ute)?s?)?|s(?:ec(?:ond)?s?)?)(?![a-z])"
)
"""No part of it can match in two ways, or a long text of numbers would take exponential time."""
_DURATION = rf"{_NUMBER_AND_UNIT}(?:(?:\s|,|and){{0,4}}{_NUMBER_AND_UNIT}){{0,5}}"
_WORDS = re.compile(
    rf"(?:try again|retry(?:ing)?(?:[- ]after)?|wait)\W{{1,9}}(?:(?:in|after|for|at least)\s{{1,3}}){{0,3}}"
    rf"({_DURATION}|\d{{1,12}}(?!\S*\d))",
    re.IGNORECASE,
)

MAX_HEADER_CHARACTERS = 64
"""A longer header has no pause. Reading dates takes quadratic time."""

RESETS = ("", "-requests", "-tokens")
"""The endings of the headers `x-ratelimit-remaining…` and `x-ratelimit-reset…`."""

FIRST_EPOCH = 1e9
"""A larger number is a time since 1970, in seconds, or in milliseconds if it is a thousand times larger."""


def of_object(error: Mapping[str, object]) -> float | None:
    """Returns the pause in the fields of an error, in seconds, or None."""
    for name, unit in (("retryDelay", 1.0), ("retry_after", 1.0), ("retryAfter", 1.0), ("retry_after_seconds", 1.0),
                       ("retry_after_ms", 0.001), ("retryAfterMs", 0.001)):  # fmt: skip
        if (seconds := _seconds(error.get(name), unit)) is not None:
            return seconds
    headers = error.get("headers")  # OpenRouter passes those of the provider on
    if isinstance(headers, Mapping):
        return of_headers({str(name).lower(): str(value) for name, value in headers.items()})
    return None


def of_text(message: str) -> float | None:
    """Returns the pause that the wording of an error asks for: "try again in 6m0.5s", "retry after 45 seconds"."""
    found = _WORDS.search(message[:10_000])
    return None if found is None else _duration(found.group(1))


def of_headers(headers: Mapping[str, str]) -> float | None:
    """Returns the pause of the headers, in seconds, or None.

    `Retry-After` has seconds or a date; `retry-after-ms`, which OpenAI and Azure send, is more precise.
    """
    for name, unit in (("retry-after-ms", 0.001), ("x-ms-retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None or len(value) > MAX_HEADER_CHARACTERS:
            continue
        seconds = _seconds(value, unit)
        if seconds is None:
            seconds = _until_date(value)
        if seconds is not None:
            return seconds
    return _until_reset(headers)


def _until_reset(headers: Mapping[str, str]) -> float | None:
    """Returns the time until the last of the exhausted limits is reset."""
    pauses = []
    for kind in RESETS:
        if headers.get(f"x-ratelimit-remaining{kind}", "").strip() == "0":
            seconds = _seconds(headers.get(f"x-ratelimit-reset{kind}"), 1.0)
            if seconds is not None:
                pauses.append(seconds)
    return max(pauses, default=None)


def _until_date(value: str) -> float | None:
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, IndexError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return _believable(max(0.0, (date - datetime.now(timezone.utc)).total_seconds()))


def _seconds(value: object, unit: float) -> float | None:
    """Returns a pause given as a number, as text ("17s"), as a time since 1970, or as an object of seconds."""
    if isinstance(value, Mapping):
        value = value.get("seconds")
    if isinstance(value, bool):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return _duration(value.strip()) if isinstance(value, str) else None
    if number > FIRST_EPOCH:
        number = number / 1000 if number > FIRST_EPOCH * 1000 else number
        return _believable(max(0.0, number - datetime.now(timezone.utc).timestamp()))
    return _believable(number * unit)


def _duration(text: str) -> float | None:
    """Returns the seconds of "1h2m3.5s", "450ms", "1 minute and 30 seconds" or "7"."""
    if text.isascii() and text.isdigit():
        return _believable(float(text))
    if not re.fullmatch(_DURATION, text, re.IGNORECASE):
        return None
    parts = re.findall(_NUMBER_AND_UNIT, text, re.IGNORECASE)
    return _believable(sum(float(number) * _unit(name.lower()) for number, name in parts))


def _unit(name: str) -> float:
    return UNITS["ms" if name.startswith(("ms", "millisec")) else name[0]]


def _believable(seconds: float) -> float | None:
    return seconds if 0 <= seconds <= MAX_RETRY_AFTER else None
