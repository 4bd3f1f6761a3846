"""The process that compiles the schemas of skills and checks arguments against them. `SchemaChecker` starts it.

No rule about schemas bounds the time of a check: a few references can multiply to years. The server therefore ends the
process when it takes too long. The process writes an empty line when it is ready. From then on, it reads a line of JSON
for each check, `[schema]` or `[schema, arguments]`, and writes a line with an error message, with an empty string, or
with null if the arguments can't be checked.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

import msgspec
from jsonschema_rs import FancyRegexOptions, ValidationError, Validator, validator_cls_for

from palaver_server.domain import json_schema, strict_json

MAX_MEMORY_BYTES = 512 * 1024 * 1024

MAX_ERRORS = 5
MAX_LISTED_CHARACTERS = 16_384
"""The maximum length of arguments whose errors are listed. Of longer ones, only the first error is reported."""

PATTERNS = FancyRegexOptions(backtrack_limit=100_000, size_limit=1_048_576, dfa_size_limit=1_048_576)
"""The limits of a pattern. Only one with look-around or back-references is matched by backtracking."""


def main() -> None:
    """Answers checks until the server closes the pipe."""
    _limit_memory()
    _write(b"")
    for line in sys.stdin.buffer:
        schema_json, *arguments = msgspec.json.decode(line, type=list[str])
        answer = arguments_error(schema_json, *arguments) if arguments else schema_error(schema_json)
        _write(msgspec.json.encode(answer))


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def schema_error(schema_json: str) -> str:
    """Returns an error message if arguments can't be checked against a schema, or an empty string."""
    try:
        _validator(schema_json)
    except ValidationError as error:
        return json_schema.error_text(error)
    except ValueError as error:
        return str(error)
    return ""


def arguments_error(schema_json: str, arguments_json: str) -> str | None:
    """Returns an error message if arguments don't match a schema, an empty string, or None if neither is known."""
    try:
        validator, arguments = _validator(schema_json), strict_json.load_object(arguments_json)
        return "; ".join(map(json_schema.error_text, _errors(validator, arguments, len(arguments_json))))
    except ValueError:
        return None


def _errors(validator: Validator, arguments: dict[str, Any], characters: int) -> list[ValidationError]:
    """Returns the first errors. The library collects all of them, so of long arguments only one is asked for."""
    if characters <= MAX_LISTED_CHARACTERS:
        errors = sorted(validator.iter_errors(arguments), key=lambda error: error.instance_path)
        return errors[:MAX_ERRORS]
    try:
        validator.validate(arguments)
    except ValidationError as error:
        return [error]
    return []


@lru_cache(maxsize=256)
def _validator(schema_json: str) -> Validator:
    schema = json_schema.load(schema_json)
    # Formats are not checked: they are annotations, and hosts check what they need.
    return validator_cls_for(schema)(schema, offline=True, validate_formats=False, pattern_options=PATTERNS)


def _limit_memory() -> None:
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - Windows has no such module

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))


if __name__ == "__main__":
    main()
