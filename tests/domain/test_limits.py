"""The sizes of messages and turns, and the intervals of parameters."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver_server.domain.conversation import Content
from palaver_server.domain.errors import TurnTooLarge
from palaver_server.domain.limits import (
    HISTORY_MESSAGES,
    MAX_MESSAGE_UNITS,
    MAX_TURN_BYTES,
    TEMPERATURE,
    TOP_P,
    Interval,
)
from palaver_server.engine.transcript import RESERVED_BYTES, TurnSize

texts = st.text(st.characters(codec="utf-8"))


def size_of(text: str) -> TurnSize:
    """Returns the size of a turn that begins with a message."""
    size = TurnSize()
    size.add(text)
    return size


@pytest.mark.parametrize(
    ("text", "units", "size"),
    [
        ("", 0, 0),
        ("a", 1, 1),
        ("\n", 1, 2),
        ('"\\', 2, 4),
        ("\x00", 1, 6),
        ("\x7f", 1, 6),
        ("é", 1, 6),
        ("語", 1, 6),
        ("😀", 2, 12),
        ("𠀀a", 3, 13),
        ("👩‍👩‍👧", 8, 48),
        ("\ud83d", 1, 6),
    ],
)
def test_texts_have_a_size_in_utf16_and_in_json(text: str, units: int, size: int):
    assert (Content(text).utf16_units, Content(text).json_bytes) == (units, size)


@given(texts)
def test_sizes_are_those_of_the_encoded_text(text: str):
    assert Content(text).utf16_units == len(text.encode("utf-16-le")) // 2
    assert Content(text).json_bytes == len(json.dumps(text)) - 2


def test_a_turn_may_be_as_large_as_the_limits_say():
    size = size_of("x" * MAX_MESSAGE_UNITS)
    size.add_to_reply("語" * (MAX_MESSAGE_UNITS - 1))
    size.add_to_reply("a")
    with pytest.raises(TurnTooLarge, match="the reply has more than 450,000 UTF-16 code units; set max_tokens"):
        size.add_to_reply("a")


@pytest.mark.parametrize("character", ["a", "é", "😀"])
def test_a_reply_that_grows_too_long_ends_the_turn(character: str):
    size = TurnSize()
    room = MAX_MESSAGE_UNITS // Content(character).utf16_units
    for _ in range(room // 1000):
        size.add_to_reply(character * 1000)
    size.add_to_reply(character * (room % 1000))
    with pytest.raises(TurnTooLarge):
        size.add_to_reply(character)


def test_the_user_message_counts_towards_the_bytes_of_the_turn():
    # 450,000 units of non-ASCII text are 2.7 MB as encoded, so two such messages are too large.
    size = size_of("語" * MAX_MESSAGE_UNITS)
    room = (MAX_TURN_BYTES - RESERVED_BYTES - 6 * MAX_MESSAGE_UNITS) // 6
    size.add_to_reply("語" * room)
    with pytest.raises(TurnTooLarge, match="the turn has more than 3,670,016 bytes of JSON; set max_tokens"):
        size.add_to_reply("語")


def test_the_user_message_does_not_count_towards_the_length_of_the_reply():
    size = size_of("x" * MAX_MESSAGE_UNITS)
    size.add_to_reply("y" * MAX_MESSAGE_UNITS)
    with pytest.raises(TurnTooLarge, match="the reply has more than"):
        size.add_to_reply("y")


@given(st.lists(texts, max_size=20))
def test_pieces_count_as_much_as_the_whole(pieces: list[str]):
    whole = "".join(pieces)
    padding = "x" * (MAX_MESSAGE_UNITS - Content(whole).utf16_units)
    size = TurnSize()
    for piece in (padding, *pieces):
        size.add_to_reply(piece)
    with pytest.raises(TurnTooLarge):
        size.add_to_reply("x")


class TestIntervals:
    @pytest.mark.parametrize(
        ("interval", "inside", "outside"),
        [
            (Interval(0, 2), [0, -0.0, 1e-300, 1, 2], [-1e-300, -1, 2.0000001, 3]),
            (Interval(0, 1, excludes_low=True), [1e-300, 0.5, 1], [0, -0.0, -1, 1.0000001]),
            (Interval(-1, -1), [-1], [-2, 0]),
        ],
    )
    def test_both_ends_belong_to_it_unless_the_lower_one_is_left_out(
        self, interval: Interval, inside: list[float], outside: list[float]
    ):
        assert all(number in interval for number in inside)
        assert not any(number in interval for number in [*outside, math.nan, math.inf, -math.inf])

    @pytest.mark.parametrize(
        ("interval", "text"),
        [
            (TEMPERATURE, "from 0 to 2"),
            (TOP_P, "greater than 0 and at most 1"),
            (HISTORY_MESSAGES, "from 0 to 65,535"),
            (Interval(-2, 2), "from -2 to 2"),
            (Interval(0.5, 1_000_000), "from 0.5 to 1,000,000"),
        ],
    )
    def test_its_text_completes_the_sentence_of_an_error(self, interval: Interval, text: str):
        assert str(interval) == text
