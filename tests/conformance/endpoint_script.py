"""Converts the `model` of a scenario to answers of the scripted endpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tests.conformance.scenarios import words
from tests.support.endpoint import HANG_UP, Answer, Call, Refusal, Stream, skill_calls

Gate = Callable[[str], Any]
"""Returns the event that opens the gate with this name."""

Cut = Callable[[int], Awaitable[None]]
"""Drops the connections of the callers as soon as they have received this many characters."""


def answer(data: dict[str, Any], gate: Gate, cut: Cut) -> Answer:
    """Returns the answer of the endpoint to one call."""
    if "refuse" in data:
        fields = {key: data[key] for key in ("message", "code", "param", "headers") if key in data}
        return Refusal(data["refuse"], **fields)
    if "skills" in data:
        return skill_calls(*((name, arguments) for name, arguments in data["skills"]), text=data.get("text", ""))
    items = _words_with_cuts(data, cut) if "cut_every" in data else [_item(item, gate) for item in data["stream"]]
    return Stream(*items, finish=data.get("finish", "stop"))


def _item(item: Any, gate: Gate) -> Any:
    if isinstance(item, dict):
        return gate(item["wait"]) if "wait" in item else HANG_UP
    return item


def _words_with_cuts(data: dict[str, Any], cut: Cut) -> list[Any]:
    """Returns numbered words with cuts, each while half of the words before it are still in transit."""
    all_words = words(data["words"]).split(" ")[:-1]
    items: list[Any] = []
    sent = 0
    for start in range(0, len(all_words), data["cut_every"]):
        pieces = [f"{word} " for word in all_words[start : start + data["cut_every"]]]
        items += pieces
        length = sum(map(len, pieces))
        items.append(_cut_step(cut, sent + length // 2))
        sent += length
    return items


def _cut_step(cut: Cut, characters: int) -> Callable[[Call], Awaitable[None]]:
    async def step(_call: Call) -> None:
        await cut(characters)

    return step
