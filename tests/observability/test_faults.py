"""Each fault moves a metric, is named in a line of the log, and is seen in a trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.observability.faults import FAULTS, Fault, look
from tests.observability.stage import TRACE_ID, stage
from tests.support.azurite import Azurite

VARIABLES = {"PALAVER_STORE_TIMEOUT": "1", "PALAVER_SKILL_TIMEOUT": "0.3"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "_"))
async def test_a_fault_is_seen(tmp_path: Path, azurite: Azurite, fault: Fault):
    async with stage(tmp_path, azurite.account(), **VARIABLES) as running:
        await running.post()
        signs = await look(running, fault)
    assert signs.growth >= fault.growth
    assert signs.span.trace_id == TRACE_ID
    if fault.line["message"] == "turn":
        assert signs.line["first_output_ms"] >= fault.growth * 1000
        assert signs.line["trace_id"] == TRACE_ID
    if fault.name == "one caller floods":
        assert signs.lines == 1
    else:
        assert signs.span.is_error == ("error.type" in fault.attributes)


def test_the_documentation_names_the_signs():
    page = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    for fault in FAULTS:
        metric = fault.metric.removesuffix("_sum").removesuffix("_count")
        reason = fault.line.get("reason") or fault.line.get("status") or ""
        for sign in (metric, f"`{fault.line['message']} ", reason, fault.labels.get("error_type", "")):
            assert sign in page
