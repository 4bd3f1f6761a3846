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
MAX_METADATA_BYTES = 16_384
"""The maximum size of a call's metadata, as gRPC counts it. It is also gRPC's default for what it refuses for sure."""

MAX_RECEIVING = 128
"""The maximum number of requests that are arriving at a time. One more ends the one that has been arriving longest."""

MAX_ADDRESS_RECEIVING = 32
"""The same for the requests from one address. Small requests arrive at once, so only large ones ever come near."""

RECEIVE_TIMEOUT = 20.0
"""Seconds in which a request must arrive. 2 MiB take that long at 1 Mbit/s."""

BUFFERED_BYTES = 65_536
"""The size of a response that gRPC takes off the server's hands even if the peer does not read."""

MAX_UNREAD_BYTES = 128 * 1024 * 1024
"""The maximum size of larger responses that wait to be read. gRPC copies them, so they take twice the memory."""

MAX_ADDRESS_UNREAD_BYTES = 32 * 1024 * 1024
"""The same for the responses to one address: ten pages of messages."""

MAX_PAGES = 4
"""The maximum number of pages of messages that are read and rendered at a time. Others wait for a moment."""

MAX_ADDRESS_PAGES = 2
"""The same for one address, so that the pages of others don't wait behind those of one that asks for many."""

DEFAULT_HISTORY_MESSAGES = 100
DEFAULT_HISTORY_MESSAGES_CAP = 1_000
DEFAULT_HISTORY_BYTES = 2 * 1024 * 1024
"""The default limit of the stored messages of a prompt, in UTF-8: half a million tokens of English."""

MAX_PAGE_BYTES = 3 * 1024 * 1024
"""The maximum size of a page in UTF-8, so that it fits into a gRPC message of 4 MiB, the default limit of clients."""

MAX_CALLER_SKILLS = 128
"""The maximum number of skills in a request, which is also OpenAI's limit."""

MAX_SKILL_NAMES = 128
"""The maximum number of `skill_names` in a request."""

MAX_SCHEMAS_CHARACTERS = 32_768
"""The maximum length of all schemas in a request. Checking that much takes less than 10 milliseconds."""

MAX_SKILL_NAME_CHARACTERS = 64
SKILL_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_SKILL_NAME_CHARACTERS}}}")
SKILL_NAME_RULE = f"must be 1 to {MAX_SKILL_NAME_CHARACTERS} ASCII letters, digits, _ and -"

MAX_HOST_SKILLS = 128
"""The maximum number of skills of a host, which is also OpenAI's limit for a prompt."""

MAX_HOST_SCHEMA_CHARACTERS = 131_072
"""The maximum length of the schema of a host's skill, which is sent to the model with every prompt."""

MAX_SKILL_RESULT_BYTES = 256 * 1024
"""The maximum size of a skill host's result in UTF-8."""

MAX_SKILL_ROUNDS = 48
"""The highest `max_skill_rounds` that may be set: a round stores at least two messages, and a turn holds 98."""


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
