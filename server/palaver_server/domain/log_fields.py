"""The named values of log messages, which the formatters of `logs` write."""

from __future__ import annotations


def fields(**values: object) -> dict[str, dict[str, object]]:
    """Returns the `extra` of a log call with named values. One that is None or empty is left out."""
    return {"fields": {name: value for name, value in values.items() if value is not None and value != ""}}
