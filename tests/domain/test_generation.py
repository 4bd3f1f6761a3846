"""The parameters of a model call: what the caller sets, the server's defaults, and the cap."""

from __future__ import annotations

import pytest

from palaver_server.domain.generation import GenerationDefaults, GenerationOptions

DEFAULTS = GenerationDefaults(chat_model="default", temperature=0.7, max_tokens=200)
CAPPED = GenerationDefaults(chat_model="default", temperature=0.7, max_tokens=200, max_tokens_cap=150)


@pytest.mark.parametrize(
    ("options", "defaults", "expected"),
    [
        # chat_model, temperature, top_p, max_tokens, is_reasoning_model
        (GenerationOptions(), DEFAULTS, ("default", 0.7, None, 200, False)),
        (GenerationOptions(chat_model="mine"), DEFAULTS, ("mine", 0.7, None, 200, False)),
        (GenerationOptions(chat_model=""), DEFAULTS, ("default", 0.7, None, 200, False)),
        (GenerationOptions(temperature=1.5), DEFAULTS, ("default", 1.5, None, 200, False)),
        (GenerationOptions(temperature=0.0), DEFAULTS, ("default", 0.0, None, 200, False)),
        (GenerationOptions(top_p=0.1), DEFAULTS, ("default", None, 0.1, 200, False)),
        (GenerationOptions(temperature=0.0, top_p=0.1), DEFAULTS, ("default", 0.0, 0.1, 200, False)),
        (GenerationOptions(max_tokens=1), DEFAULTS, ("default", 0.7, None, 1, False)),
        (GenerationOptions(max_tokens=10_000), DEFAULTS, ("default", 0.7, None, 10_000, False)),
        (GenerationOptions(), CAPPED, ("default", 0.7, None, 150, False)),
        (GenerationOptions(max_tokens=100), CAPPED, ("default", 0.7, None, 100, False)),
        (GenerationOptions(max_tokens=151), CAPPED, ("default", 0.7, None, 150, False)),
        (GenerationOptions(is_reasoning_model=True), DEFAULTS, ("default", None, None, None, True)),
        (
            GenerationOptions(chat_model="mine", temperature=1.0, top_p=0.5, max_tokens=300, is_reasoning_model=True),
            DEFAULTS,
            ("mine", None, None, 300, True),
        ),
        (GenerationOptions(is_reasoning_model=True), CAPPED, ("default", None, None, 150, True)),
        (GenerationOptions(max_tokens=100, is_reasoning_model=True), CAPPED, ("default", None, None, 100, True)),
        (GenerationOptions(max_tokens=300, is_reasoning_model=True), CAPPED, ("default", None, None, 150, True)),
        (GenerationOptions(), GenerationDefaults(), ("gpt-3.5-turbo", 0.5, None, 100, False)),
        (GenerationOptions(), GenerationDefaults(temperature=0.0), ("gpt-3.5-turbo", 0.0, None, 100, False)),
    ],
)
def test_the_parameters_in_effect(options: GenerationOptions, defaults: GenerationDefaults, expected: tuple):
    parameters = defaults.resolve(options, "OPENAI")
    names = ("chat_model", "temperature", "top_p", "max_tokens", "is_reasoning_model")
    assert tuple(getattr(parameters, name) for name in names) == expected
    assert parameters.ai_connection == "OPENAI"
