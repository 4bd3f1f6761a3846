"""What the model's endpoint answers in a scenario, from the words of the scenario."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tests.conformance.scenarios import words
from tests.support.endpoint import HANG_UP, Answer, Call, Refusal, Stream, skill_calls

Gate = Callable[[str], Any]
"""Returns the event that a gate of this name opens with."""

Cut = Callable[[int], Awaitable[None]]
"""Cuts the connections of the callers as soon as they have got so many characters."""


def answer(data: dict[str, Any], gate: Gate, cut: Cut) -> Answer:
    """Makes an answer of the endpoint."""
    if "refuse" in data:
        fields = {key: data[key] for key in ("message", "code", "param", "headers") if key in data}
        return Refusal(data["refuse"], **fields)
    if "skills" in data:
        return skill_calls(*((name, arguments) for name, arguments in data["skills"]), text=data.get("text", ""))
    items = _cut_often(data, cut) if "cut_every" in data else [_item(item, gate) for item in data["stream"]]
    return Stream(*items, finish=data.get("finish", "stop"))


def _item(item: Any, gate: Gate) -> Any:
    if isinstance(item, dict):
        return gate(item["wait"]) if "wait" in item else HANG_UP
    return item


def _cut_often(data: dict[str, Any], cut: Cut) -> list[Any]:
    """Some words, then a cut in their middle: half of them have arrived, and the rest is still on its way."""
    everything = words(data["words"]).split(" ")[:-1]
    items: list[Any] = []
    sent = 0
    for start in range(0, len(everything), data["cut_every"]):
        pieces = [f"{word} " for word in everything[start : start + data["cut_every"]]]
        items += pieces
        length = sum(map(len, pieces))
        items.append(_cutting(cut, sent + length // 2))
        sent += length
    return items


def _cutting(cut: Cut, characters: int) -> Callable[[Call], Awaitable[None]]:
    async def play(_call: Call) -> None:
        await cut(characters)

    return play
