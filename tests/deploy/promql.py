"""PromQL over metrics pages, evaluated by the parser and the engine of Prometheus.

evaluate(page_before, page_after, ["sum(rate(palaver_turns_total[5m]))"])
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tests.deploy.programs import output

TARGET = {"job": "palaver", "instance": "127.0.0.1:9464"}
"""The labels that Prometheus adds to the series of a server."""


@dataclass(frozen=True)
class Sample:
    """A result of an expression: a series and its value."""

    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Selector:
    """A metric that an expression reads, and the labels that it matches."""

    metric: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """An expression: what it names, and its result."""

    selectors: tuple[Selector, ...]
    groupings: tuple[str, ...]
    samples: tuple[Sample, ...]


def evaluate(
    page_before: str, page_after: str, expressions: Sequence[str], *, seconds: float = 60
) -> dict[str, list[Sample]]:
    """Returns the result of each expression after two scrapes of a server, which are `seconds` apart.

    A counter or histogram that the first page lacks counts from zero.
    """
    found = evaluations([(0, page_before), (seconds, page_after)], expressions)
    return {expression: list(evaluation.samples) for expression, evaluation in found.items()}


def evaluations(scrapes: Sequence[tuple[float, str]], expressions: Sequence[str]) -> dict[str, Evaluation]:
    """Returns what each expression names, and its result at the time of the last of some scrapes."""
    pages = [{"seconds": seconds, "text": text} for seconds, text in scrapes]
    asked = {"pages": pages, "target": TARGET, "expressions": list(expressions)}
    answered = json.loads(output("promql", given=json.dumps(asked)))
    return {
        expression: Evaluation(
            tuple(Selector(found["metric"], tuple(found["labels"])) for found in item["selectors"] or ()),
            tuple(item["groupings"] or ()),
            tuple(Sample(sample["labels"], float(sample["value"])) for sample in item["result"]),
        )
        for expression, item in zip(expressions, answered, strict=True)
    }
