"""Validation of the JSON Schemas of skills, and of arguments against them."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import jsonschema
import referencing
import referencing.exceptions
from jsonschema.protocols import Validator

MAX_ERRORS = 5
MAX_ERROR_CHARACTERS = 300
"""The maximum length of an error. It quotes the invalid value, which may be as long as a message."""

NO_REFERENCES: referencing.Registry[Any] = referencing.Registry()
"""An empty registry, so that a reference in a schema never makes the server fetch a URL."""


def schema_error(schema_json: str) -> str:
    """Returns an error message if the text is not a valid schema for arguments, or an empty string."""
    try:
        _validator(schema_json)
    except (ValueError, RecursionError) as error:
        return str(error)
    return ""


def arguments_error(schema_json: str, arguments: dict[str, Any]) -> str:
    """Returns an error message for the model if the arguments don't match the schema, or an empty string."""
    try:
        errors = sorted(_validator(schema_json).iter_errors(arguments), key=lambda error: error.json_path)
    except (referencing.exceptions.Unresolvable, RecursionError):
        return "The arguments can't be checked against the schema of the skill."
    return "; ".join(_shortened(f"{error.json_path}: {error.message}") for error in errors[:MAX_ERRORS])


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_ERROR_CHARACTERS else text[: MAX_ERROR_CHARACTERS - 1] + "…"


@lru_cache(maxsize=1024)
def _validator(schema_json: str) -> Validator:
    schema = json.loads(schema_json or '{"type": "object", "additionalProperties": false}')
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise ValueError("it must be a JSON Schema that describes an object")
    validator_class = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        validator_class.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"it is not a valid JSON Schema: {error.message}") from error
    return validator_class(schema, registry=NO_REFERENCES)
