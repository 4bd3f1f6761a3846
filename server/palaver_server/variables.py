"""The environment variables of connections: how they are read, and the checks that apply to all kinds of connections.

No check prints a value, since any of them could hold a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from palaver_server.settings import SettingsError

HOST = re.compile(r"[\w.:%-]+")
COMPLETIONS_PATH = "/chat/completions"


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable. An empty one counts as unset."""

    name: str
    """The name as the environment spells it."""
    value: str = field(default="", repr=False)
    """The value without surrounding white space, such as the newline at the end of a mounted secret."""

    def __bool__(self) -> bool:
        return bool(self.value)


Section = Mapping[str, Variable]
"""The variables of a connection by key. The key of `<NAME>` itself is empty."""


def _read_variable(name: str, environment: Mapping[str, str]) -> Variable:
    """Returns the variable with exactly this name."""
    return Variable(name, environment.get(name, "").strip())


def read_section(
    name: str, environment: Mapping[str, str], keys: Iterable[str], other_keys: Iterable[str] = ()
) -> Section:
    """Returns the variables `<NAME>__<key>` for all of `keys`, set or not.

    The letter case of their names does not matter, as in .NET's configuration. Raises `SettingsError` if a variable has
    a key that is in neither `keys` nor `other_keys`, or has two spellings with different values.
    """
    keys_by_name = {_variable_name(name, key).lower(): key for key in (*keys, *other_keys)}
    prefix = f"{name}__".lower()
    found: dict[str, Variable] = {}
    for variable in filter(None, (_read_variable(spelling, environment) for spelling in sorted(environment))):
        folded = variable.name.lower()
        if (key := keys_by_name.get(folded)) is not None:
            first = found.setdefault(key, variable)
            if first.value != variable.value:
                raise SettingsError(
                    f"{first.name}, {variable.name}: two spellings of one variable with different values"
                )
        elif folded.startswith(prefix):
            allowed = ", ".join(filter(None, dict.fromkeys(keys_by_name.values())))
            raise SettingsError(f"{variable.name}: no such setting of a connection; {name} has {allowed}")
    return {key: found.get(key, Variable(_variable_name(name, key))) for key in keys}


def _variable_name(name: str, key: str) -> str:
    return f"{name}__{key}" if key else name


def names_of(variables: Iterable[Variable]) -> str:
    """Returns the names of variables as an error lists them."""
    return ", ".join(variable.name for variable in variables)


def parse_url(variable: Variable) -> SplitResult | None:
    """Returns the parts of an http or https URL, or None if the value is not one."""
    try:
        parts = urlsplit(variable.value)
        _ = parts.port  # raises ValueError if it is not a number
    except ValueError:
        return None
    has_host = HOST.fullmatch(parts.hostname or "") and len(variable.value.split()) == 1
    return parts if has_host and parts.scheme in ("http", "https") else None


def check_plain_url(variable: Variable) -> None:
    """Raises `SettingsError` if a URL has more than a host and a path."""
    if any(mark in variable.value for mark in "@?#"):
        raise SettingsError(f"{variable.name}: must have no user name, query string or fragment")


def check_base_url(variable: Variable) -> None:
    """Raises `SettingsError` if a URL is not one to which the paths of an API can be appended."""
    check_plain_url(variable)
    if variable.value.rstrip("/").endswith(COMPLETIONS_PATH):
        raise SettingsError(f"{variable.name}: must end before {COMPLETIONS_PATH}, which the server appends")


def read_in_any_case(name: str, environment: Mapping[str, str]) -> Variable:
    """Returns the variable with this name, whose letter case does not matter."""
    return read_section(name, environment, ("",))[""]


def check_key(variable: Variable) -> None:
    """Raises `SettingsError` if a key can't be one: it would only be found out by the first caller."""
    value = variable.value
    if not (value.isascii() and value.isprintable()) or " " in value or value[:1] in ("'", '"'):
        raise SettingsError(
            f"{variable.name}: must be the key alone, in ASCII characters, without white space, quotes or a prefix"
        )


def check_alternatives(variable: Variable, others: Iterable[Variable]) -> None:
    """Raises `SettingsError` if a variable and any of the others are set, since one of them would be ignored."""
    if variable and (conflicting := list(filter(None, others))):
        raise SettingsError(f"{names_of([variable, *conflicting])}: set one of them")


def check_name(variable: Variable, other_name: str, environment: Mapping[str, str]) -> None:
    """Raises `SettingsError` if a variable is unset, but its name in other programs is set."""
    if not variable and environment.get(other_name):
        raise SettingsError(f"{other_name}: the name of this setting is {variable.name}")
