"""The causes of failures, as an operator may read them: nothing of a message, and no endpoint's own words."""

from __future__ import annotations

from collections.abc import Iterator

from palaver_server.domain.errors import PalaverError

MAX_CAUSE_CHARACTERS = 300

SPEAKING = ("sqlite3",)
"""The libraries whose errors quote nothing. Those of HTTP quote the bytes that they can't parse."""


def cause_of(error: BaseException, *, quotes: bool = False) -> str:
    """Returns what is known of the cause of an error: Palaver's own text, and the innermost exception below it.

    With `quotes`, it may quote an endpoint, because there is no message that the endpoint could quote.
    """
    *_, innermost = _chain(error)
    texts = dict.fromkeys(filter(None, (_told(error, quotes) or type(error).__name__, _told(innermost, quotes))))
    told, *found = (" ".join(text.split()) for text in texts)
    cause = f"{told} ({found[0]})" if found else told
    return cause if len(cause) <= MAX_CAUSE_CHARACTERS else f"{cause[: MAX_CAUSE_CHARACTERS - 1]}…"


def _told(error: BaseException, quotes: bool) -> str:
    """Returns what an error says, or only its type if it might quote something."""
    if isinstance(error, PalaverError):
        return str(error) if quotes else error.log_text
    name, library = type(error).__name__, type(error).__module__.partition(".")[0]
    if library == "palaver_server":
        return str(error)
    if library == "openai":
        return ""  # it says in other words what has been read from the response
    return f"{name}: {error}" if str(error) and (isinstance(error, OSError) or library in SPEAKING) else name


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and its causes, the innermost one last."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
