"""How functions are described to a model, and which functions can't be skills."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field

from palaver.skills import Invocation, SkillHost, skill


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Size(BaseModel):
    """How large it is."""

    width: int
    height: int = 1


async def described(serve, function) -> tuple[str, str, dict[str, Any]]:
    (found,) = await (await serve(function)).skills()
    return found.name, found.description, json.loads(found.parameters_json_schema)


async def test_a_function_is_described_by_its_name_docstring_and_hints(serve):
    @skill
    def order(
        amount: Annotated[int, Field(ge=1, description="How many.")],
        color: Color,
        size: Size,
        invocation: Invocation,
        day: date | None = None,
        *,
        gift: bool = False,
        wrap: Literal["paper", "box"] = "paper",
    ) -> str:
        """Orders a thing."""
        return "ordered"

    assert await described(serve, order) == (
        "order",
        "Orders a thing.",
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["amount", "color", "size"],
            "properties": {
                "amount": {"type": "integer", "minimum": 1, "description": "How many."},
                "color": {"$ref": "#/$defs/Color"},
                "size": {"$ref": "#/$defs/Size"},
                "day": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}], "default": None},
                "gift": {"type": "boolean", "default": False},
                "wrap": {"type": "string", "enum": ["paper", "box"], "default": "paper"},
            },
            "$defs": {
                "Color": {"type": "string", "enum": ["red", "blue"], "title": "Color"},
                "Size": {
                    "type": "object",
                    "title": "Size",
                    "description": "How large it is.",
                    "required": ["width"],
                    "properties": {"width": {"type": "integer"}, "height": {"type": "integer", "default": 1}},
                },
            },
        },
    )


async def test_a_skill_without_parameters(serve):
    @skill
    def ping():
        """Answers."""

    _, _, schema = await described(serve, ping)
    assert schema == {"type": "object", "additionalProperties": False, "properties": {}}


async def test_a_skill_can_have_another_name_than_its_function(serve):
    @skill(name="tell-time_2")
    async def anything() -> None:
        """Tells the time."""

    assert (await described(serve, anything))[0] == "tell-time_2"


async def test_the_docstring_describes_parameters(serve):
    @skill
    def search(
        words: str, limit: Annotated[int, Field(description="The number of results.")] = 3, page: int = 1
    ) -> str:
        """Searches the catalogue.

        It knows all books: even those that are lent.

        Args:
            words: What to look for, in any
                language.
            limit: Not this one.
            page (int): Which page.
            other: There is no such parameter.

        Returns:
            The titles.
        """
        return words + str(limit + page)

    _, description, schema = await described(serve, search)
    assert description == (
        "Searches the catalogue.\n\nIt knows all books: even those that are lent.\n\nReturns:\n    The titles."
    )
    assert {name: value["description"] for name, value in schema["properties"].items()} == {
        "words": "What to look for, in any language.",
        "limit": "The number of results.",
        "page": "Which page.",
    }


async def test_an_args_section_in_another_style_stays_in_the_description(serve):
    @skill
    def search(words: str) -> str:
        """Searches.

        Args:
            words -- what to look for
        """
        return words

    _, description, schema = await described(serve, search)
    assert "words -- what to look for" in description
    assert schema["properties"] == {"words": {"type": "string"}}


@pytest.mark.parametrize("parameter", ["schema", "json", "model_config", "_private", "self_", "cls"])
async def test_parameters_may_have_any_name(serve, parameter):
    names: dict[str, Any] = {}
    exec(f"def show({parameter}: int = 0):\n    'Shows it.'\n    return {parameter}", names)
    caller = await serve(skill(names["show"]))
    assert (await caller.invoke("show", json.dumps({parameter: 3}))).content == "3"


def test_the_decorator_returns_the_function_unchanged():
    def double(number: int = 4) -> int:
        """Doubles a number."""
        return 2 * number

    assert skill(double) is double
    assert double(3) == 6
    assert double() == 8


async def test_local_types_are_resolved(serve):
    @dataclass
    class Local:
        number: int

    @skill
    def show(value: Local) -> int:
        """Shows it."""
        return value.number

    caller = await serve(show)
    assert (await caller.invoke("show", '{"value": {"number": 5}}')).content == "5"


async def test_defaults_are_passed_by_identity(serve):
    missing: Any = ["nothing"]  # pydantic would copy this list

    @skill
    def show(value: Any = missing) -> bool:
        """Shows it."""
        return value is missing

    caller = await serve(show)
    assert (await caller.invoke("show")).content == "true"


async def test_a_pydantic_field_can_be_the_default(serve):
    @skill
    def show(value: int = Field(default=3, description="A number."), other: Annotated[int, Field(gt=0)] = 4) -> int:
        """Shows it."""
        return value + other

    caller = await serve(show)
    (found,) = await caller.skills()
    assert json.loads(found.parameters_json_schema)["properties"]["value"]["description"] == "A number."
    assert (await caller.invoke("show")).content == "7"


def undocumented(number: int):
    pass


def only_parameters(number: int):
    """
    Args:
        number: A number.
    """


def unhinted(number):
    """Is not allowed."""


def positional(number: int, /):
    """Is not allowed."""


def variable(*numbers: int):
    """Is not allowed."""


def keywords(**numbers: int):
    """Is not allowed."""


def unknown(number: Unknown):  # noqa: F821 - it must not exist
    """Is not allowed."""


def schemaless(number: Callable[[], int]):
    """Is not allowed."""


def arbitrary(number: pytest.FixtureRequest):
    """Is not allowed."""


def optional_context(invocation: Optional[Invocation] = None):  # noqa: UP045 - Python 3.10 infers this from a default of None
    """Is not allowed: the model could choose the assistant."""


def nested_context(invocation: dict[str, list[Invocation]]):
    """Is not allowed."""


def generator():
    """Is not allowed."""
    yield 1


async def asynchronous_generator():
    """Is not allowed."""
    yield 1


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (undocumented, ValueError, "undocumented: a skill must have a docstring"),
        (only_parameters, ValueError, "must have a docstring"),
        (unhinted, TypeError, 'unhinted: each parameter of a skill must have a type hint; "number" has none'),
        (positional, TypeError, "must be possible to pass each parameter"),
        (variable, TypeError, "must be possible to pass each parameter"),
        (keywords, TypeError, "must be possible to pass each parameter"),
        (unknown, TypeError, "name 'Unknown' is not defined"),
        (schemaless, TypeError, "must be able to generate a JSON Schema"),
        (arbitrary, TypeError, "must be able to generate a JSON Schema"),
        (optional_context, TypeError, "Invocation must be the whole annotation"),
        (nested_context, TypeError, "Invocation must be the whole annotation"),
        (generator, TypeError, "can't yield"),
        (asynchronous_generator, TypeError, "can't yield"),
        (print, TypeError, "must be a function"),
        (Size, TypeError, "must be a function"),
    ],
)
def test_invalid_skills_are_rejected_where_they_are_defined(function, error, words):
    with pytest.raises(error) as caught:
        skill(function)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a.b", "ä", "a\n", "x" * 65])
def test_invalid_names_are_rejected(name):
    with pytest.raises(ValueError, match='must be 1 to 64 letters, digits, "_" and "-"'):
        skill(name=name)(test_the_decorator_returns_the_function_unchanged)


def test_invalid_arguments_of_a_host_are_rejected():
    @skill
    def one() -> None:
        """Is the first."""

    @skill(name="one")
    def other() -> None:
        """Has the same name."""

    @functools.wraps(one)
    def wrapped() -> None:
        one()

    with pytest.raises(ValueError, match='two skills have the name "one"'):
        SkillHost(one, other)
    with pytest.raises(TypeError, match="is not a skill: decorate it with @skill"):
        SkillHost(one, print)
    with pytest.raises(TypeError, match="as the outermost decorator"):
        SkillHost(wrapped)
    with pytest.raises(ValueError, match="at least one skill"):
        SkillHost()
    with pytest.raises(ValueError, match="at least 0"):
        SkillHost(one, remember=-1)
    with pytest.raises(ValueError, match="both tls_certificate and tls_key"):
        SkillHost(one, tls_key="key.pem")


@pytest.mark.parametrize("missing", ["pydantic", "grpc_health"])
def test_a_missing_extra_is_reported_with_the_command_to_install_it(missing):
    code = f"import sys; sys.modules['{missing}'] = None; import palaver.skills"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "pip install 'palaver[skills]'" in done.stderr.splitlines()[-1]
