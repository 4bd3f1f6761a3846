"""The queries of the dashboard and of the alerts."""

from __future__ import annotations

import json
from typing import Any

import yaml

from tests.deploy.programs import DEPLOY

ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "palaver.json"
RATE_INTERVAL = "5m"
"""The value of Grafana's `$__rate_interval` in the tests."""


def alerts() -> list[dict[str, Any]]:
    """Returns the alerts."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """Returns the dashboard."""
    return json.loads(DASHBOARD.read_text())


def panel_queries() -> dict[str, list[str]]:
    """Returns the queries of each panel by its title, as Prometheus gets them."""
    return {
        panel["title"]: [target["expr"].replace("$__rate_interval", RATE_INTERVAL) for target in panel["targets"]]
        for panel in dashboard()["panels"]
        if panel["type"] != "row"
    }


def expressions() -> list[str]:
    """Returns the queries of all panels and alerts."""
    return [*(query for queries in panel_queries().values() for query in queries), *(rule["expr"] for rule in alerts())]
