"""The skills in the turns of the harness: one of a host, which the server calls, and one that the callers run.

A question says which of them the model calls. Every result follows from the arguments of its call, and the host records
its calls, so the stored conversations show whether each call was made and got its own result.
"""

from __future__ import annotations

import json
import random

import palaver
from palaver.v1 import skill_host_service_pb2
from tests.support.skill_host import SkillHost, content

LOOK_UP, ASK = "look_up", "ask"

WISHES = {", and look it up": LOOK_UP, ", and ask me": ASK}
"""The skill that the model calls, by the end of the question."""

ASK_SKILL = palaver.Skill(ASK, "Asks the caller.", '{"type": "object"}')


def random_wish(choices: random.Random, *, may_ask: bool) -> str:
    """Returns the end of a question. A third of the questions, or two thirds, ask for a skill."""
    plain, look_up, ask = "", *WISHES
    return choices.choice([plain, look_up, ask] if may_ask else [plain, plain, look_up])


def wanted_skill(question: str) -> str | None:
    """Returns the skill that a question asks for."""
    return next((skill for wish, skill in WISHES.items() if question.endswith(wish)), None)


def arguments(story: str) -> str:
    """Returns the arguments of a call with which the model continues a story."""
    return json.dumps({"task": story})


def result_of(name: str, arguments_json: str) -> str:
    """Returns the result of a call of either skill."""
    return f"The result of {name} for {arguments_json}"


class RecordingHost(SkillHost):
    """The host of the skill `look_up`, which records its calls."""

    def __init__(self) -> None:
        super().__init__(look_up=self._look_up)
        self.invoked: set[tuple[str, str]] = set()
        """The ids and the arguments of the calls."""

    def _look_up(
        self, request: skill_host_service_pb2.InvokeSkillRequest
    ) -> skill_host_service_pb2.InvokeSkillResponse:
        self.invoked.add((request.call_id, request.arguments_json))
        return content(result_of(request.name, request.arguments_json))
