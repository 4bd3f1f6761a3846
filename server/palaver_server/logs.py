"""The output on stderr, without secrets: the log, as text or as JSON, and the error with which the program ends."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from enum import Enum
from types import TracebackType

from palaver_server.domain.redaction import redacted, secrets_in

logger = logging.getLogger(__name__)

PACKAGE = "palaver_server"

MAX_CHARACTERS = 1_000
"""The most characters of a message or a value. Callers choose some of them."""

MAX_TRACEBACK_CHARACTERS = 20_000

PLAIN_VALUE = re.compile(r"[^\s\"=\\]+")
"""A value that needs no quotes in a text line."""


class LogFormat(Enum):
    """The forms of the log."""

    TEXT = "text"
    JSON = "json"


class LogLevel(Enum):
    """The least severe messages that are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class TextFormatter(logging.Formatter):
    """Formats a record as a line of text with its fields as `name=value`, and its traceback on the lines after it."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record."""
        message = _on_one_line(_clean(record.getMessage(), self._secrets))
        pairs = "".join(
            f" {name}={_quoted(_without_secrets(value, self._secrets))}" for name, value in _fields_of(record).items()
        )
        text = f"{_time_of(record)} {record.levelname} {record.name}: {message}{pairs}"
        if record.exc_info:
            text += f"\n{_clean(self.formatException(record.exc_info), self._secrets, MAX_TRACEBACK_CHARACTERS)}"
        return text


class JsonFormatter(logging.Formatter):
    """Formats a record as a line of JSON, with its fields as members."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record."""
        members: dict[str, object] = {
            "time": _time_of(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields_of(record),
        }
        clean = {name: _without_secrets(value, self._secrets) for name, value in members.items()}
        if record.exc_info:
            traceback = self.formatException(record.exc_info)
            clean["exception"] = _clean(traceback, self._secrets, MAX_TRACEBACK_CHARACTERS)
        return json.dumps(clean)  # in ASCII, so that nothing in a value looks like the end of the line


def log_to_stderr(level: LogLevel = LogLevel.INFO, form: LogFormat = LogFormat.TEXT) -> None:
    """Sends the log to stderr, and exceptions that nothing catches to the log.

    The level is that of Palaver's messages. Libraries never log more than warnings: OpenAI's and Azure's write requests
    to their other messages.
    """
    handler = logging.StreamHandler()
    secrets = secrets_in(os.environ)
    handler.setFormatter(JsonFormatter(secrets) if form is LogFormat.JSON else TextFormatter(secrets))
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.startswith(PACKAGE))
    ours: int = getattr(logging, level.name)
    logging.basicConfig(level=max(ours, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger(PACKAGE).setLevel(ours)
    sys.excepthook = _log_uncaught


def exit_with(text: str) -> None:
    """Ends the program with a line that says what is wrong."""
    sys.exit(f"palaver-server: {redacted(text, secrets_in(os.environ))}")


def _fields_of(record: logging.LogRecord) -> Mapping[str, object]:
    found: Mapping[str, object] = getattr(record, "fields", {})
    return found


def _time_of(record: logging.LogRecord) -> str:
    time = datetime.fromtimestamp(record.created, timezone.utc)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _without_secrets(value: object, secrets: tuple[str, ...]) -> bool | int | float | str:
    """Returns a value without secrets. Once it is quoted, a secret in it may be spelt with escapes."""
    return value if isinstance(value, (bool, int, float)) else _clean(str(value), secrets)


def _clean(text: str, secrets: tuple[str, ...], most: int = MAX_CHARACTERS) -> str:
    """Returns the beginning of a text, without secrets."""
    # Cut a first time before the search for secrets, which takes its time, and behind where a secret could be cut.
    text = redacted(text[: 4 * most], secrets)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _quoted(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return (
        text
        if PLAIN_VALUE.fullmatch(text) and text.isprintable()
        else json.dumps(text, ensure_ascii=not text.isprintable())
    )


def _on_one_line(text: str) -> str:
    """Returns a text in which nothing can look like the end of the line, or control a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        logger.critical("the program ends with an error", exc_info=(kind, error, traceback))
