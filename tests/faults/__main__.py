"""Runs all parts of the fault harness and prints a table of their results.

    python -m tests.faults --times 1

This is the full run. For each store, it makes 2,000 turns with 100 kills, 100 stops, 500 turns on two replicas, and
10,000 cancelled calls. The default, a fifth of that, takes a few minutes. A large number makes a soak test.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Iterator

from tests.faults import cancels, kills, replicas, stops
from tests.faults.command import MAX_FINDINGS, Report
from tests.support.azurite import Account, Azurite


def runs(times: float, seed: int, azurite: Azurite) -> Iterator[Awaitable[Report]]:
    """Returns the runs, each at a multiple of its full size."""

    def size(full: int) -> int:
        return max(1, round(full * times))

    def accounts() -> tuple[Account | None, ...]:
        return None, azurite.account()

    for account in accounts():
        yield kills.run(size(2000), size(100), seed, account)
    for account in accounts():
        yield stops.run(size(100), seed, account)
    for account in accounts():
        yield replicas.run(size(500), seed, account)
    for account in accounts():
        yield cancels.run(size(10_000), seed, account)


async def run(times: float, seed: int) -> bool:
    """Makes all runs and prints the table. Returns whether all of them are met."""
    is_met = True
    with Azurite() as azurite:
        for running in runs(times, seed, azurite):
            result = await running
            print("met   " if result.is_met else "MISSED", result, flush=True)
            for finding in result.findings[:MAX_FINDINGS]:
                print("       ", finding)
            is_met = is_met and result.is_met
    return is_met


def main() -> None:
    """Parses the arguments, runs, and exits with 1 if a run is not met."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=float, default=0.2, help="the multiple of the full run (default: 0.2)")
    parser.add_argument("--seed", type=int, default=1, help="the seed of the random choices (default: 1)")
    arguments = parser.parse_args()
    sys.exit(not asyncio.run(run(arguments.times, arguments.seed)))


if __name__ == "__main__":
    main()
