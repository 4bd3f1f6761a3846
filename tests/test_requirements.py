"""The locked dependencies: what is deployed satisfies pyproject.toml, and its floors are those that are tested."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

try:
    import tomllib
except ImportError:
    import tomli as tomllib  # what pytest uses with the oldest Python

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(*extras: str) -> list[Requirement]:
    return [
        Requirement(text) for text in (*PROJECT["dependencies"], *(text for name in extras for text in EXTRAS[name]))
    ]


def pinned(name: str) -> dict[str, set[Version]]:
    """Returns the versions of each package in a file of requirements: several if they depend on the platform."""
    found = defaultdict(set)
    for package, version in re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE):
        found[canonicalize_name(package)].add(Version(version))
    return found


@pytest.mark.parametrize("requirement", requirements("server", "otel"), ids=str)
def test_what_is_deployed_satisfies_the_requirements(requirement: Requirement):
    versions = pinned("server.lock")[canonicalize_name(requirement.name)]
    assert versions
    assert all(requirement.specifier.contains(version) for version in versions)


def test_everything_that_is_deployed_has_hashes():
    entries = re.split(r"^(?=[\w.-]+==)", (ROOT / "requirements" / "server.lock").read_text(), flags=re.MULTILINE)[1:]
    assert len(entries) > 40
    assert all("--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize("requirement", requirements(*EXTRAS), ids=str)
def test_a_floor_is_the_lowest_version_that_can_be_installed(requirement: Requirement):
    floors = {Version(part.version) for part in requirement.specifier if part.operator == ">="}
    # If another dependency wants a higher version, nobody can ever run the lower one.
    assert pinned("floors.txt")[canonicalize_name(requirement.name)] == floors
