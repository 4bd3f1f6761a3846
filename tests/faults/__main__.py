"""All runs of the fault harness, and a table of what they have shown.

python -m tests.faults                       # a few minutes
python -m tests.faults --times 50            # a long soak
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

from tests.faults import kills, replicas
from tests.support.azurite import Azurite


class Result(Protocol):
    """What a run has shown; its text is a line of the table."""

    @property
    def is_met(self) -> bool:
        """Whether all is well."""

    @property
    def findings(self) -> list[str]:
        """What is not."""


def runs(times: float, seed: int, azurite: Azurite) -> Iterator[Callable[[], Awaitable[Result]]]:
    """Makes the runs, at so many times their usual size."""

    def size(usual: int) -> int:
        return max(1, round(usual * times))

    for store in kills.STORES:
        yield lambda store=store: kills.run(store, size(2000), size(100), seed, azurite)
    for store in replicas.STORES:
        yield lambda store=store: replicas.run(store, size(500), seed, azurite)


async def run(times: float, seed: int) -> bool:
    """Runs all and prints the table; returns whether all is well."""
    is_met = True
    with Azurite() as azurite:
        for start in runs(times, seed, azurite):
            result = await start()
            print("met   " if result.is_met else "MISSED", result, flush=True)
            for finding in result.findings[:20]:
                print("       ", finding)
            is_met = is_met and result.is_met
    return is_met


def main() -> None:
    """Reads the arguments, runs, and judges."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=float, default=1, help="how many times as many turns, kills and calls")
    parser.add_argument("--seed", type=int, default=1, help="what the random choices begin with")
    arguments = parser.parse_args()
    sys.exit(not asyncio.run(run(arguments.times, arguments.seed)))


if __name__ == "__main__":
    main()
