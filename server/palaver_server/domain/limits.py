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

MAX_DENIED_FIELDS = 8
"""The fields that an error about missing rights names at most. With their rules, they fit into a trailer of 8 KiB."""

MAX_RULE_CHARACTERS = 100
"""Characters of a caller's rule, and of the name that breaks it, that an error about missing rights quotes at most."""

MAX_QUOTED_CHARACTERS = 300
"""Characters of a request that an error message quotes at most. A whole message has 1,000 bytes."""

MAX_LABELS = 100
"""The models, and the skills, that metrics tell apart. Each takes some ten kilobytes in a process and in Prometheus."""

MIN_QUOTAS_TO_SWEEP = 1_000
"""The callers whose limits are kept before those that were idle for a minute are looked for. About 200 bytes each."""

MAX_WATCHED_FILE_BYTES = 1024 * 1024
"""The maximum size of the callers' file, and of a file with certificates. A block has about 500 bytes."""

MAX_ISSUER_RESPONSE_BYTES = 256 * 1024
"""The maximum size of an issuer's discovery document and of its key set. Entra ID's, with certificates, has 20 KiB."""

MAX_ISSUER_KEYS = 100
"""The keys of an issuer that are used at most. Large issuers publish about ten."""

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
NEXT_PAGE_RULE = "must be the next_page_token of a page of the same listing"
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

MAX_UNREAD_BYTES = 96 * 1024 * 1024
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

MAX_DESCRIPTION_CHARACTERS = 16_384
"""The maximum length of the description of a host's skill, which is sent to the model with every prompt."""
MAX_HOST_SKILLS = 128
"""The maximum number of skills of a host, which is also OpenAI's limit for a prompt."""

MAX_HOST_SCHEMA_CHARACTERS = 131_072
"""The maximum length of the schema of a host's skill, which is sent to the model with every prompt."""

MAX_SKILL_RESULT_BYTES = 256 * 1024
"""The maximum size of a skill host's result in UTF-8."""

MAX_SKILL_ROUNDS = 48
"""The highest `max_skill_rounds` that may be set: a round stores at least two messages, and a turn holds 98."""

MAX_REASONING_CHARACTERS = 4_000_000
"""The maximum length of all reasoning in a turn, which is held in memory: about a million tokens."""

MAX_REPLY_CALLS = 1_024
"""The maximum number of skill calls in a reply. A turn holds fewer than 98, and reports a reply with more of them."""

END_TIMEOUT = 5.0
"""Seconds that an endpoint may take to end its stream after the finish reason. The reply is whole by then."""

MAX_EVENT_ITEMS = 50_000
"""The maximum number of braces and brackets in an event of a stream. A piece of a reply has a few, and even a whole
reply that is a program has some thousands."""

MAX_INTERIM_RESPONSES = 16
"""The most interim responses (HTTP status 1xx) before the response of an endpoint. Proxies send one or two."""

MAX_REFUSAL_BYTES = 64 * 1024
"""The most bytes that are read of an endpoint's error, after inflation. The errors of real endpoints have a few KiB."""

REFUSAL_TIMEOUT = 5.0
"""Seconds that the body of an endpoint's error may take. What has arrived by then is used."""
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
