"""The settings that a server reads from the environment in a file of deploy/."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from pathlib import Path

import pytest

from palaver_server.exposure import check_exposure
from palaver_server.settings import Settings, load, unknown_variables
from palaver_server.workers import CLOSING_TIMEOUT

FILES = "/etc/palaver/"
"""Where the files for a server are."""


def accepted(environment: Mapping[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Returns the settings, all of which must exist and let the server start. Its files are empty ones in a folder."""
    assert unknown_variables(environment) == []
    for name, value in environment.items():
        monkeypatch.setenv(name, str(_file(value, folder)) if value.startswith(FILES) else value)
    settings = load([])
    check_exposure(settings)
    return settings


def _file(path: str, folder: Path) -> Path:
    file = folder / path.removeprefix(FILES)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    return file


def seconds_to_stop(settings: Settings) -> int:
    """Returns how long the server may take from SIGTERM to its end."""
    return ceil(settings.grace_period + settings.commit_timeout + CLOSING_TIMEOUT)
