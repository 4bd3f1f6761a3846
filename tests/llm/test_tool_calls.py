"""The calls of a reply are told apart, however an endpoint cuts and marks them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver_server.llm.tool_calls import CallPiece, CallSplitter

NAMES = ("weather", "clock", "add_todo", "add")
Calls = list[tuple[str, str]]
Style = Callable[[Calls, st.DataObject], Iterator[list[CallPiece]]]


def read(chunks: list[list[CallPiece]]) -> Calls:
    splitter = CallSplitter(NAMES)
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        for delta in splitter.split(chunk):
            call = calls.setdefault(delta.position, ["", ""])
            call[0] += delta.name
            call[1] += delta.arguments
    return [(name, arguments) for _, (name, arguments) in sorted(calls.items())]


def cut(text: str, data: st.DataObject) -> list[str]:
    positions = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in zip([0, *positions], [*positions, len(text)], strict=True)]


def as_openai(calls: Calls, data: st.DataObject) -> Iterator[list[CallPiece]]:
    """The id and the name come first, with the index, and then the arguments with the index alone."""
    for index, (name, arguments) in enumerate(calls):
        yield [CallPiece(index, f"call_{index}", name, "")]
        yield from ([CallPiece(index, "", "", piece)] for piece in cut(arguments, data))


def interleaved(calls: Calls, data: st.DataObject) -> Iterator[list[CallPiece]]:
    """The calls are written at the same time, told apart by their index."""
    yield [CallPiece(index, f"call_{index}", name, "") for index, (name, _) in enumerate(calls)]
    pieces = [cut(arguments, data) for _, arguments in calls]
    for round_ in range(max(map(len, pieces))):
        yield [CallPiece(index, "", "", each[round_]) for index, each in enumerate(pieces) if round_ < len(each)]


def with_ids_alone(calls: Calls, data: st.DataObject) -> Iterator[list[CallPiece]]:
    """Every piece has the id of its call, and none has an index."""
    for number, (name, arguments) in enumerate(calls):
        yield [CallPiece(None, f"call_{number}", name, "")]
        yield from ([CallPiece(None, f"call_{number}", "", piece)] for piece in cut(arguments, data))


def with_ids_and_names_everywhere(calls: Calls, data: st.DataObject) -> Iterator[list[CallPiece]]:
    """Every piece repeats the id and the name."""
    for index, (name, arguments) in enumerate(calls):
        yield from ([CallPiece(index, f"call_{index}", name, piece)] for piece in cut(arguments, data))


def with_index_zero(calls: Calls, data: st.DataObject) -> Iterator[list[CallPiece]]:
    """All calls have the index 0, and only their ids differ."""
    for number, (name, arguments) in enumerate(calls):
        yield [CallPiece(0, f"call_{number}", name, "")]
        yield from ([CallPiece(0, "", "", piece)] for piece in cut(arguments, data))


def with_a_new_id_for_each_piece(calls: Calls, data: st.DataObject) -> Iterator[list[CallPiece]]:
    """The id is made up for each piece, and only the index tells."""
    for index, (name, arguments) in enumerate(calls):
        yield [CallPiece(index, f"id_{index}", name, "")]
        for number, piece in enumerate(cut(arguments, data)):
            yield [CallPiece(index, f"id_{index}_{number}", "", piece)]


def with_an_index_for_each_piece(calls: Calls, data: st.DataObject) -> Iterator[list[CallPiece]]:
    """The index counts the pieces, and only the id tells."""
    count = 0
    for number, (name, arguments) in enumerate(calls):
        for part, piece in enumerate(cut(arguments, data)):
            yield [CallPiece(count, f"call_{number}", name if part == 0 else "", piece)]
            count += 1


def whole_without_index_or_id(calls: Calls, _data: st.DataObject) -> Iterator[list[CallPiece]]:
    """Each call comes whole, with neither an index nor an id."""
    for name, arguments in calls:
        yield [CallPiece(None, "", name, arguments)]


def whole_in_one_chunk(calls: Calls, _data: st.DataObject) -> Iterator[list[CallPiece]]:
    """All calls come whole in one chunk, with the same index and no id."""
    yield [CallPiece(0, "", name, arguments) for name, arguments in calls]


def whole_with_one_id(calls: Calls, _data: st.DataObject) -> Iterator[list[CallPiece]]:
    """All calls have the same id, and only the index differs."""
    for index, (name, arguments) in enumerate(calls):
        yield [CallPiece(index, "call", name, arguments)]


def with_late_ids(calls: Calls, data: st.DataObject) -> Iterator[list[CallPiece]]:
    """The id comes with the last piece."""
    for index, (name, arguments) in enumerate(calls):
        yield [CallPiece(index, "", name, "")]
        yield from ([CallPiece(index, "", "", piece)] for piece in cut(arguments, data))
        yield [CallPiece(index, f"call_{index}", "", "")]


def repeated_at_the_end(calls: Calls, data: st.DataObject) -> Iterator[list[CallPiece]]:
    """Each call is sent whole once more when it is complete."""
    for index, (name, arguments) in enumerate(calls):
        yield [CallPiece(index, f"call_{index}", name, "")]
        yield from ([CallPiece(index, "", "", piece)] for piece in cut(arguments, data))
        yield [CallPiece(index, f"call_{index}", name, arguments)]


def with_names_in_pieces(calls: Calls, data: st.DataObject) -> Iterator[list[CallPiece]]:
    """The name comes in two pieces."""
    for index, (name, arguments) in enumerate(calls):
        yield [CallPiece(index, f"call_{index}", name[:3], "")]
        yield [CallPiece(index, "", name[3:], "")] if name[3:] else []
        yield from ([CallPiece(index, "", "", piece)] for piece in cut(arguments, data))


STYLES: list[Style] = [
    as_openai, interleaved, with_ids_alone, with_ids_and_names_everywhere, with_index_zero,
    with_a_new_id_for_each_piece, with_an_index_for_each_piece, whole_without_index_or_id, whole_in_one_chunk,
    whole_with_one_id, with_late_ids, repeated_at_the_end, with_names_in_pieces,
]  # fmt: skip

arguments = st.dictionaries(st.text(max_size=3), st.text('ab{}"\\é', max_size=4) | st.integers(), max_size=3)
calls = st.lists(st.tuples(st.sampled_from(NAMES), arguments.map(json.dumps)), min_size=1, max_size=4)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)
@given(calls=calls, data=st.data())
def test_calls_are_read_in_every_style(style: Style, calls: Calls, data: st.DataObject):
    assert read(list(style(calls, data))) == calls


@pytest.mark.parametrize("style", [as_openai, with_ids_alone, with_index_zero, with_a_new_id_for_each_piece])
@given(names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4), data=st.data())
def test_calls_without_arguments_are_read(style: Style, names: list[str], data: st.DataObject):
    calls = [(name, "") for name in names]
    assert read(list(style(calls, data))) == calls


def test_state_of_the_endpoint_comes_with_its_call():
    splitter = CallSplitter(NAMES)
    first, second = splitter.split([CallPiece(0, "a", "clock", "{}", {"x": 1}), CallPiece(1, "b", "clock", "{}")])
    assert (first.endpoint_state, second.endpoint_state) == ({"x": 1}, None)


def test_many_small_pieces_are_not_joined_again_and_again():
    pieces = [
        [CallPiece(0, "call_0", "clock", '{"text": "')],
        *([CallPiece(0, "", "", "x" * 8)] for _ in range(20_000)),
    ]
    [(name, text)] = read([*pieces, [CallPiece(0, "", "", '"}')]])
    assert (name, len(json.loads(text)["text"])) == ("clock", 160_000)
