"""JSON Schemas of skills: which can be used, and what is wrong with arguments."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import jsonschema
import referencing
import referencing.exceptions
from jsonschema.protocols import Validator

MAX_COMPLAINTS = 5
NOWHERE: referencing.Registry[Any] = referencing.Registry()
"""A schema must be whole: without this, a reference in it would have the server fetch a URL."""


def problem(schema_json: str) -> str:
    """Says why a text can't be the schema of a skill's arguments; empty where it can."""
    try:
        _validator(schema_json)
    except (ValueError, RecursionError) as error:
        return str(error)
    return ""


def complaints(schema_json: str, arguments: dict[str, Any]) -> str:
    """Says what is wrong with arguments, for the model to read; empty where nothing is."""
    try:
        errors = sorted(_validator(schema_json).iter_errors(arguments), key=lambda error: error.json_path)
    except (referencing.exceptions.Unresolvable, RecursionError):
        return "The arguments can't be checked against the schema of the skill."
    return "; ".join(f"{error.json_path}: {error.message}" for error in errors[:MAX_COMPLAINTS])


@lru_cache(maxsize=1024)
def _validator(schema_json: str) -> Validator:
    schema = json.loads(schema_json or '{"type": "object", "additionalProperties": false}')
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise ValueError("it must be a JSON Schema that describes an object")
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"it is no JSON Schema: {error.message}") from error
    return kind(schema, registry=NOWHERE)
