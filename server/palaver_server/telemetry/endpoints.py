"""The names of endpoints, models and skills in metrics and spans. Their number is bounded."""

from __future__ import annotations

from dataclasses import dataclass

from palaver_server.domain.limits import MAX_LABELS

OTHER = "_OTHER"
"""The conventions' name for everything that has no name of its own."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The endpoint of an AI connection."""

    provider: str
    """A value of `gen_ai.provider.name`."""
    address: str
    port: int


class BoundedNames:
    """The names that a label may have. Callers and endpoints choose names, and each one costs memory for good."""

    def __init__(self, *names: str, limit: int = MAX_LABELS) -> None:
        """Takes the names that are known from the start."""
        self._names = set(names)
        self._limit = limit

    def admit(self, name: str) -> None:
        """Makes a name known, unless there are too many."""
        if len(self._names) < self._limit:
            self._names.add(name)

    def label(self, name: str) -> str:
        """Returns the name if it is known, and `_OTHER` if it is not."""
        return name if name in self._names else OTHER
