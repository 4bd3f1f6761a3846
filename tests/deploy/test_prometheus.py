"""Prometheus: its configuration, and alerts that fire when they should and say what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.programs import DEPLOY, ended, output
from tests.deploy.queries import ALERTS, alerts

CASES = Path(__file__).with_name("alerts_test.yml")


def test_the_configuration_and_its_rules_are_valid():
    printed = output(
        "promtool", "check", "config", "--lint=all", "--lint-fatal", DEPLOY / "prometheus" / "prometheus.yml"
    )
    assert f"{len(alerts())} rules found" in printed


def test_alerts_fire_when_they_should():
    output("promtool", "test", "rules", CASES)


def test_every_alert_is_seen_to_fire():
    fired = set(re.findall(r'labels: ALERTS{alertname="(\w+)"', CASES.read_text()))
    assert {rule["alert"] for rule in alerts()} - fired == set()


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_urgent_it_is_and_what_to_do(rule: dict[str, Any]):
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert all(text.endswith(".") for text in rule["annotations"].values())


def test_a_broken_rule_is_found(tmp_path: Path):
    broken = tmp_path / "alerts.yml"
    broken.write_text(ALERTS.read_text().replace("up{", "up{{", 1))
    assert ended("promtool", "check", "rules", broken).returncode != 0
