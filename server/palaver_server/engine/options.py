"""The operator's settings for turns."""

from __future__ import annotations

from dataclasses import dataclass, field

from palaver_server.domain.generation import GenerationDefaults
from palaver_server.domain.limits import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_MESSAGES,
    DEFAULT_HISTORY_MESSAGES_CAP,
)
from palaver_server.domain.turns import WindowSize


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The limits and defaults of turns. Times are in seconds. `settings` documents each of them."""

    generation: GenerationDefaults = field(default_factory=GenerationDefaults)
    history_messages: int = DEFAULT_HISTORY_MESSAGES
    history_messages_cap: int = DEFAULT_HISTORY_MESSAGES_CAP
    history_bytes: int = DEFAULT_HISTORY_BYTES
    first_token_timeout: float = 60.0
    token_timeout: float = 30.0
    turn_timeout: float = 600.0
    max_turns: int = 1000
    max_address_turns: int = 500
    queue_limit: int = 32
    lease_duration: float = 15.0
    progress_interval: float = 15.0
    max_skill_rounds: int = 10

    def window(self, max_messages: int | None) -> WindowSize:
        """Returns the window of a turn, with the number of messages that its caller asks for, or None."""
        asked = self.history_messages if max_messages is None else max_messages
        return WindowSize(min(asked, self.history_messages_cap), self.history_bytes)
