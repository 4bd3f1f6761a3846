"""Measures the cost of a streamed token, a turn and an open stream, and prints it as ratios to a bare gRPC echo."""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from bench import measure, processes, tables
from bench.load import MAX_HISTORY
from bench.measure import Scenario
from bench.pace import Pace
from bench.processes import Measured

CPU_BARS = {"50 paced streams": 2.5, "200 unpaced streams": 1.0}
"""The most CPU that Palaver may use per token, as a multiple of the bare echo's."""

HISTORY_BAR = 1.2
"""The most CPU that a turn after 20,000 messages may use, as a multiple of a turn's after 20."""

TRAFFIC_BAR = 1.01
"""The same for its bytes to and from Azure Table Storage, where numbers grow longer. The requests must be equal."""

TELEMETRY_BAR = 1.05
"""The most CPU that a token may cost with traces and metrics, as a multiple of the cost without."""

LONGEST_HISTORY = "after 20,000 messages"
PALAVER = "Palaver"


@dataclass(frozen=True)
class Effort:
    """The extent of the measurements. A reply has many pieces, which share the fixed cost of its call."""

    rounds: int
    paced: Pace
    crowd: Pace
    """The pace of the most streams. The typed stream can't keep up with it and takes many times as long."""
    unpaced: Pace
    first_pieces: int
    turns: int
    turn_rounds: int
    telemetry_rounds: int

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        """The scenarios for which the server CPU per token is measured."""
        return (
            Scenario("1 paced stream", 1, self.paced),
            Scenario("50 paced streams", 50, self.paced),
            Scenario("400 paced streams", 400, self.crowd),
            Scenario("200 unpaced streams", 200, self.unpaced),
        )


QUICK = Effort(
    rounds=1,
    paced=Pace(40, 120),
    crowd=Pace(40, 80),
    unpaced=Pace(0, 200),
    first_pieces=200,
    turns=30,
    turn_rounds=5,
    telemetry_rounds=6,
)
FULL = Effort(
    rounds=3,
    paced=Pace(40, 200),
    crowd=Pace(40, 120),
    unpaced=Pace(0, 500),
    first_pieces=500,
    turns=60,
    turn_rounds=9,
    telemetry_rounds=12,
)


@dataclass(frozen=True)
class Report:
    """Prints the tables and collects the bars that were missed."""

    missed: list[str] = field(default_factory=list)

    def title(self, text: str, *columns: str) -> None:
        """Prints the head of a table."""
        print(f"\n{text}")
        if columns:
            print(" " * 26 + "".join(f"{column:>16}" for column in columns))

    def row(self, name: str, *cells: str, note: str = "") -> None:
        """Prints a row of the table."""
        print(f"    {name:<22}" + "".join(f"{cell:>16}" for cell in cells) + note, flush=True)

    def verdict(self, ratio: float, bar: float | None, what: str) -> str:
        """Returns whether a ratio meets its bar, in words; empty if it has no bar."""
        if bar is None:
            return ""
        if ratio > bar:
            self.missed.append(f"{what}: {ratio:.2f}, more than {bar:g}")
        return f"  bar {bar:g}: {'met' if ratio <= bar else 'MISSED'}"


async def tokens(report: Report, servers: tuple[Measured, ...], effort: Effort) -> None:
    """Reports the cost of a streamed token."""
    results = await measure.cpu_per_token(servers, effort.scenarios, effort.rounds)
    report.title(
        f"Server CPU per streamed token (median of {effort.rounds})", "µs", "times the echo", "tokens/s/stream"
    )
    for scenario, by_server in results.items():
        print(f"  {scenario}")
        echo = [run.cpu for run in by_server[servers[0].name]]
        for name, runs in by_server.items():
            cpu = [run.cpu for run in runs]
            ratio = measure.median_ratio(cpu, echo)
            bar = CPU_BARS.get(scenario.name) if name == PALAVER else None
            report.row(
                name,
                f"{statistics.median(cpu):.1f}",
                f"{ratio:.2f}",
                f"{statistics.median(run.rate for run in runs):,.1f}",
                note=report.verdict(ratio, bar, f"server CPU per token, {scenario.name}"),
            )


