"""The dashboard and the alerts: every query runs against pages of a real server, and names only what is on them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from math import isnan
from typing import Any

import pytest

from palaver.v1.error_reason_pb2 import ErrorReason
from tests.deploy.promql import TARGET, Evaluation, Sample, evaluate, evaluations
from tests.deploy.queries import alerts, dashboard, expressions, panel_queries
from tests.observability.faults import FAULTS
from tests.observability.stage import stage
from tests.support.azurite import Azurite
from tests.support.metrics_page import Page

REASONS = [name.removeprefix("ERROR_REASON_") for name in ErrorReason.DESCRIPTOR.values_by_name]


@dataclass(frozen=True)
class Pages:
    """The pages of a server before and after five faults."""

    before: Page
    after: Page

    def labels(self, metric: str) -> set[str]:
        return self.after.labels(metric)

    def names(self) -> set[str]:
        return {sample.name for sample in self.after.samples} | {"up"}

    def texts(self, keep: re.Pattern[str] = re.compile("")) -> tuple[str, str]:
        """Returns the texts of the pages with the lines in which a pattern is found."""
        before, after = (
            "".join(line for line in page.text.splitlines(keepends=True) if keep.search(line))
            for page in (self.before, self.after)
        )
        return before, after


@pytest.fixture(scope="module")
async def pages(azurite: Azurite, tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """The pages of a server with an endpoint, tables, a skill host and callers, all of which fail for a while."""
    variables = {"PALAVER_STORE_TIMEOUT": "1", "PALAVER_SKILL_TIMEOUT": "0.3"}
    async with stage(tmp_path_factory.mktemp("stage"), azurite.account(), **variables) as running:
        await running.post()
        before = await running.scrape()
        for fault in FAULTS:
            await fault.inject(running)
        return Pages(before, await running.scrape())


@pytest.fixture(scope="module")
def evaluated(pages: Pages) -> dict[str, Evaluation]:
    """Every query, evaluated after the faults."""
    before, after = pages.texts()
    return evaluations([(0, before), (60, after)], expressions())


def test_queries_read_metrics_by_labels_that_the_page_has(evaluated: dict[str, Evaluation], pages: Pages):
    for expression, evaluation in evaluated.items():
        metrics = {selector.metric for selector in evaluation.selectors}
        assert metrics - pages.names() == set(), expression
        for selector in evaluation.selectors:
            assert set(selector.labels) - pages.labels(selector.metric) - set(TARGET) == set(), expression
        assert set(evaluation.groupings) - set().union(*map(pages.labels, metrics)) == set(), expression


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
        ("Models", {"palaver_ai_connection": "OPENAI", "gen_ai_request_model": "gpt-3.5-turbo"}),
        (
            "Stores",
            {"palaver_store_connection": "AzureWebJobsStorage", "palaver_store_operation": "read_window"},
        ),
        ("Skills", {"gen_ai_tool_name": "lookup"}),
        ("Callers", {"palaver_caller": "flood"}),
    ],
)
def test_what_fails_is_on_top_of_its_table(title: str, worst: dict[str, str], evaluated: dict[str, Evaluation]):
    [table] = [panel for panel in dashboard()["panels"] if (panel["type"], panel["title"]) == ("table", title)]
    [order] = table["options"]["sortBy"]
    samples = evaluated[panel_queries()[title][_columns(table).index(order["displayName"])]].samples
    top = max(samples, key=lambda sample: sample.value)
    assert order["desc"]
    assert top.value > 0
    assert worst.items() <= top.labels.items()


def test_what_does_not_fail_is_in_its_table_with_zero(pages: Pages):
    is_well = re.compile('^(?!.*error_type="[A-Z])')
    for title in ("Models", "Stores"):
        failing = panel_queries()[title][1]
        samples = evaluate(*pages.texts(is_well), [failing])[failing]
        assert {sample.value for sample in samples if not isnan(sample.value)} == {0}


def test_what_is_slow_can_exceed_the_threshold_of_its_alert(pages: Pages):
    """A quantile is never above the highest bucket, so a threshold there would never be exceeded."""
    only_the_last_bucket = re.compile(r'^(?!.*_bucket\{.*le="\d)')
    before, after = pages.texts(only_the_last_bucket)
    finite = re.compile(r'_bucket\{.*le="\d')
    stuck = "".join(line.rpartition(" ")[0] + " 0\n" for line in pages.after.text.splitlines() if finite.search(line))
    slow = [rule["expr"] for rule in alerts() if "histogram_quantile" in rule["expr"]]
    assert len(slow) > 3
    found = evaluate(before + stuck, after + stuck, slow)
    assert [expression for expression in slow if not found[expression]] == []


def test_a_counter_that_is_new_counts_from_zero(pages: Pages):
    increase = "increase(palaver_retries_total[2m])"
    assert "palaver_retries_total{" not in pages.before.text
    assert evaluate(*pages.texts(), [increase]) == {
        increase: [Sample({"palaver_ai_connection": "OPENAI", **TARGET}, 2)]
    }


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


def _columns(table: dict[str, Any]) -> list[str]:
    """Returns the names of the columns with the results of a table's queries."""
    [organize] = [item["options"] for item in table["transformations"] if item["id"] == "organize"]
    return [organize["renameByName"][f"Value #{target['refId']}"] for target in table["targets"]]


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    a, b = one["gridPos"], other["gridPos"]
    return (
        a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]
    )


def _with_source(panels: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in panels:
        if panel["type"] != "row":
            yield panel
            yield from panel["targets"]
