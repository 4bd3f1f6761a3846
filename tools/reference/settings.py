"""The page of settings, from the fields of `Settings`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

from palaver_server.settings import Settings
from tools.reference.markdown import code, document, table

INTRODUCTION = """\
Each setting is an environment variable and a flag of `palaver-server`: `PALAVER_DATA_DIR` is `--data-dir`. A flag takes
precedence over the variable. An invalid value ends the program with one line that says what is allowed. A variable that
begins with `PALAVER_` but is not a setting is logged as a warning. Lists are separated by commas.

Storage and AI connections are configured by [variables with other names](connections.md)."""

GROUPS = {
    "Listening": (
        "listen",
        "workers",
        "tls_certificate",
        "tls_key",
        "reflection",
        "health_requires_model",
        "grace_period",
    ),
    "Callers": ("callers", "tls_client_ca", "allow_unauthenticated", "allow_unencrypted"),
    "Storage": ("data_dir", "storage_connections", "store_timeout", "commit_timeout"),
    "Models": (
        "ai_connections",
        "offline_model",
        "default_chat_model",
        "default_temperature",
        "default_max_tokens",
        "max_tokens_cap",
        "history_messages",
        "history_messages_cap",
        "history_bytes",
        "first_token_timeout",
        "token_timeout",
    ),
    "Turns": ("turn_timeout", "max_turns", "max_address_turns", "queue_limit", "lease_duration", "progress_interval"),
    "Skills": ("skill_hosts", "skill_timeout", "max_skill_rounds"),
    "Observability": ("log_level", "log_format", "metrics_listen"),
}
"""The settings of each section. Every setting must be in one."""


def page() -> str:
    """Returns the page."""
    grouped = [name for names in GROUPS.values() for name in names]
    if wrong := set(grouped) ^ Settings.model_fields.keys():
        raise ValueError(f"tools/reference/settings.py: GROUPS and Settings differ in {', '.join(sorted(wrong))}")
    return document("Settings", "server/palaver_server/settings.py", INTRODUCTION, *_sections())


def _sections() -> Iterator[str]:
    schema = Settings.model_json_schema()
    schemas = schema["properties"]
    for each in schemas.values():
        each.update(schema["$defs"].get(each.pop("$ref", "").rpartition("/")[2], {}))
    for title, names in GROUPS.items():
        yield f"## {title}"
        rows = (
            (code(f"PALAVER_{name.upper()}"), _default(name), _values(schemas[name]), _meaning(name)) for name in names
        )
        yield table(("setting", "default", "values", "meaning"), rows)


def _default(name: str) -> str:
    default = Settings.model_fields[name].default
    match default:
        case None:
            return ""
        case bool():
            return code(str(default).lower())
        case tuple():
            return code(",".join(default))
        case Enum():
            return code(str(default.value))
        case float():
            return code(f"{default:g}")
        case _:
            return code(str(default))


def _values(schema: dict[str, Any]) -> str:
    """Describes the values that a setting takes, from its JSON schema."""
    schema = schema.get("anyOf", [schema])[0]
    match schema:
        case {"type": "boolean"}:
            return "`true` or `false`"
        case {"enum": values}:
            return ", ".join(map(code, values))
        case {"type": "array"}:
            return "a list of names"
        case {"type": "string", "format": "path" | "file-path"}:
            return "a path"
        case {"type": "string"}:
            return "text"
        case {"type": kind}:
            bounds = [f"{words} {schema[bound]:,g}" for bound, words in BOUNDS.items() if bound in schema]
            return " ".join(["a whole number" if kind == "integer" else "a number", " and ".join(bounds)])
    raise ValueError(f"no words for {schema}")


BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def _meaning(name: str) -> str:
    return re.sub(r"\b\w+_\w+\b", lambda match: code(match[0]), Settings.model_fields[name].description or "")