async def telemetry(report: Report, upstream: Measured, folder: Path, effort: Effort) -> None:
    """Reports what traces and metrics add to the cost of a token."""
    # What telemetry costs, it costs for each turn, so the length of the reply matters.
    scenario = Scenario("50 paced streams", 50, FULL.paced)
    with (
        processes.collector() as receiver,
        processes.palaver(upstream, folder / "off") as off,
        processes.palaver(upstream, folder / "on", "with telemetry", **processes.telemetry(receiver)) as on,
    ):
        results = (await measure.cpu_per_token((off, on), (scenario,), effort.telemetry_rounds))[scenario]
    costs = {name: [run.cpu for run in runs] for name, runs in results.items()}
    # All rounds together: the difference is smaller than what two rounds of the same server differ by.
    ratio = sum(costs[on.name]) / sum(costs[off.name])
    report.title(f"Telemetry: server CPU per token, {scenario} (mean of {effort.telemetry_rounds})", "µs", "times off")
    report.row("off", f"{statistics.mean(costs[off.name]):.1f}", "1.00")
    report.row(
        "traces and metrics",
        f"{statistics.mean(costs[on.name]):.1f}",
        f"{ratio:.3f}",
        note=report.verdict(ratio, TELEMETRY_BAR, "server CPU per token with telemetry"),
    )


async def first_pieces(report: Report, upstream: Measured, servers: tuple[Measured, ...], effort: Effort) -> None:
    """Reports the time to the first piece."""
    results = await measure.first_piece(upstream, servers, effort.first_pieces)
    cuts = {name: statistics.quantiles(times, n=100) for name, times in results.items()}
    report.title(
        f"Time to the first piece, one stream at a time, {effort.first_pieces} calls, ms",
        "p50", "p99", "p50 added", "p99 added",
    )  # fmt: skip
    direct = cuts["direct"]
    for name, cut in cuts.items():
        values = (cut[49], cut[98], cut[49] - direct[49], cut[98] - direct[98])
        report.row(name, *(f"{value:.2f}" for value in values))


async def histories(report: Report, server: Measured, steps: dict[str, int], effort: Effort) -> None:
    """Reports the cost of a turn by the length of the conversation."""
    results = await measure.turn_cost(server, effort.turns, effort.turn_rounds)
    report.title(
        f"A turn that sends {MAX_HISTORY} messages of a long conversation (median of {effort.turn_rounds})",
        "CPU ms", "times the first", "wall ms", "times the first", "SQLite steps",
    )  # fmt: skip
    first_cpu, first_wall = next(iter(results.values()))
    for name, (cpu, wall) in results.items():
        ratio = measure.median_ratio(cpu, first_cpu)
        report.row(
            name,
            f"{statistics.median(cpu):.2f}",
            f"{ratio:.2f}",
            f"{statistics.median(wall):.2f}",
            f"{measure.median_ratio(wall, first_wall):.2f}",
            f"{steps[name]:,}",
            note=report.verdict(ratio, HISTORY_BAR if name == LONGEST_HISTORY else None, f"CPU of a turn {name}"),
        )


async def table_traffic(report: Report) -> None:
    """Reports the cost of a turn in Azure Table Storage."""
    results = await tables.traffic()
    report.title(
        f"The same turn in Azure Table Storage (Azurite), {MAX_HISTORY} messages in its window",
        "requests", "bytes sent", "bytes received", "times the first", "ms",
    )  # fmt: skip
    if isinstance(results, str):
        report.missed.append(f"traffic of Azure Table Storage, not measured: {results}")
        return
    first = next(iter(results.values()))
    for size, traffic in results.items():
        ratio = (traffic.sent + traffic.received) / (first.sent + first.received)
        if traffic.requests != first.requests:
            ratio = math.inf
        report.row(
            f"after {size:,} messages",
            f"{traffic.requests}",
            f"{traffic.sent:,}",
            f"{traffic.received:,}",
            f"{ratio:.3f}",
            f"{traffic.milliseconds:.1f}",
            note=report.verdict(ratio, TRAFFIC_BAR if size == max(results) else None, "traffic of a turn"),
        )


async def run(effort: Effort, folder: Path) -> list[str]:
    """Makes all measurements and returns the bars that were missed."""
    report = Report()
    await measure.fill(folder)
    steps = await measure.store_steps(folder)
    with (
        processes.endpoint() as upstream,
        processes.echo() as echo,
        processes.typed(upstream, folder) as typed,
        processes.palaver(upstream, folder) as server,
    ):
        await tokens(report, (echo, typed, server), effort)
        await first_pieces(report, upstream, (echo, typed, server), effort)
        await histories(report, server, steps, effort)
    with processes.endpoint() as upstream:
        await telemetry(report, upstream, folder, effort)
    await table_traffic(report)
    report.title("Memory per open stream, 400 streams", "KiB")
    for name, growth in (await measure.memory(folder, 400)).items():
        report.row(name, f"{growth / 1024:.1f}")
    return report.missed


def main() -> None:
    """Parses the arguments, measures, and exits with 1 if a bar is missed and `--check` is given."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one round with shorter replies: about two minutes instead of eight"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="palaver-bench-") as folder:
        missed = uvloop.run(run(QUICK if arguments.quick else FULL, Path(folder)))
    for line in missed:
        print(f"MISSED {line}")
    sys.exit(bool(missed) and arguments.check)


if __name__ == "__main__":
    main()
