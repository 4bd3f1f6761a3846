"""All runs of the fault harness, and a table of what they have shown.

    python -m tests.faults --times 1

is the proof: for each store 2,000 turns and 100 kills, 100 stops, two replicas, and 10,000 cancelled calls. The usual
fifth of that takes a few minutes, and a large number makes a soak.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Iterator
from typing import Protocol

from tests.faults import cancels, kills, replicas, stops
from tests.support.azurite import Account, Azurite


class Result(Protocol):
    """What a run has shown; its text is a line of the table."""

    @property
    def is_met(self) -> bool:
        """Whether all is well."""

    @property
    def findings(self) -> list[str]:
        """What is not."""


def runs(times: float, seed: int, azurite: Azurite) -> Iterator[Awaitable[Result]]:
    """Makes the runs, at so many times the size of the proof."""

    def size(proof: int) -> int:
        return max(1, round(proof * times))

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
    """Runs all and prints the table; returns whether all is well."""
    is_met = True
    with Azurite() as azurite:
        for running in runs(times, seed, azurite):
            result = await running
            print("met   " if result.is_met else "MISSED", result, flush=True)
            for finding in result.findings[:20]:
                print("       ", finding)
            is_met = is_met and result.is_met
    return is_met


def main() -> None:
    """Reads the arguments, runs, and judges."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=float, default=0.2, help="how many times the size of the proof")
    parser.add_argument("--seed", type=int, default=1, help="what the random choices begin with")
    arguments = parser.parse_args()
    sys.exit(not asyncio.run(run(arguments.times, arguments.seed)))


if __name__ == "__main__":
    main()
