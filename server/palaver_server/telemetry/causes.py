"""The causes of failures, as an operator may read them: nothing of a message, and no endpoint's own words."""

from __future__ import annotations

from collections.abc import Iterator

from palaver_server.domain.errors import PalaverError

MAX_CAUSE_CHARACTERS = 300

SPEAKING = ("aiohttp", "azure", "httpx2", "sqlite3", "ssl")
"""The libraries whose errors say something about connections and files, and quote no message."""


def cause_of(error: BaseException) -> str:
    """Returns what is known of the cause of an error: Palaver's own text, and the innermost exception below it."""
    told = error.log_text if isinstance(error, PalaverError) else type(error).__name__
    *_, innermost = _chain(error)
    if innermost is error or isinstance(innermost, PalaverError):
        return told[:MAX_CAUSE_CHARACTERS]
    found = type(innermost).__name__
    if isinstance(innermost, OSError) or type(innermost).__module__.partition(".")[0] in SPEAKING:
        found += f": {innermost}"
    return f"{told} ({found})"[:MAX_CAUSE_CHARACTERS]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and its causes, the innermost one last."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
