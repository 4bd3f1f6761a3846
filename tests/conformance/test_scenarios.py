"""Tests that the scenarios cover the whole contract, and how expectations are compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from palaver.v1 import assistant_service_pb2, error_reason_pb2
from tests.conformance.expectations import differences
from tests.conformance.scenarios import MUST_FAIL, read, scenarios
from tests.conformance.stage import VERBS

SERVICE = assistant_service_pb2.DESCRIPTOR.services_by_name["AssistantService"]
EVENTS = assistant_service_pb2.PostUserQueryResponse.DESCRIPTOR.oneofs_by_name["event"].fields


def steps() -> Iterator[dict[str, Any]]:
    for scenario in scenarios():
        yield from scenario.steps


def values(expected: Any, key: str) -> Iterator[Any]:
    """Yields all values of a key, at any depth."""
    if isinstance(expected, dict):
        for name, value in expected.items():
            if name == key:
                yield value
            yield from values(value, key)
    elif isinstance(expected, list):
        for value in expected:
            yield from values(value, key)


def test_names_are_unique():
    names = [scenario.name for scenario in [*scenarios(), *read(MUST_FAIL)]]
    assert len(set(names)) == len(names) > 80


def test_steps_have_only_known_keys():
    with_expect = {"call": {"request", "timeout", "as"}, "finish": set(), "client": set()}
    others = {"until": {"text", "progress"}, "chat": {"interrupt_after", "prints"}}
    for step in steps():
        verb = next(iter(step))
        allowed = {"expect", *with_expect[verb]} if verb in with_expect else others.get(verb, set())
        assert verb in VERBS, step
        assert step.keys() - {verb} <= allowed, step
        if isinstance(expected := step.get("expect"), dict):
            assert expected.keys() <= {"error", "events", "messages", "progress", "request_id", "response", "text"}, (
                step
            )


def test_every_reason_of_an_error_is_expected_somewhere():
    errors = [error for step in steps() for error in values(step, "error") if isinstance(error, dict)]
    reasons = {error.get("reason") for error in errors}
    names = {name.removeprefix("ERROR_REASON_") for name in list(error_reason_pb2.ErrorReason.keys())}
    assert names - reasons == {"UNSPECIFIED"}


def test_every_method_is_called():
    assert {method.name for method in SERVICE.methods} <= {step["call"] for step in steps() if "call" in step}


def test_every_event_and_every_finish_reason_is_expected_somewhere():
    kinds = {kind for step in steps() for events in values(step, "events") for event in events for kind in event}
    kinds |= {"progress" for step in steps() for _ in values(step, "progress")}  # expected apart from the others
    assert {"text_delta" if kind == "text" else kind for kind in kinds} >= {field.name for field in EVENTS}
    reasons = {reason for step in steps() for reason in values(step, "finish_reason")}
    names = list(assistant_service_pb2.FinishReason.keys())
    assert reasons >= {*names} - {"FINISH_REASON_UNSPECIFIED"}


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": None}, {}),
        (["/^[ab]+$/", "$x", "$x"], ["abba", 1, 1]),
        ("/./", 0.5),
    ],
)
def test_values_that_match(expected: Any, actual: Any):
    assert list(differences(expected, actual, {}, "it")) == []


@pytest.mark.parametrize(
    ("expected", "actual", "path"),
    [
        ({"a": 1}, {}, "it.a"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "it.a.b"),
        ({"a": None}, {"a": 0}, "it.a"),
        ({"a": 0}, {"a": False}, "it.a"),
        ([1], [1, 2], "it"),
        ([1, 2], [1, 3], "it[1]"),
        ("/^[ab]+$/", "abc", "it"),
        ("/./", None, "it"),
        (["$x", "$x"], [1, 2], "it[1]"),
        ("$x", None, "it"),
        ({"a": 1}, None, "it"),
        (None, {"status": "NOT_FOUND"}, "it"),
    ],
)
def test_differences_are_reported_with_their_path(expected: Any, actual: Any, path: str):
    [line] = differences(expected, actual, {}, "it")
    assert line.startswith(f"{path}: expected ")
