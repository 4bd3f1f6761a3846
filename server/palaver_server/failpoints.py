"""Failpoints: the fault harness uses them to kill the server when a turn reaches a stage.

`PALAVER_FAILPOINT=stored:3` kills the process, like `kill -9`, the third time that a turn reaches the stage `stored`.
"""

from __future__ import annotations

import os
import signal

from palaver_server.domain.stages import Stage
from palaver_server.domain.turns import TurnKey

VARIABLE = "PALAVER_FAILPOINT"


class Failpoint:
    """An `Observer` that kills the process."""

    def __init__(self, stage: Stage, count: int = 1) -> None:
        """Takes the stage, and the number of times that turns must reach it."""
        self._stage = stage
        self._left = count

    @classmethod
    def parse(cls, text: str) -> Failpoint:
        """Parses "STAGE" or "STAGE:COUNT"; raises `ValueError` with a description of what is wrong."""
        name, _, count = text.partition(":")
        names = [stage.value for stage in Stage]
        if name not in names:
            raise ValueError(f"must be one of {', '.join(names)}, not {name!r}")
        if not (count or "1").isdigit() or int(count or "1") < 1:
            raise ValueError(f"the count after the colon must be 1 or more, not {count!r}")
        return cls(Stage(name), int(count or "1"))

    def reached(self, stage: Stage, turn: TurnKey, detail: object = None) -> None:
        """Kills the process if the stage has been reached often enough."""
        if stage is self._stage:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
