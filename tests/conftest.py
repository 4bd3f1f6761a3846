"""Settings and fixtures of all tests: gRPC installs no fork handlers, and CI accepts no skipped test."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support import azurite as azurite_process
from tests.support.endpoint import Endpoint

# Set before gRPC is imported: its fork handlers would run in the children that tests start, and sometimes kill them.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"
# A shell makes background jobs ignore Ctrl-C, and the processes that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# gRPC logs a line for each server that stops, which would hide pytest's own output.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
# No test depends on how fast the machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def azurite() -> Iterator[azurite_process.Azurite]:
    """The emulator of Azure Table Storage. Each test uses an account of its own."""
    if missing := azurite_process.why_missing():
        pytest.skip(missing)
    with azurite_process.Azurite() as running:
        yield running


@pytest.fixture
def account(azurite: azurite_process.Azurite) -> azurite_process.Account:
    """An empty storage account."""
    return azurite.account()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    """A model endpoint that answers as the test scripts it."""
    async with Endpoint() as running:
        yield running


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("A test was skipped, which CI does not accept.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
