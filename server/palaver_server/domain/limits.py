"""Every limit of requests, conversations and turns. The limits are the same for all stores.

A turn must fit into one transaction of Azure Table Storage, which takes 100 operations and 4 MiB.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_REQUEST_BYTES = 2 * 1024 * 1024

MAX_ID_CHARACTERS = 255
MAX_REQUEST_ID_CHARACTERS = 128
MAX_CHAT_MODEL_CHARACTERS = 256

MAX_MESSAGES = 0xFFFF
"""The most messages of a conversation: the row keys of the extension, `msg-0001` to `msg-FFFF`, sort up to here."""

MAX_MESSAGE_UNITS = 450_000
"""The most UTF-16 code units of a message."""

MAX_TURN_MESSAGES = 98
"""The most messages of a turn: of the 100 operations of a transaction, two write the turn and the assistant."""

MAX_TURN_BYTES = 3_670_016
"""The most bytes of a turn in ASCII JSON: 3.5 MiB."""

MAX_ENDPOINT_STATE_CHARACTERS = 32_768
"""The most characters of the state that an endpoint wants back with a message: what a column of a table holds."""

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
MAX_PAGE_BYTES = 3 * 1024 * 1024
"""The most bytes of a page in UTF-8, so that it fits into a gRPC message of 4 MiB, the limit of most clients."""

MAX_CALLER_SKILLS = 128
"""The most skills of a request; OpenAI takes as many."""

MAX_SCHEMAS_CHARACTERS = 32_768
"""The most characters of all schemas of a request. To check as many takes about a tenth of a second."""

MAX_SKILL_NAME_CHARACTERS = 64
SKILL_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_SKILL_NAME_CHARACTERS}}}")

MAX_SKILL_RESULT_BYTES = 256 * 1024
"""The most bytes of UTF-8 in the answer of a skill host."""

MAX_SKILL_ROUNDS = 48
"""The highest setting of the rounds of a turn: each stores two messages or more, and a turn has at most 98."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of numbers. Both ends belong to it, unless `excludes_low` leaves out the lower one."""

    low: float
    high: float
    excludes_low: bool = False

    def __contains__(self, number: float) -> bool:
        # A NaN compares false with everything, so it is in no interval.
        return (self.low < number if self.excludes_low else self.low <= number) and number <= self.high

    def __str__(self) -> str:
        low = f"greater than {self.low:,g}" if self.excludes_low else f"from {self.low:,g}"
        return f"{low} {'and at most' if self.excludes_low else 'to'} {self.high:,}"


TEMPERATURE = Interval(0, 2)
TOP_P = Interval(0, 1, excludes_low=True)
HISTORY_MESSAGES = Interval(0, MAX_MESSAGES)
