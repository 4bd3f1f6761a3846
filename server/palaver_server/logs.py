"""The output on stderr, without secrets: the log, and the error with which the program ends."""

from __future__ import annotations

import logging
import os
import sys
from types import TracebackType

from palaver_server.domain.redaction import redacted, secrets_in

logger = logging.getLogger(__name__)


class RedactingFormatter(logging.Formatter):
    """Formats records, with their tracebacks, without the secrets in them or in the environment."""

    def __init__(self, template: str) -> None:
        super().__init__(template)
        self._secrets = secrets_in(os.environ)

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record."""
        return redacted(super().format(record), self._secrets)


def log_to_stderr() -> None:
    """Sends the log to stderr, and exceptions that nothing catches to the log."""
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    sys.excepthook = _log_uncaught


def exit_with(text: str) -> None:
    """Ends the program with a line that says what is wrong."""
    sys.exit(f"palaver-server: {redacted(text, secrets_in(os.environ))}")


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        logger.critical("the program ends with an error", exc_info=(kind, error, traceback))
