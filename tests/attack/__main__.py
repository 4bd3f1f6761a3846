"""Runs all attacks against servers in processes of their own and prints a table of what they did.

    python -m tests.attack --times 0.1

While an attack runs, a second caller asks for an assistant all the time, on its own connection and in its own process.
An attack is met if that caller never waited for more than 250 ms, if the server's memory did not grow by more than the
row allows, and if nothing else was found: an UNKNOWN or INTERNAL status, a call without an answer, a secret in an
answer or in the log, or the death of the server.

A shared machine can make the second caller wait although the server did not. An attack whose only fault is the wait is
therefore made again, and is missed only if it is missed each time; its line counts the attempts. Everything else counts
at once.

A generated input depends only on the seed and on its number, which a finding names:

    python -m tests.attack --only "generated requests" --seed 1 --replay 1234
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys

from tests.attack import callers, connections, endpoints, fuzz_requests, fuzz_streams, skill_hosts, workers
from tests.attack.attack import Attack
from tests.attack.attempt import run
from tests.attack.target import Size

ATTACKS: tuple[Attack, ...] = (
    *callers.ATTACKS,
    *endpoints.ATTACKS,
    *skill_hosts.ATTACKS,
    *connections.ATTACKS,
    *workers.ATTACKS,
    *fuzz_requests.ATTACKS,
    *fuzz_streams.ATTACKS,
)

ATTEMPTS = 3
"""The most attempts of an attack whose only fault is the second caller's wait."""

MAX_PRINTED = 10
"""The most findings of an attack that are printed. More would say nothing new."""


def withstands(attack: Attack, size: Size, attempts: int) -> bool:
    """Makes an attack, prints a line for it, and returns whether the server withstood it."""
    for number in itertools.count(1):
        # A new process for each attempt, which gives way to the server and leaves nothing behind.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            outcome = pool.apply(run, (attack, size))
        if not outcome.is_only_slow or number == attempts:
            break
    repeated = f"   attempt {number} of {attempts}" if number > 1 else ""
    print("met   " if outcome.is_met else "MISSED", f"{outcome}{repeated}", flush=True)
    for finding in outcome.findings[:MAX_PRINTED]:
        print("       ", finding[:500])
    return outcome.is_met


def main() -> None:
    """Parses the arguments, makes the attacks, and exits with 1 if one of them is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=float, default=1.0, help="the multiple of the full counts (default: 1)")
    parser.add_argument("--seed", type=int, default=1, help="the seed of the random choices (default: 1)")
    parser.add_argument("--only", default="", help="make only the attacks whose names contain this")
    parser.add_argument("--replay", type=int, help="send only the generated input with this number")
    parser.add_argument(
        "--attempts", type=int, default=ATTEMPTS, help=f"attempts of a slow attack (default: {ATTEMPTS})"
    )
    parser.add_argument("--list", action="store_true", help="print the attacks and their limits")
    arguments = parser.parse_args()
    chosen = [attack for attack in ATTACKS if arguments.only in attack.name]
    if arguments.list or not chosen:
        print(*ATTACKS, sep="\n")
        sys.exit(not arguments.list)
    os.environ.update(GRPC_VERBOSITY="NONE", GRPC_ENABLE_FORK_SUPPORT="false")
    size = Size(arguments.times, arguments.seed, arguments.replay)
    print(f"seed {size.seed}, {size.times:g} times the full counts")
    results = [withstands(attack, size, arguments.attempts) for attack in chosen]
    print(f"{sum(results)} of {len(results)} attacks were withstood")
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
