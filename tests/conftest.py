"""What holds for all tests: gRPC keeps out of forks, and where CI runs, no test may be skipped."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support import azurite as azurite_process
from tests.support.endpoint import Endpoint

# Before gRPC is imported: its fork handlers would run in the children that tests start, and now and then end them.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"
# A shell that runs the tests in the background has them ignore Ctrl-C, and what they start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# A line for each server that stops would hide what pytest says.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


@pytest.fixture(scope="session")
def azurite() -> Iterator[azurite_process.Azurite]:
    """Azure Table Storage for all tests that need it; each takes an account of its own."""
    if missing := azurite_process.why_missing():
        pytest.skip(missing)
    with azurite_process.Azurite() as running:
        yield running


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    """An endpoint of a model that says what the test scripts."""
    async with Endpoint() as running:
        yield running


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("A test was skipped, which CI does not accept.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
