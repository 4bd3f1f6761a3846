"""JSON as every program can read it: I-JSON (RFC 7493), which Python's own parser is laxer than."""

from __future__ import annotations

from typing import Any

import msgspec


def load(text: str) -> Any:
    """Parses JSON; raises `ValueError`.

    Unlike `json.loads`, it refuses NaN, numbers that no double can hold, and lone surrogates. They would fail much
    later, where the value is written as JSON or UTF-8.
    """
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:  # not a ValueError in older versions of msgspec
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("too many levels") from None
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair") from None


def load_object(text: str) -> dict[str, Any]:
    """Parses the JSON text of an object, like `load`; raises `ValueError`."""
    value = load(text)
    if isinstance(value, dict):
        return value
    raise ValueError("an object is expected")
