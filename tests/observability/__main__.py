"""Plays five faults in front of a server with some load, and draws what its dashboard shows.

The queries are those of the dashboard, evaluated by Prometheus's engine over a scrape of each second.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from tests.deploy.promql import Sample, evaluations
from tests.deploy.queries import dashboard
from tests.observability.stage import Stage, stage
from tests.support.azurite import Azurite
from tests.support.calls import create_assistant
from tests.support.endpoint import Answer, Call, Refusal, Stream, skill_calls
from tests.support.table_proxy import drop_request, none

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "observability.svg"

CALLERS = 6
"""The callers that post one turn after the other, every third of them one that calls a skill."""

LENGTH, PAUSE = 12.0, 12.0
"""Seconds that a fault lasts, and between two of them."""

WINDOW = 8
"""Seconds of a rate."""

PANELS = (
    "Turns by outcome",
    "Turns that failed or were refused, by reason",
    "Time to the first token, p95",
    "Model errors by reason",
    "Store errors by reason",
    "Skill errors by reason",
    "Turns by caller",
    "Servers ready",
)
"""The panels of the dashboard that are drawn, by their titles."""


@dataclass
class Weather:
    """The faults of the moment."""

    model: Answer | None = None
    flood: asyncio.Task[None] | None = None
    host_answers: asyncio.Event = field(default_factory=asyncio.Event)


class Scripted(Stream):
    """Answers like a model that calls a skill if the message asks for it, unless there is a fault."""

    def __init__(self, weather: Weather) -> None:
        super().__init__("Fine.")
        object.__setattr__(self, "weather", weather)

    async def play(self, call: Call) -> None:
        weather: Weather = self.weather  # type: ignore[attr-defined]
        last = call.body["messages"][-1]
        if weather.model is not None:
            await weather.model.play(call)
        elif last["role"] == "user" and "look" in last["content"]:
            await skill_calls(("lookup", '{"task": "x"}')).play(call)
        else:
            await super().play(call)


@dataclass(frozen=True)
class Episode:
    """A fault, and how it begins and ends."""

    name: str
    begin: Callable[[Stage, Weather], None]
    end: Callable[[Stage, Weather], None]


def _model(answer: Answer | None) -> Callable[[Stage, Weather], None]:
    def change(_stage: Stage, weather: Weather) -> None:
        weather.model = answer

    return change


def _store(fault: Any) -> Callable[[Stage, Weather], None]:
    def change(running: Stage, _weather: Weather) -> None:
        running.tables.fault = fault

    return change


def _flood(running: Stage, weather: Weather) -> None:
    async def flood() -> None:
        end = time.monotonic() + LENGTH
        while time.monotonic() < end:
            await running.post(caller="flood")
            await asyncio.sleep(0.02)

    weather.flood = asyncio.create_task(flood())


async def _slowly(_call: Call) -> None:
    await asyncio.sleep(1.2)


EPISODES = (
    Episode("endpoint slow", _model(Stream(_slowly, "Late.")), _model(None)),
    Episode("endpoint 429", _model(Refusal(429, code="rate_limit_exceeded")), _model(None)),
    Episode("store down", _store(drop_request), _store(none)),
    Episode(
        "skill host hangs",
        lambda _stage, weather: weather.host_answers.clear(),
        lambda _stage, weather: weather.host_answers.set(),
    ),
    Episode("one caller floods", _flood, lambda _stage, _weather: None),
)


@asynccontextmanager
async def load(running: Stage) -> AsyncIterator[None]:
    """Posts turns of several callers until the end of the block."""

    async def post(number: int) -> None:
        await create_assistant(running.server, f"caller-{number}")
        message = "look it up" if number % 3 == 0 else "Hello"
        while True:
            await running.post(message, id=f"caller-{number}", history={"max_messages": 2})
            await asyncio.sleep(0.1)  # the pace of the callers

    tasks = [asyncio.create_task(post(number)) for number in range(CALLERS)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def scrape_each_second(running: Stage, scrapes: list[tuple[float, str]]) -> None:
    start = time.monotonic()
    for second in itertools.count():
        await asyncio.sleep(max(0.0, start + second - time.monotonic()))
        scrapes.append((time.monotonic() - start, (await running.scrape()).text))


async def play(folder: Path, azurite: Azurite) -> tuple[list[tuple[float, str]], list[tuple[str, float]]]:
    """Returns the scrapes, and the faults with the times of their beginnings."""
    weather, scrapes, begun = Weather(), [], []
    variables = {"PALAVER_STORE_TIMEOUT": "1", "PALAVER_SKILL_TIMEOUT": "1"}
    async with stage(folder, azurite.account(), **variables) as running:
        running.endpoint.default = Scripted(weather)
        answer = running.host.answers["lookup"]

        async def look_up(request: Any) -> Any:
            await weather.host_answers.wait()
            return answer(request)

        running.host.answers["lookup"] = look_up
        weather.host_answers.set()
        async with load(running):
            scraping = asyncio.create_task(scrape_each_second(running, scrapes))
            await asyncio.sleep(PAUSE)
            for episode in EPISODES:
                begun.append((episode.name, scrapes[-1][0]))
                episode.begin(running, weather)
                await asyncio.sleep(LENGTH)
                episode.end(running, weather)
                await asyncio.sleep(PAUSE)
            scraping.cancel()
    return scrapes, begun


def series_of(scrapes: list[tuple[float, str]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Returns the lines of each panel by the labels that tell them apart."""
    queries = {
        panel["title"]: panel["targets"][0]["expr"].replace("$__rate_interval", f"{WINDOW}s")
        for panel in dashboard()["panels"]
        if panel["title"] in PANELS
    }
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {title: {} for title in PANELS}
    for last in range(WINDOW, len(scrapes)):
        found = evaluations(scrapes[last - WINDOW : last + 1], list(queries.values()))
        for title, query in queries.items():
            for sample in found[query].samples:
                lines[title].setdefault(_name(sample), []).append((scrapes[last][0], sample.value))
    return lines


def _name(sample: Sample) -> str:
    labels = {name: value for name, value in sample.labels.items() if name not in ("job", "instance")}
    return ", ".join(value for value in labels.values() if value) or "all"


def draw(lines: dict[str, dict[str, list[tuple[float, float]]]], begun: list[tuple[str, float]]) -> None:
    """Draws the panels, with the times of the faults."""
    style = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    mpl.rcParams.update({"svg.hashsalt": "palaver", "svg.fonttype": "none", **style})
    figure, axes = plt.subplots(4, 2, figsize=(12, 12), sharex=True, constrained_layout=True)
    for axis, title in zip(axes.flat, PANELS, strict=True):
        axis.set_title(title, loc="left", fontweight="bold", pad=14)
        for name, points in sorted(lines[title].items()):
            axis.plot(*zip(*points, strict=True), label=name, linewidth=1.4)
        for name, start in begun:
            axis.axvspan(start, start + LENGTH, color="0.92", zorder=0)
            place = axis.get_xaxis_transform()
            axis.text(start + LENGTH / 2, 1.01, name, ha="center", fontsize=6, color="0.4", transform=place)
        axis.set_ylim(0, 1.3 * axis.get_ylim()[1])
        axis.legend(fontsize=6, loc="upper left", frameon=False)
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="palaver-") as folder, Azurite() as azurite:
        scrapes, begun = asyncio.run(play(Path(folder), azurite))
    draw(series_of(scrapes), begun)
    print(f"drew {PICTURE}")


if __name__ == "__main__":
    main()
