"""Compares what a runner reports with the expectations of a scenario."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Bindings = dict[str, Any]
"""The value of each `$name`, from its first occurrence."""


def differences(expected: Any, actual: Any, bindings: Bindings, path: str) -> Iterator[str]:
    """Yields a line for each difference.

    A dictionary may have more keys than expected; a list must have the same length. None stands for a missing value,
    `$name` for the same value everywhere in a scenario, and `/…/` for any text that the regular expression matches.
    """
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key, value in expected.items():
            yield from differences(value, actual.get(key), bindings, f"{path}.{key}")
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        for index, (one, other) in enumerate(zip(expected, actual, strict=True)):
            yield from differences(one, other, bindings, f"{path}[{index}]")
    elif isinstance(expected, str) and isinstance(actual, str | int | float) and _is_pattern(expected):
        if not re.search(expected[1:-1], str(actual)):
            yield _line(path, expected, actual)
    elif isinstance(expected, str) and expected.startswith("$") and actual is not None:
        if bindings.setdefault(expected, actual) != actual:
            yield _line(path, f"{expected} = {bindings[expected]}", actual)
    elif expected != actual or isinstance(expected, bool) is not isinstance(actual, bool):
        yield _line(path, expected, actual)


def _is_pattern(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] == "/"


def _line(path: str, expected: Any, actual: Any) -> str:
    return f"{path}: expected {_short(expected)}, got {_short(actual)}"


def _short(value: Any, limit: int = 600) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]} ({len(text)} characters)"
