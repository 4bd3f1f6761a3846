"""The history in a form that strict providers accept. What is stored stays as it is.

The providers' rules together: the system message comes first and alone; then user and assistant alternate, beginning
with the user; no message is blank; a tool message answers a call of the assistant message before it, every call is
answered, and no user message directly follows a tool message; ids of calls are nine letters and digits, and unique;
a call has a name that a skill may have, and a JSON object as its arguments.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from palaver_server.domain import strict_json
from palaver_server.domain.conversation import Content, Draft, Role, SkillCall, skill_name

NO_TEXT = Content("(no text)")
"""Stands for a blank message, which several providers refuse."""

NO_RESULT = "There is no result of this call."
"""Answers a call that the stored conversation has no result for."""

EARLIER = "(Earlier messages are not shown.)"
"""Begins a history whose first message is not the user's."""

GO_ON = "(The conversation continues.)"
"""Comes between the result of a call and the next user message."""

ID_CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def fit(messages: Sequence[Draft]) -> list[Draft]:
    """Returns messages that every provider accepts and that say the same."""
    system, rest = _split_system(messages)
    if any(message.skill_calls or message.role is Role.TOOL for message in rest):
        rest = list(_answered(_with_sound_tools(_with_sound_calls(rest))))
    return [*system, *_alternating(rest)]


def call_id(stored_id: str) -> str:
    """Returns the id of a call in the form that Mistral insists on. The same call always has the same one."""
    number = int.from_bytes(hashlib.sha256(stored_id.encode()).digest()[:8], "big")
    characters = []
    for _ in range(9):
        number, remainder = divmod(number, len(ID_CHARACTERS))
        characters.append(ID_CHARACTERS[remainder])
    return "".join(characters)


def _split_system(messages: Sequence[Draft]) -> tuple[list[Draft], list[Draft]]:
    """Returns one system message with the content of all of them, if there are any, and the other messages."""
    content = Content.joined(message.content for message in messages if message.role is Role.SYSTEM)
    system = [Draft(Role.SYSTEM, content)] if content else []
    return system, [message for message in messages if message.role is not Role.SYSTEM]


def _with_sound_calls(messages: Iterable[Draft]) -> Iterator[Draft]:
    """Gives the calls that other programs stored unique ids, and names and arguments of the right form."""
    times: Counter[str] = Counter()
    ids: dict[str, list[str]] = {}  # for each stored id in the latest message of calls, those of its calls
    for message in messages:
        if message.role is not Role.TOOL:
            ids = {}
            calls = []
            for call in message.skill_calls:
                # Some programs count the calls of each reply from the start.
                unique = f"{call.id}#{times[call.id]}" if times[call.id] else call.id
                times[call.id] += 1
                ids.setdefault(call.id, []).insert(0, unique)
                calls.append(SkillCall(unique, skill_name(call.name), _arguments(call.arguments_json)))
            yield replace(message, skill_calls=tuple(calls)) if calls else message
        elif answered := ids.get(message.skill_call_id):
            yield replace(message, skill_call_id=answered.pop())
        else:
            yield message


def _arguments(text: str) -> str:
    """Returns the arguments of a call as the JSON text of an object."""
    try:
        strict_json.load_object(text)
    except ValueError:
        return json.dumps({"arguments": text}) if text.strip() else "{}"
    return text


def _with_sound_tools(messages: Iterable[Draft]) -> Iterator[Draft]:
    """Turns tool messages that answer no call, such as the older rows of the extension, into text of the user."""
    open_ids: set[str] = set()
    orphans: list[Draft] = []  # they must not come between a call and its results
    for message in messages:
        if message.role is not Role.TOOL:
            yield from orphans
            orphans.clear()
            open_ids = {call.id for call in message.skill_calls}
            yield message
        elif message.skill_call_id in open_ids:
            open_ids.discard(message.skill_call_id)
            yield message
        else:
            orphans.append(_as_text(message))
    yield from orphans


def _as_text(result: Draft) -> Draft:
    name = f"The function {result.skill_name}" if result.skill_name else "A function"
    return Draft(Role.USER, Content(f"({name} returned:) {result.content.text}"))


def _answered(messages: Iterable[Draft]) -> Iterator[Draft]:
    """Adds a result for each call that has none, behind those that have one."""
    waiting: dict[str, SkillCall] = {}
    for message in messages:
        if message.role is not Role.TOOL:
            yield from map(_without_result, waiting.values())
            waiting = {call.id: call for call in message.skill_calls}
        else:
            waiting.pop(message.skill_call_id, None)
        yield message
    yield from map(_without_result, waiting.values())


def _without_result(call: SkillCall) -> Draft:
    return Draft(Role.TOOL, Content(NO_RESULT), skill_call_id=call.id, is_error=True)


def _alternating(messages: Iterable[Draft]) -> list[Draft]:
    """Returns messages that alternate, with placeholders where one is blank or missing."""
    fitted: list[Draft] = []
    for message in messages:
        role = message.role if message.role in (Role.ASSISTANT, Role.TOOL) else Role.USER
        before = fitted[-1].role if fitted else None
        if before is None and role is not Role.USER:
            fitted.append(Draft(Role.USER, Content(EARLIER)))
        elif before is Role.TOOL and role is Role.USER:
            fitted.append(Draft(Role.ASSISTANT, Content(GO_ON)))
        elif before is role and role is not Role.TOOL and not fitted[-1].skill_calls:
            fitted[-1] = _merged(fitted[-1], message)
            continue
        fitted.append(_visible(message if message.role is role else replace(message, role=role)))
    return fitted


def _merged(first: Draft, second: Draft) -> Draft:
    contents = (content for content in (first.content, second.content) if content != NO_TEXT)
    return _visible(replace(second, role=first.role, content=Content.joined(contents)))


def _visible(message: Draft) -> Draft:
    return replace(message, content=NO_TEXT) if message.content.is_blank and not message.skill_calls else message
