"""The first check of a skill's JSON Schema, which takes linear time, however the schema is built.

It compiles no pattern and resolves no reference: `skills.schema_checker` does that, and checks arguments.
"""

from __future__ import annotations

from typing import Any

import jsonschema_rs
from jsonschema_rs import ValidationError

from palaver_server.domain import strict_json

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
"""The schema of a skill that has none."""

DEFAULT_DIALECT = "https://json-schema.org/draft/2020-12/schema"
DIALECTS = (
    DEFAULT_DIALECT,
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-04/schema",
)

MAX_ERROR_CHARACTERS = 300
"""The maximum length of an error. It quotes the invalid value, which may be as long as a message."""


def load(schema_json: str) -> dict[str, Any]:
    """Returns a valid schema for arguments; raises `ValueError`.

    A schema in an unknown dialect is read as one of draft 2020-12, because many name a dialect that only extends it.
    """
    try:
        schema = strict_json.load_object(schema_json) if schema_json else NO_ARGUMENTS
    except ValueError as error:
        raise ValueError(f"it is not the JSON text of an object: {error}") from None
    if schema.get("type", "object") != "object":
        raise ValueError("it must be a JSON Schema that describes an object")
    dialect = schema.get("$schema", DEFAULT_DIALECT)
    # The library would try to fetch an unknown dialect. One that is no text is an error in every dialect.
    if isinstance(dialect, str) and dialect.rstrip("#") not in DIALECTS:
        schema = {**schema, "$schema": DEFAULT_DIALECT}
    try:
        jsonschema_rs.meta.validate(schema)
    except ValidationError as error:
        raise ValueError(f"it is not a valid JSON Schema: {error_text(error)}") from None
    return schema


def schema_error(schema_json: str) -> str:
    """Returns an error message if the text is not a valid schema for arguments, or an empty string."""
    try:
        load(schema_json)
    except ValueError as error:
        return str(error)
    return ""


def error_text(error: ValidationError) -> str:
    """Returns the place and the message of an error. The middle of a long one is left out."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
    text = f"${path}: {error.message}"
    half = MAX_ERROR_CHARACTERS // 2
    return text if len(text) <= MAX_ERROR_CHARACTERS else f"{text[: half - 1]}…{text[-half:]}"
