"""The Compose file: it loads, its files exist, the server accepts its variables, and only this machine reaches it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from palaver_server.connections import TableAccount, storage_connections
from palaver_server.settings import Settings
from tests.deploy.programs import DEPLOY, ROOT, ended, output
from tests.deploy.server_settings import accepted, seconds_to_stop

FILE = DEPLOY / "compose" / "compose.yaml"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services with every profile, as Compose reads them."""
    return yaml.safe_load(output("compose", FILE))["services"]


def test_a_misspelt_key_is_found(tmp_path: Path):
    broken = tmp_path / "compose.yaml"
    broken.write_text(FILE.read_text().replace("depends_on:", "dependson:", 1))
    assert "dependson" in ended("compose", broken).stderr


def test_every_image_has_a_version_or_is_built_here(services: dict[str, Any]):
    assert [name for name, service in services.items() if "build" not in service and ":" not in service["image"]] == []
    build = services["palaver"]["build"]
    assert Path(build["context"]) == ROOT
    assert (Path(build["context"]) / build["dockerfile"]).exists()


def test_the_files_of_the_services_exist(services: dict[str, Any]):
    volumes = [volume for service in services.values() for volume in service.get("volumes", [])]
    sources = [Path(volume["source"]) for volume in volumes if volume["type"] == "bind"]
    assert sources
    assert [source for source in sources if not source.exists()] == []


def test_only_this_machine_reaches_the_services(services: dict[str, Any]):
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}


def test_the_server_accepts_its_variables(services: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    environment = services["palaver"]["environment"]
    settings = accepted(environment, tmp_path, monkeypatch)
    assert settings.offline_model
    [account] = storage_connections(settings, environment).values()
    assert isinstance(account, TableAccount)
    assert "TableEndpoint=http://azurite:10002/" in (account.connection_string or "")


def test_the_server_may_take_as_long_to_stop_as_it_says(services: dict[str, Any]):
    period = services["palaver"]["stop_grace_period"]
    assert period == "1m0s"
    assert seconds_to_stop(Settings()) < 60


def test_grafana_finds_its_dashboard_and_its_data_source(services: dict[str, Any]):
    mounted = {volume["target"]: Path(volume["source"]) for volume in services["grafana"]["volumes"]}
    provisioning = mounted["/etc/grafana/provisioning"]
    [provider] = yaml.safe_load((provisioning / "dashboards" / "palaver.yaml").read_text())["providers"]
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(provider["options"]["path"])
    assert mounted[home].exists()
    assert source["url"] == "http://prometheus:9090"
