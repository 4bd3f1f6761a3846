"""JSON in pieces is whole exactly when a parser accepts what has arrived, and asking costs linear time."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver_server.llm.growing_json import SHORT, GrowingJson

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
texts = st.builds(json.dumps, values, ensure_ascii=st.booleans()) | st.text(alphabet='{}[]":,\\ n1a\n')


def cut(text: str, ends: list[int]) -> list[str]:
    """Returns a text in pieces that end at the given places."""
    places = [0, *sorted(end % (len(text) + 1) for end in ends), len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(places)]


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@given(st.lists(texts, min_size=1, max_size=3), st.lists(st.integers(min_value=0)), st.integers(0, 3))
def test_it_tells_what_a_parser_tells(parts, ends, every):
    text, growing, so_far = "".join(parts), GrowingJson(), ""
    for number, piece in enumerate(cut(text, ends)):
        growing.add(piece)
        so_far += piece
        if not every or number % every == 0:
            whole = growing.is_whole()
            # A long number that grows is the exception. No arguments of a call and no event is one.
            assert whole == is_json(so_far) or (len(so_far) > SHORT and so_far.strip()[-1].isdigit())
    assert (growing.text, growing.length) == (text, len(text))


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        ('{"a":"', "xxxxxxx}"),
        ('{"a":', "{}"),
        ("[", "[],"),
        ("", "{}"),
        ("", "[" * 8),
        ("", '"a"'),
        ('"', '\\"'),
        ("", " \n"),
        ("", "1"),
    ],
)
def test_many_small_pieces_are_asked_about_one_by_one(first, piece):
    growing = GrowingJson()
    growing.add(first)
    for _ in range(400_000):
        growing.add(piece)
        growing.is_whole()
