"""What holds for all tests: gRPC keeps out of forks, and where CI runs, no test may be skipped."""

from __future__ import annotations

import os

import pytest

# Before gRPC is imported: its fork handlers would run in the children that tests start, and now and then end them.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("A test was skipped, which CI does not accept.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
