"""Skills: what the model may ask for, and who answers. The engine knows no more of hosts than this interface."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from palaver_server.engine import schemas
from palaver_server.engine.model import SkillCallDelta
from palaver_server.errors import FieldViolation, InvalidFields
from palaver_server.models import Draft, Role, Skill, SkillCall, SkillResult, UserQuery

MAX_NAME_LENGTH = 64
NO_ANSWER = "The caller did not answer this call."


@dataclass(frozen=True, slots=True)
class Invocation:
    """A call of a skill, with what its host may authorise by."""

    call: SkillCall
    assistant_id: str
    request_id: str


class SkillHosts(Protocol):
    """The skills that the server offers to all callers."""

    def offered(self) -> tuple[Skill, ...]:
        """Returns the skills that there are now."""

    async def invoke(self, invocation: Invocation) -> SkillResult:
        """Has the host run a skill. Whatever goes wrong becomes a result that tells the model."""


class NoSkills:
    """A server without skill hosts."""

    def offered(self) -> tuple[Skill, ...]:
        """Returns nothing."""
        return ()

    async def invoke(self, invocation: Invocation) -> SkillResult:
        """Says that there is no such skill."""
        return failed(invocation.call, "There are no skills.")


def failed(call: SkillCall, words: str) -> SkillResult:
    """Makes the result of a call that has none."""
    return SkillResult(call.id, words, is_error=True)


def message(result: SkillResult) -> Draft:
    """Makes the message that holds a result."""
    return Draft(Role.TOOL, result.text, skill_call_id=result.id, is_error=result.is_error)


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The skills of a turn."""

    of_hosts: tuple[Skill, ...]
    of_caller: tuple[Skill, ...]

    @property
    def all(self) -> tuple[Skill, ...]:
        """What the model is told of."""
        return (*self.of_hosts, *self.of_caller)

    def complaint(self, call: SkillCall) -> str:
        """Says what is wrong with a call, for the model to read; empty where nothing is."""
        if self.is_of_caller(call):
            return ""  # whoever wrote the schema checks by it, at its own cost: a pattern in it could take for ever
        skill = next((skill for skill in self.of_hosts if skill.name == call.name), None)
        if skill is None:
            return f"There is no skill {call.name}. The skills are: {_listed(skill.name for skill in self.all)}."
        wrong = schemas.complaints(skill.parameters_json_schema, json.loads(call.arguments_json))
        return f"The arguments do not match the schema: {wrong}" if wrong else ""

    def is_of_caller(self, call: SkillCall) -> bool:
        """Whether the caller runs the skill."""
        return any(skill.name == call.name for skill in self.of_caller)


def toolbox(query: UserQuery, hosts: SkillHosts) -> Toolbox:
    """Finds the skills that the model may call in a turn; raises `InvalidFields`."""
    offered = {skill.name: skill for skill in hosts.offered()}
    violations = [
        FieldViolation(
            f"skill_names[{number}]", f"must be a skill that a host offers ({_listed(offered)}), not {name!r}"
        )
        for number, name in enumerate(query.skill_names)
        if name not in offered
    ]
    chosen = {name: offered[name] for name in query.skill_names if name in offered} or offered
    violations += [
        FieldViolation(f"caller_skills[{number}].name", f"must not be that of a host's skill, {skill.name!r}")
        for number, skill in enumerate(query.caller_skills)
        if skill.name in chosen
    ]
    if violations:
        raise InvalidFields(*violations)
    return Toolbox(tuple(chosen.values()), query.caller_skills)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "there are none"


class CallCollector:
    """Puts the skill calls of a reply together, which come in pieces."""

    def __init__(self) -> None:
        self._calls: list[SkillCallDelta] = []
        self._by_index: dict[int, SkillCallDelta] = {}

    def add(self, piece: SkillCallDelta) -> None:
        """Takes a piece."""
        call = self._by_index.get(piece.index)
        # Some endpoints send each call whole and give all of them the same index.
        if call is None or (piece.name and piece.id and call.id and piece.id != call.id):
            call = self._by_index[piece.index] = SkillCallDelta(piece.index, piece.id)
            self._calls.append(call)
        call.name += piece.name
        call.arguments += piece.arguments

    def calls(self) -> tuple[tuple[str, str], ...]:
        """Returns the names and the arguments."""
        return tuple((call.name, call.arguments) for call in self._calls)


class CallNames:
    """Gives the calls of a turn their identifiers.

    A turn that is run anew after a crash gives the same call the same identifier, whatever the model named it. So a
    host can tell the repeat from another call.
    """

    def __init__(self, *turn: str) -> None:
        """Takes what tells the turn from all others."""
        self._turn = turn
        self._seen: Counter[tuple[str, str]] = Counter()

    def call(self, name: str, arguments: str) -> tuple[SkillCall, str]:
        """Makes a call, and says what is wrong with its arguments, if anything is.

        Names and arguments are made such that endpoints, and the Azure Functions extension, can read them again.
        """
        name = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:MAX_NAME_LENGTH] or "_"
        complaint = ""
        try:
            canonical = json.dumps(_object(arguments), sort_keys=True)
        except (ValueError, RecursionError) as error:
            complaint = f"The arguments are not the JSON text of an object: {error}"
            canonical = arguments
        self._seen[name, canonical] += 1
        identity = json.dumps([*self._turn, name, canonical, self._seen[name, canonical]])
        call_id = f"call_{hashlib.sha256(identity.encode()).hexdigest()[:32]}"
        return SkillCall(call_id, name, "{}" if complaint else arguments or "{}"), complaint


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text or "{}", parse_constant=_refuse)
    if isinstance(value, dict):
        return value
    raise ValueError("they are something else")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def open_calls(messages: Sequence[Draft]) -> tuple[SkillCall, ...]:
    """Returns the calls at the end of a conversation that have no result yet."""
    answered: set[str] = set()
    for draft in reversed(messages):
        if draft.role is Role.TOOL:
            answered.add(draft.skill_call_id)
            continue
        return tuple(call for call in draft.skill_calls if call.id not in answered)
    return ()


def opening(query: UserQuery, waiting: Sequence[SkillCall]) -> tuple[Draft, ...]:
    """Makes the messages that a turn begins with: results for all calls that wait, and what the user says.

    Raises `InvalidFields` where the caller's results are not those that the conversation waits for.
    """
    if not query.skill_results:
        unanswered = (message(failed(call, NO_ANSWER)) for call in waiting)
        return (*unanswered, Draft(Role.USER, query.user_message))
    results = {result.id: result for result in query.skill_results}
    expected = {call.id for call in waiting}
    if results.keys() != expected:
        wanted = f"of the calls {', '.join(sorted(expected))}" if expected else "of none"
        raise InvalidFields(FieldViolation("skill_results", f"the conversation waits for the results {wanted}"))
    return tuple(message(results[call.id]) for call in waiting)
