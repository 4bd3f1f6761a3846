"""The form of the log: levels, text, JSON, and nothing in it that could mislead a reader or reveal a secret."""

from __future__ import annotations

import json
import logging
import re

import pytest

from palaver_server.domain.log_fields import fields
from palaver_server.logs import JsonFormatter, TextFormatter

SECRET = 'c2VjcmV0"\\0123456789'


def record(message: str, *arguments: object, error: Exception | None = None, **values: object) -> logging.LogRecord:
    made = logging.LogRecord("palaver_server.part", logging.WARNING, "f.py", 1, message, arguments, None)
    if error is not None:
        made.exc_info = (type(error), error, None)
    vars(made).update(fields(**values))
    return made


class TestText:
    def test_a_line_has_the_time_the_level_the_place_the_message_and_the_fields(self):
        line = TextFormatter(()).format(record("a call failed", reason="MODEL_TIMEOUT", ms=1.25, retries=2))
        assert re.fullmatch(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING palaver_server\.part: "
            r"a call failed reason=MODEL_TIMEOUT ms=1\.25 retries=2",
            line,
        )

    def test_fields_without_a_value_are_left_out(self):
        assert TextFormatter(()).format(record("m", caller="", model=None, ms=0)).endswith(" m ms=0")

    @pytest.mark.parametrize(
        ("value", "written"),
        [
            ("two words", '"two words"'),
            ("a=b", '"a=b"'),
            ('say "hi"', r'"say \"hi\""'),
            ("line\nWARNING forged", r'"line\nWARNING forged"'),
            ("\x1b[2J", r'"\u001b[2J"'),
            ("\u2028", r'"\u2028"'),
            ("naïve", "naïve"),
        ],
    )
    def test_a_value_can_be_told_from_what_stands_around_it(self, value: str, written: str):
        assert TextFormatter(()).format(record("m", assistant=value)).endswith(f" m assistant={written}")

    def test_a_message_can_not_begin_another_line(self):
        line = TextFormatter(()).format(record("the skill %s failed", "a\n2026-01-01T00:00:00Z ERROR x: forged\x1b[2J"))
        assert "\n" not in line
        assert "\x1b" not in line

    def test_a_traceback_follows(self):
        text = TextFormatter(()).format(record("m", error=ValueError("why")))
        assert text.splitlines()[-1] == "ValueError: why"


class TestJson:
    def test_a_line_is_an_object_with_the_fields_as_members(self):
        line = json.loads(JsonFormatter(()).format(record("a call failed", reason="MODEL_TIMEOUT", ms=1.25)))
        assert line.pop("time").endswith("Z")
        assert line == {
            "level": "WARNING",
            "logger": "palaver_server.part",
            "message": "a call failed",
            "reason": "MODEL_TIMEOUT",
            "ms": 1.25,
        }

    def test_it_is_one_line_even_with_a_traceback(self):
        text = JsonFormatter(()).format(record("a\nb", error=ValueError("why")))
        assert "\n" not in text
        assert json.loads(text)["exception"].endswith("ValueError: why")


@pytest.mark.parametrize("kind", [TextFormatter, JsonFormatter])
def test_no_text_makes_a_line_long(kind: type[logging.Formatter]):
    made = record("m %s", "x" * 5_000_000, error=ValueError("y" * 5_000_000), cause="z" * 5_000_000)
    assert len(kind(()).format(made)) < 30_000  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [TextFormatter, JsonFormatter])
def test_secrets_are_left_out_of_every_part(kind: type[logging.Formatter]):
    made = record(f"m {SECRET}", error=ValueError(SECRET), cause=f"key {SECRET} refused")
    text = kind((SECRET,)).format(made)  # type: ignore[call-arg]
    assert "c2VjcmV0" not in text
    assert text.count("[secret]") >= 3
