"""The operator's settings for turns."""

from __future__ import annotations

from dataclasses import dataclass, field

from palaver_server.domain.generation import GenerationDefaults


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The limits and defaults of turns. Times are in seconds. `settings` documents each of them."""

    generation: GenerationDefaults = field(default_factory=GenerationDefaults)
    history_messages: int = 100
    first_token_timeout: float = 60.0
    token_timeout: float = 30.0
    turn_timeout: float = 600.0
    max_turns: int = 1000
    queue_limit: int = 32
    lease_duration: float = 15.0
    progress_interval: float = 15.0
    max_skill_rounds: int = 10
