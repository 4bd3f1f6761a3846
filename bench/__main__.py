"""Measures and prints; `--check` fails when a bar is missed, `--quick` runs each comparison once."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import uvloop

from bench import measure, processes
from bench.measure import Scenario
from bench.pace import Pace

PACED, UNPACED = Pace(40, 200), Pace(0, 500)
SCENARIOS = (
    Scenario("1 paced stream", 1, PACED),
    Scenario("50 paced streams", 50, PACED),
    Scenario("400 paced streams", 400, PACED),
    Scenario("200 unpaced streams", 200, UNPACED),
)
CPU_BARS = {"50 paced streams": 2.5, "200 unpaced streams": 1.0}
"""The most that Palaver may cost per token, as a multiple of the bare echo."""

HISTORY_BAR = 1.2
"""The most that a turn after 20,000 messages may cost, as a multiple of one after 20."""


def verdict(ratio: float, bar: float | None, missed: list[str], what: str) -> str:
    """Says how a ratio stands to its bar."""
    if bar is None:
        return ""
    if ratio > bar:
        missed.append(f"{what}: {ratio:.2f}, at most {bar:g} is allowed")
    return f"  bar {bar:g}: {'met' if ratio <= bar else 'MISSED'}"


async def run(quick: bool, folder: Path) -> list[str]:
    """Runs everything and returns the bars that were missed."""
    missed: list[str] = []
    rounds = 1 if quick else 3
    await measure.fill(folder)
    with (
        processes.endpoint() as upstream,
        processes.echo() as echo,
        processes.typed(upstream, folder) as typed,
        processes.palaver(upstream, folder) as server,
    ):
        print(f"Server CPU per streamed token, µs, and as a multiple of the bare echo (median of {rounds})")
        results = await measure.cpu_per_token((echo, typed, server), SCENARIOS, rounds)
        for scenario, by_server in results.items():
            base = by_server[echo.name]
            print(f"  {scenario}")
            for name, values in by_server.items():
                ratio = measure.median_ratio(values, base)
                bar = CPU_BARS.get(scenario) if name == server.name else None
                note = verdict(ratio, bar, missed, f"server CPU per token, {scenario}")
                print(f"    {name:<14}{statistics.median(values):8.1f}  {ratio:6.2f}{note}")

        direct, through = await measure.first_piece(upstream, server, 200 if quick else 1_000)
        print("Time to the first piece, one stream, ms")
        for name, times in (("direct", direct), ("Palaver", through)):
            cuts = statistics.quantiles(times, n=100)
            print(f"    {name:<14}p50 {cuts[49] * 1e3:6.2f}  p99 {cuts[98] * 1e3:6.2f}")
        added = [
            statistics.quantiles(through, n=100)[cut] - statistics.quantiles(direct, n=100)[cut] for cut in (49, 98)
        ]
        print(f"    {'added':<14}p50 {added[0] * 1e3:6.2f}  p99 {added[1] * 1e3:6.2f}")

        print("A turn in a conversation that is long already, ms (median), and as a multiple of the first")
        costs = await measure.turn_cost(server, 50 if quick else 100, 3 if quick else 7)
        first_cpu, first_wall = next(iter(costs.values()))
        for name, (cpu, wall) in costs.items():
            ratio = measure.median_ratio(cpu, first_cpu)
            bar = HISTORY_BAR if name == "after 20,000 messages" else None
            note = verdict(ratio, bar, missed, f"CPU of a turn {name}")
            print(
                f"    {name:<22}CPU {statistics.median(cpu):6.2f} {ratio:5.2f}   "
                f"wall {statistics.median(wall):6.2f} {measure.median_ratio(wall, first_wall):5.2f}{note}"
            )

    print("Memory per open stream at 400 paced streams, KiB")
    for name, growth in (await measure.memory(folder, 400)).items():
        print(f"    {name:<14}{growth / 1024:6.1f}")
    return missed


def main() -> None:
    """Reads the arguments and runs."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of each comparison")
    parser.add_argument("--check", action="store_true", help="fail when a bar is missed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="palaver-bench-") as folder:
        missed = uvloop.run(run(arguments.quick, Path(folder)))
    for line in missed:
        print(f"MISSED {line}")
    sys.exit(bool(missed) and arguments.check)


if __name__ == "__main__":
    main()
