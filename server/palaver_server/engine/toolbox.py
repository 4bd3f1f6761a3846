"""The skills that the model may call in a turn."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from palaver_server.domain.conversation import Skill, SkillCall
from palaver_server.domain.errors import FieldViolation, InvalidFields
from palaver_server.domain.ports import SkillSource
from palaver_server.domain.turns import UserQuery


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The skills of a turn: those that the server calls, and those that the caller runs."""

    server_skills: tuple[Skill, ...]
    caller_skills: tuple[Skill, ...]

    @classmethod
    def for_query(cls, query: UserQuery, source: SkillSource) -> Toolbox:
        """Returns the skills that a query selects; raises `InvalidFields` if it names one that is not available."""
        offered = {skill.name: skill for skill in source.offered() if skill.name in query.allowed_skills}
        violations = [
            FieldViolation(
                f"skill_names[{number}]", f"must be a skill that a host offers ({_listed(offered)}), not {name!r}"
            )
            for number, name in enumerate(query.skill_names)
            if name not in offered
        ]
        chosen = {name: offered[name] for name in query.skill_names if name in offered} or offered
        violations += [
            FieldViolation(f"caller_skills[{number}].name", f"must not be the name of a host's skill: {skill.name!r}")
            for number, skill in enumerate(query.caller_skills)
            if skill.name in chosen
        ]
        if violations:
            raise InvalidFields(*violations)
        return cls(tuple(chosen.values()), query.caller_skills)

    @property
    def all(self) -> tuple[Skill, ...]:
        """The skills that the model is offered."""
        return (*self.server_skills, *self.caller_skills)

    def name_of(self, name: str) -> str:
        """Returns the name of the skill that a model means. Some write it with a namespace: "functions.weather"."""
        names = {skill.name for skill in self.all}
        if name in names:
            return name
        last = re.split(r"[.:/]", name.strip())[-1]
        return last if last in names else name

    def is_of_caller(self, call: SkillCall) -> bool:
        """Returns whether the caller runs the skill of a call."""
        return any(skill.name == call.name for skill in self.caller_skills)

    def call_error(self, call: SkillCall) -> str:
        """Returns an error message for the model if there is no skill of a call, or an empty string.

        Sources and callers check the arguments of their skills.
        """
        if any(skill.name == call.name for skill in self.all):
            return ""
        return f"There is no skill {call.name}. The skills are: {_listed(skill.name for skill in self.all)}."


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "there are none"
