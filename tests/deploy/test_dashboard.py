"""The dashboard and the alerts: every query runs against a metrics page, and names only what is on it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import combinations
from typing import Any

import pytest

from palaver.v1.error_reason_pb2 import ErrorReason
from tests.deploy.metrics_page import labels_by_metric, page
from tests.deploy.promql import TARGET, Evaluation, Sample, evaluate, evaluations
from tests.deploy.queries import dashboard, expressions, panel_queries

BEFORE, AFTER = page(10), page(40)
REASONS = [name.removeprefix("ERROR_REASON_") for name in ErrorReason.DESCRIPTOR.values_by_name]


@pytest.fixture(scope="module")
def evaluated() -> dict[str, Evaluation]:
    """Every query, evaluated after a minute."""
    return evaluations(BEFORE, AFTER, expressions())


def test_queries_read_metrics_by_labels_that_the_page_has(evaluated: dict[str, Evaluation]):
    on_page = {**labels_by_metric(AFTER), "up": set()}
    for expression, evaluation in evaluated.items():
        metrics = {selector.metric for selector in evaluation.selectors}
        assert metrics - set(on_page) == set(), expression
        for selector in evaluation.selectors:
            assert set(selector.labels) - on_page[selector.metric] - set(TARGET) == set(), expression
        assert set(evaluation.groupings) - set().union(*(on_page[metric] for metric in metrics)) == set(), expression


def test_every_query_of_the_dashboard_has_a_result(evaluated: dict[str, Evaluation]):
    queries = [query for queries in panel_queries().values() for query in queries]
    assert [query for query in queries if not evaluated[query].samples] == []


def test_reasons_in_queries_exist():
    patterns = [pattern for text in expressions() for pattern in re.findall(r'error_type=~?"([^"]+)"', text)]
    alternatives = {alternative for pattern in patterns for alternative in pattern.split("|")}
    assert alternatives
    assert [text for text in alternatives if not any(re.fullmatch(text, reason) for reason in REASONS)] == []


@pytest.mark.parametrize(
    ("title", "worst"),
    [
        ("Models", {"palaver_ai_connection": "OPENAI", "gen_ai_request_model": "gpt-4o"}),
        ("Stores", {"palaver_store_connection": "AzureWebJobsStorage", "palaver_store_operation": "commit"}),
        ("Skills", {"gen_ai_tool_name": "price"}),
        ("Callers", {"palaver_caller": "checkout"}),
    ],
)
def test_a_table_has_a_row_for_what_fails(title: str, worst: dict[str, str], evaluated: dict[str, Evaluation]):
    for query in panel_queries()[title]:
        assert [sample.labels for sample in evaluated[query].samples] == [worst], query


def test_what_does_not_fail_is_in_the_table_with_zero():
    healthy = "\n".join(line for line in AFTER.splitlines() if "error_type" not in line) + "\n"
    before = "\n".join(line for line in BEFORE.splitlines() if "error_type" not in line) + "\n"
    for title in ("Models", "Stores", "Skills"):
        failing = panel_queries()[title][1]
        [sample] = evaluate(before, healthy, [failing])[failing]
        assert sample.value == 0


def test_a_counter_that_is_new_counts_from_zero():
    rate = "increase(palaver_retries_total[2m])"
    before = "\n".join(line for line in BEFORE.splitlines() if not line.startswith("palaver_retries_total")) + "\n"
    labels = {"palaver_ai_connection": "OPENAI", "error_type": "MODEL_RATE_LIMITED", **TARGET}
    assert evaluate(before, AFTER, [rate]) == {rate: [Sample(labels, 40.0)]}


def test_panels_have_places_of_their_own():
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert [(one["title"], other["title"]) for one, other in combinations(panels, 2) if _overlap(one, other)] == []
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def test_queries_go_to_the_data_source_that_the_reader_chooses():
    [variable] = dashboard()["templating"]["list"]
    sources = [item["datasource"] for item in _with_source(dashboard()["panels"])]
    assert variable["type"] == "datasource"
    assert {source["uid"] for source in sources} == {f"${{{variable['name']}}}"}


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    a, b = one["gridPos"], other["gridPos"]
    return (
        a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]
    )


def _with_source(panels: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    for panel in panels:
        if panel["type"] != "row":
            yield panel
            yield from panel["targets"]
