"""Runs the scenarios with every client, and prints the matrix.

    python -m tests.conformance --language go --scenario cut -v

A scenario is passed when all that it expects came true. The scenarios of `must_fail.yaml` expect what is wrong, and are
passed when the difference was seen.
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

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before gRPC is imported; servers come and go here

from tests.conformance.languages import CI, LANGUAGES, ROOT, Language
from tests.conformance.runner import Runner
from tests.conformance.scenarios import MUST_FAIL, Scenario, read, scenarios
from tests.conformance.stage import TIME_LIMIT, NotAsExpectedError, Stage, missing_tools
from tests.support import azurite

PASSED, FAILED, SKIPPED = "ok", "FAILED", "skipped"


@dataclass
class Column:
    """What one language has shown."""

    language: Language
    results: dict[str, str] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """A scenario, and whether its expectations are right."""

    scenario: Scenario
    must_fail: bool = False

    @property
    def name(self) -> str:
        return f"(wrong on purpose) {self.scenario.name}" if self.must_fail else self.scenario.name


async def play_all(language: Language, rows: Sequence[Row], emulator: azurite.Azurite, verbose: bool) -> Column:
    """Plays the scenarios one after the other, with one runner as long as it lives."""
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
                place = folder / str(number)
                place.mkdir()
                differences = await _play(Stage(row.scenario, runner, language.chat, place, emulator))
                passed = bool(differences) == row.must_fail
                column.results[row.name] = PASSED if passed else FAILED
                if not passed:
                    why = differences or ["a wrong expectation was not seen"]
                    column.findings += [f"{language.name}: {row.name}", *(f"    {line}" for line in why)]
                if verbose:
                    print(f"{column.results[row.name]:<8}{language.name}: {row.name}", *differences, sep="\n    ")
                if runner.is_gone:
                    await stack.aclose()
                    runner = await stack.enter_async_context(Runner(language.runner, folder))
                shutil.rmtree(place, ignore_errors=True)
        if column.findings and runner.stderr:
            column.findings += [f"{language.name}: the runner complained:", runner.stderr[-2000:]]
    return column


async def _play(stage: Stage) -> list[str]:
    try:
        await asyncio.wait_for(stage.play(), TIME_LIMIT)
    except NotAsExpectedError as error:
        return list(error.args)
    except asyncio.TimeoutError:
        return [f"not over after {TIME_LIMIT:.0f} s, in step {stage.step}"]
    except Exception:  # a scenario that can't be played has failed, and the others go on
        return [f"step {stage.step}", traceback.format_exc()]
    return []


def matrix(columns: Sequence[Column], rows: Sequence[Row]) -> Iterator[str]:
    """Yields the lines of the table of languages and scenarios."""
    width = max(len(row.name) for row in rows) + 2
    yield " " * width + " ".join(f"{column.language.name:<12}" for column in columns)
    for row in rows:
        yield f"{row.name:<{width}}" + " ".join(f"{column.results[row.name]:<12}" for column in columns)


async def run(languages: Sequence[Language], rows: Sequence[Row], verbose: bool) -> bool:
    """Runs all, prints the matrix, and returns whether everything passed."""
    with azurite.Azurite() as emulator:
        columns = await asyncio.gather(*(play_all(language, rows, emulator, verbose) for language in languages))
    print(*matrix(columns, rows), sep="\n")
    for column in columns:
        if column.findings:
            print("", *column.findings, sep="\n")
    results = [result for column in columns for result in column.results.values()]
    print(f"\n{len(rows)} scenarios, {len(columns)} clients: {results.count(PASSED)} passed, "
          f"{results.count(FAILED)} failed, {results.count(SKIPPED)} skipped")  # fmt: skip
    return FAILED not in results and not (CI and SKIPPED in results)


def main() -> None:
    """Reads the arguments, runs, and judges."""
    logging.basicConfig(level=logging.CRITICAL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # what the chats that are interrupted here would inherit
        signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=(__doc__ or "").splitlines()[0])
    names = [language.name for language in LANGUAGES]
    parser.add_argument("--language", action="append", choices=names, help="only this one; may be repeated")
    parser.add_argument("--scenario", default="", metavar="TEXT", help="only those with this text in their names")
    parser.add_argument("-v", "--verbose", action="store_true", help="print each scenario when it is over")
    arguments = parser.parse_args()
    rows = [Row(scenario) for scenario in scenarios()] + [Row(scenario, must_fail=True) for scenario in read(MUST_FAIL)]
    rows = [row for row in rows if arguments.scenario.lower() in row.name.lower()]
    missing = [azurite.why_missing(), *missing_tools([row.scenario for row in rows])]
    if found := [what for what in missing if what]:
        sys.exit(f"missing: {'; '.join(found)}")
    if not rows:
        sys.exit(f'no scenario has "{arguments.scenario}" in its name')
    chosen = [language for language in LANGUAGES if not arguments.language or language.name in arguments.language]
    os.chdir(ROOT)
    sys.exit(not asyncio.run(run(chosen, rows, arguments.verbose)))


if __name__ == "__main__":
    main()
