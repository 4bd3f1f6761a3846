"""The systemd unit: it is valid and hardened, and gives the server the time to stop that it needs."""

from __future__ import annotations

import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from palaver_server.settings import Settings
from tests.deploy.programs import DEPLOY, ended, output
from tests.deploy.server_settings import accepted, seconds_to_stop

UNIT = DEPLOY / "systemd" / "palaver-server.service"
VARIABLES = DEPLOY / "systemd" / "palaver.env"
MAX_EXPOSURE = 15
"""The highest result of `systemd-analyze security`, times ten. Services without any hardening have 96."""


def service() -> dict[str, str]:
    parser = ConfigParser(strict=False, interpolation=None, delimiters=["="])
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(UNIT)
    return dict(parser["Service"])


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with the server of the tests, because systemd checks that the program exists."""
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/opt/palaver/bin/", f"{Path(sys.executable).parent}/"))
    return path


def test_the_unit_is_valid(unit: Path):
    process = ended("systemd-analyze", "verify", "--man=no", unit)
    assert (process.returncode, process.stderr) == (0, "")


def test_a_misspelt_setting_is_found(unit: Path):
    unit.write_text(unit.read_text().replace("KillMode=mixed", "KillMood=mixed"))
    assert "KillMood" in ended("systemd-analyze", "verify", "--man=no", unit).stderr


def test_the_unit_is_hardened(unit: Path):
    output("systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={MAX_EXPOSURE}", unit)


def test_the_server_has_the_time_to_stop_that_it_needs():
    assert int(service()["TimeoutStopSec"]) > seconds_to_stop(Settings())


def test_a_reload_is_what_the_server_takes_as_one():
    assert service()["ExecReload"] == "/bin/kill -HUP $MAINPID"


@pytest.mark.parametrize("uncommented", [False, True])
def test_the_server_accepts_the_variables(uncommented: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lines = VARIABLES.read_text().splitlines()
    lines = [line.removeprefix("#") if uncommented and "=" in line else line for line in lines]
    pairs = [line.partition("=") for line in lines if "=" in line and not line.startswith("#")]
    environment = {name: value for name, _, value in pairs} | {"PALAVER_DATA_DIR": "/var/lib/palaver"}
    assert accepted(environment, tmp_path, monkeypatch).data_dir == Path("/var/lib") / service()["StateDirectory"]
