"""Runs the scenarios with every client and prints the matrix.

    python -m tests.conformance --language go --scenario reconnects -v

A scenario passes if all of its expectations are met. The expectations in `must_fail.yaml` are wrong on purpose; these
scenarios pass if the suite detects that.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault(
    "GRPC_VERBOSITY", "NONE"
)  # before gRPC is imported; its warnings about lost connections are expected

from tests.conformance.languages import CI, LANGUAGES, ROOT, Language
from tests.conformance.runner import Runner
from tests.conformance.scenarios import MUST_FAIL, Scenario, read, scenarios
from tests.conformance.stage import TIME_LIMIT, NotAsExpectedError, Stage, missing_tools
from tests.support import azurite

PASSED, FAILED, SKIPPED = "ok", "FAILED", "skipped"


@dataclass
class Column:
    """The results of one client."""

    language: Language
    results: dict[str, str] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """A scenario, and whether it must fail."""

    scenario: Scenario
    must_fail: bool = False

    @property
    def name(self) -> str:
        return f"(wrong on purpose) {self.scenario.name}" if self.must_fail else self.scenario.name


async def run_all(language: Language, rows: Sequence[Row], emulator: azurite.Azurite, verbose: bool) -> Column:
    """Runs the scenarios one after another, with a new runner only if the last one has ended."""
    column = Column(language)
    if missing := language.why_missing():
        column.results = {row.name: SKIPPED for row in rows}
        column.findings.append(f"SKIPPED {language.name}: {missing}")
        return column
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            runner = await stack.enter_async_context(Runner(language.runner, folder))
            for number, row in enumerate(rows):
                scenario_folder = folder / str(number)
                scenario_folder.mkdir()
                differences = await _differences(Stage(row.scenario, runner, language.chat, scenario_folder, emulator))
                passed = bool(differences) == row.must_fail
                column.results[row.name] = PASSED if passed else FAILED
                if not passed:
                    why = differences or ["the wrong expectation was not detected"]
                    column.findings += [f"{language.name}: {row.name}", *(f"    {line}" for line in why)]
                if verbose:
                    print(f"{column.results[row.name]:<8}{language.name}: {row.name}", *differences, sep="\n    ")
                if runner.is_gone:
                    await stack.aclose()
                    runner = await stack.enter_async_context(Runner(language.runner, folder))
                shutil.rmtree(scenario_folder, ignore_errors=True)
        if column.findings and runner.stderr:
            column.findings += [f"{language.name}: standard error of the runner:", runner.stderr[-2000:]]
    return column


async def _differences(stage: Stage) -> list[str]:
    """Runs a scenario and returns how it differs from its expectations."""
    try:
        await asyncio.wait_for(stage.run(), TIME_LIMIT)
    except NotAsExpectedError as error:
        return list(error.args)
    except asyncio.TimeoutError:
        return [f"timeout after {TIME_LIMIT:.0f} s in step {stage.step}"]
    except Exception:  # fails this scenario and continues with the others
        return [f"step {stage.step}", traceback.format_exc()]
    return []


def matrix(columns: Sequence[Column], rows: Sequence[Row]) -> Iterator[str]:
    """Yields the lines of the table of clients and scenarios."""
    width = max(len(row.name) for row in rows) + 2
    yield " " * width + " ".join(f"{column.language.name:<12}" for column in columns)
    for row in rows:
        yield f"{row.name:<{width}}" + " ".join(f"{column.results[row.name]:<12}" for column in columns)


async def run(languages: Sequence[Language], rows: Sequence[Row], verbose: bool) -> bool:
    """Runs all scenarios, prints the matrix and returns whether everything passed."""
    with azurite.Azurite() as emulator:
        columns = await asyncio.gather(*(run_all(language, rows, emulator, verbose) for language in languages))
    print(*matrix(columns, rows), sep="\n")
    for column in columns:
        if column.findings:
            print("", *column.findings, sep="\n")
    results = [result for column in columns for result in column.results.values()]
    print(f"\n{len(rows)} scenarios, {len(columns)} clients: {results.count(PASSED)} passed, "
          f"{results.count(FAILED)} failed, {results.count(SKIPPED)} skipped")  # fmt: skip
    return FAILED not in results and not (CI and SKIPPED in results)


def main() -> None:
    """Runs the command line."""
    logging.basicConfig(level=logging.CRITICAL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # the terminal chats, which get SIGINT, would inherit that
        signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=(__doc__ or "").splitlines()[0])
    names = [language.name for language in LANGUAGES]
    parser.add_argument("--language", action="append", choices=names, help="run only this client; may be repeated")
    parser.add_argument(
        "--scenario", default="", metavar="TEXT", help="run only scenarios with this text in their name"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print each scenario when it ends")
    arguments = parser.parse_args()
    rows = [Row(scenario) for scenario in scenarios()] + [Row(scenario, must_fail=True) for scenario in read(MUST_FAIL)]
    rows = [row for row in rows if arguments.scenario.lower() in row.name.lower()]
    missing = [azurite.why_missing(), *missing_tools([row.scenario for row in rows])]
    if found := [what for what in missing if what]:
        sys.exit(f"missing: {'; '.join(found)}")
    if not rows:
        sys.exit(f'no scenario with "{arguments.scenario}" in its name')
    chosen = [language for language in LANGUAGES if not arguments.language or language.name in arguments.language]
    os.chdir(ROOT)
    sys.exit(not asyncio.run(run(chosen, rows, arguments.verbose)))


if __name__ == "__main__":
    main()
