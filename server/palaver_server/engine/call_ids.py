"""The identifiers of skill calls, which are also their idempotency keys."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter

from palaver_server.domain import strict_json
from palaver_server.domain.conversation import SkillCall
from palaver_server.domain.limits import MAX_SKILL_NAME_CHARACTERS


class CallIdGenerator:
    """Generates the identifiers of the calls of a turn.

    A turn that runs again after a crash gives the same call the same identifier, regardless of the id from the model. A
    skill host can therefore tell a repeated call from a new one.
    """

    def __init__(self, *turn: str) -> None:
        """Takes the values that together identify the turn."""
        self._turn = turn
        self._seen: Counter[tuple[str, str]] = Counter()

    def identify(self, name: str, arguments: str) -> tuple[SkillCall, str]:
        """Returns a call with an identifier, and an error message for the model if the arguments are invalid.

        The call's name and arguments are always valid for endpoints and for the Azure Functions extension, which read
        them later.
        """
        name = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:MAX_SKILL_NAME_CHARACTERS] or "_"
        error = ""
        try:
            canonical = json.dumps(strict_json.load_object(arguments or "{}"), sort_keys=True)
        except ValueError as problem:
            error = f"The arguments are not the JSON text of an object: {problem}"
            canonical = arguments
        self._seen[name, canonical] += 1
        identity = json.dumps([*self._turn, name, canonical, self._seen[name, canonical]])
        call_id = f"call_{hashlib.sha256(identity.encode()).hexdigest()[:32]}"
        return SkillCall(call_id, name, "{}" if error else arguments or "{}"), error
