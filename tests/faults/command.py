"""The command line that all parts of the harness share."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from tests.faults.storage import STORES, storage

MAX_FINDINGS = 20
"""The most findings that are printed. More would say nothing new."""


class Report(Protocol):
    """The outcome of a run. Its text is a line of the table, or a table of its own."""

    @property
    def is_met(self) -> bool:
        """True if the store and the servers kept all their promises."""

    @property
    def findings(self) -> list[str]:
        """The promises that were broken, a line for each."""


def main(
    doc: str | None, run: Callable[..., Coroutine[Any, Any, Report]], *, store: str = "sqlite", **sizes: int
) -> None:
    """Parses the arguments, runs one part of the harness, prints its report, and exits with 1 if it is not met.

    `sizes` are the parameters of `run` that set how much it does, with their defaults.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size, help=f"the number of {name} (default: {size:,})")
    parser.add_argument("--store", choices=STORES, default=store, help=f"the store under test (default: {store})")
    parser.add_argument("--seed", type=int, default=1, help="the seed of the random choices (default: 1)")
    arguments = vars(parser.parse_args())
    with storage(arguments.pop("store")) as account:
        report = asyncio.run(run(**arguments, account=account))
    print(*report.findings[:MAX_FINDINGS], report, sep="\n")
    sys.exit(not report.is_met)
