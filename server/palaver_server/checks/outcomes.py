"""The outcomes of checks, and how they are shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum


class Status(str, Enum):
    """The outcome of a check in one word."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The findings of a check."""

    status: Status
    detail: str

    @classmethod
    def ok(cls, detail: str, *concerns: str) -> Outcome:
        """Returns the outcome of a check that did not fail. Concerns make it a warning."""
        return cls(Status.WARNING, "; ".join(concerns)) if concerns else cls(Status.OK, detail)


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a check by its name, and the seconds that it took."""

    name: str
    status: Status
    detail: str
    seconds: float


def all_work(results: Sequence[Result]) -> bool:
    """Returns whether no check failed."""
    return all(result.status is not Status.FAILED for result in results)


def as_text(results: Sequence[Result]) -> str:
    """Returns a line for each result."""
    labels = {Status.OK: "ok", Status.WARNING: "warning", Status.FAILED: "FAILED"}
    return "\n".join(
        f"{labels[result.status]:7}  {result.name}: {result.detail} ({result.seconds:.2f} s)" for result in results
    )


def as_json(results: Sequence[Result]) -> str:
    """Returns the results as a JSON object."""
    checks = [asdict(result) | {"seconds": round(result.seconds, 3)} for result in results]
    return json.dumps({"ok": all_work(results), "checks": checks}, indent=2)
