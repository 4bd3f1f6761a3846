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
"""The maximum number of messages in a conversation. The extension's row keys, `msg-0001` to `msg-FFFF`, end here."""

MAX_TOKENS = 2**31 - 1
"""The highest number of tokens. The contract has 32 bits for it, and so has the extension's reader."""

MAX_MESSAGE_UNITS = 450_000
"""The maximum length of a message, in UTF-16 code units."""

MAX_TURN_MESSAGES = 98
"""The maximum number of messages in a turn. The transaction's other two operations write the turn and the assistant."""

MAX_TURN_BYTES = 3_670_016
"""The maximum size of a turn in ASCII JSON: 3.5 MiB."""

MAX_ENDPOINT_STATE_CHARACTERS = 32_768
"""The maximum length of the state that an endpoint wants back with a message. A column of a table holds no more."""

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
MAX_PAGE_BYTES = 3 * 1024 * 1024
"""The maximum size of a page in UTF-8, so that it fits into a gRPC message of 4 MiB, the default limit of clients."""

MAX_CALLER_SKILLS = 128
"""The maximum number of skills in a request, which is also OpenAI's limit."""

MAX_SCHEMAS_CHARACTERS = 32_768
"""The maximum length of all schemas in a request. Checking that much takes about a tenth of a second."""

MAX_SKILL_NAME_CHARACTERS = 64
SKILL_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_SKILL_NAME_CHARACTERS}}}")
SKILL_NAME_RULE = f"must be 1 to {MAX_SKILL_NAME_CHARACTERS} ASCII letters, digits, _ and -"

MAX_SKILL_RESULT_BYTES = 256 * 1024
"""The maximum size of a skill host's result in UTF-8."""

MAX_SKILL_ROUNDS = 48
"""The highest `max_skill_rounds` that may be set: a round stores at least two messages, and a turn holds 98."""

MAX_LEASE_SECONDS = 600
"""The highest `lease_duration` that may be set: the longest that a dead server's turn may block its assistant."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of numbers. It includes both ends, unless `excludes_low` is set."""

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
