"""`skill`: what makes a skill of a function. Whatever can be wrong with a definition is said where it stands."""

from __future__ import annotations

import inspect
import json
import re
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from palaver.skills._docstring import parse
from palaver.skills._types import Invocation, SkillError

_Function = TypeVar("_Function", bound=Callable[..., object])

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ATTRIBUTE = "__palaver_skill__"
# A field of a model must not begin with "_" nor be called like a method of the model; a parameter may.
_FIELD = "parameter_{}"

_MAX_VIOLATIONS = 20
_MAX_PATH_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Definition:
    """A function as a skill.

    Attributes:
        name: By which the model calls it.
        description: What it does and when to use it, for the model to read.
        parameters_json_schema: The JSON Schema of the arguments, as JSON text.
        function: The function.
        is_async: Whether it is called in the event loop; any other one is called in a thread.
    """

    name: str
    description: str
    parameters_json_schema: str
    function: Callable[..., Any]
    is_async: bool
    _model: type[BaseModel]
    _parameters: tuple[inspect.Parameter, ...]
    _contexts: tuple[str, ...]

    def arguments(self, arguments_json: str, invocation: Invocation) -> dict[str, Any]:
        """Returns the keyword arguments of the function for a call.

        Raises:
            SkillError: The arguments break the schema; it says where, for the model to mend them.
        """
        try:
            # Models write no arguments at all for a skill that has no parameters.
            values = self._model.model_validate_json(arguments_json.strip() or "{}", strict=True)
        except ValidationError as error:
            raise SkillError(_violations(error)) from None
        arguments: dict[str, Any] = {
            parameter.name: getattr(values, field)
            for parameter in self._parameters
            # A default of the function stays that very object: it may be compared by identity.
            if (field := _FIELD.format(parameter.name)) in values.model_fields_set or not _has_own_default(parameter)
        }
        return arguments | dict.fromkeys(self._contexts, invocation)


@overload
def skill(function: _Function, /) -> _Function: ...
@overload
def skill(*, name: str | None = None) -> Callable[[_Function], _Function]: ...
def skill(
    function: _Function | None = None, /, *, name: str | None = None
) -> _Function | Callable[[_Function], _Function]:
    """Makes a skill of a function, which stays what it is: call it as before.

    The model learns of it what a colleague would read: the name, the docstring, and the parameters with their type
    hints, defaults and descriptions (`Annotated[..., Field(description=...)]`, or an "Args:" section in the docstring).
    What it then sends is held to them: the types are not converted ("3" is no `int`), and there are no other arguments.
    Any type that pydantic has a JSON Schema for will do: enums, data classes, models and so on. Whether a model that is
    the type of a parameter has room for other fields is for its own configuration to say.

    The function may be synchronous, and is then called in a thread, or asynchronous. What it returns goes to the model:
    a string as it is, None as an empty text, everything else as JSON by pydantic. A parameter with the annotation
    `Invocation` gets the context of the call.

    Example:
        >>> @skill
        ... def tell_time(city: Annotated[str, Field(description="In English.")]) -> str:
        ...     '''Tells the time of day in a city.'''

    Args:
        function: A function whose parameters all have type hints, with a docstring.
        name: By which the model calls the skill: 1 to 64 letters, digits, `_` and `-`. The default is the function's.

    Raises:
        TypeError: It is no function, or its parameters can't be described.
        ValueError: There is no docstring, or the name is not allowed.
    """
    # The hints of a function that is defined in another one may name what is local there.
    names = sys._getframe(1).f_locals

    def define(function: _Function) -> _Function:
        setattr(function, _ATTRIBUTE, _define(function, name, names))
        return function

    return define if function is None else define(function)


def definition_of(function: Callable[..., object]) -> Definition:
    """Returns what `skill` made of a function.

    Raises:
        TypeError: It was not decorated, or was wrapped by another decorator afterwards.
    """
    definition = getattr(function, _ATTRIBUTE, None)
    if not isinstance(definition, Definition) or definition.function is not function:
        raise TypeError(f"{function!r} is not a skill: decorate it with @skill, as the outermost decorator")
    return definition


def _define(function: Callable[..., object], name: str | None, local_names: Mapping[str, Any]) -> Definition:
    if not inspect.isfunction(function):
        raise TypeError(f"a skill must be a function, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{function.__name__}: a skill must return its result; it can't yield")
    name = function.__name__ if name is None else name
    if not _NAME.fullmatch(name):
        raise ValueError(f'the name "{name}" of a skill must be 1 to 64 letters, digits, "_" and "-"')
    docstring = parse(function.__doc__ or "")
    if not docstring.description:
        raise ValueError(f"{name}: a skill must have a docstring that tells the model what it does and when to use it")
    parameters, hints = _parameters(name, function, local_names)
    contexts = tuple(parameter.name for parameter in parameters if hints[parameter.name] is Invocation)
    parameters = tuple(parameter for parameter in parameters if parameter.name not in contexts)
    try:
        model = _model(name, parameters, hints)
        schema = model.model_json_schema(schema_generator=_Schema)
    except (PydanticUserError, PydanticUndefinedAnnotation, TypeError) as error:
        words = str(error).partition("\n")[0]
        raise TypeError(
            f"{name}: the parameters must have types that pydantic has a JSON Schema for: {words}"
        ) from error
    schema.pop("title", None)
    for parameter_name, text in docstring.parameters.items():
        if parameter_name in schema["properties"]:
            schema["properties"][parameter_name].setdefault("description", text)
    return Definition(
        name=name,
        description=docstring.description,
        parameters_json_schema=json.dumps(schema, ensure_ascii=False, separators=(",", ":")),
        function=function,
        is_async=inspect.iscoroutinefunction(function),
        _model=model,
        _parameters=parameters,
        _contexts=contexts,
    )


def _parameters(
    name: str, function: Callable[..., object], local_names: Mapping[str, Any]
) -> tuple[tuple[inspect.Parameter, ...], dict[str, Any]]:
    parameters = tuple(inspect.signature(function).parameters.values())
    for parameter in parameters:
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise TypeError(
                f'{name}: each parameter of a skill must have a name to pass it by; "{parameter}" is positional-only, '
                "*args or **kwargs"
            )
    try:
        hints = typing.get_type_hints(function, localns=dict(local_names), include_extras=True)
    except NameError as error:
        raise TypeError(f"{name}: a type hint names what can't be found where the skill is defined: {error}") from error
    for parameter in parameters:
        if parameter.name not in hints:
            raise TypeError(f'{name}: each parameter of a skill must have a type hint; "{parameter.name}" has none')
    return parameters, hints


def _model(name: str, parameters: tuple[inspect.Parameter, ...], hints: Mapping[str, Any]) -> type[BaseModel]:
    fields: dict[str, Any] = {
        _FIELD.format(parameter.name): (
            Annotated[hints[parameter.name], Field(alias=parameter.name, validation_alias=parameter.name)],
            ... if parameter.default is parameter.empty else parameter.default,
        )
        for parameter in parameters
    }
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)


def _has_own_default(parameter: inspect.Parameter) -> bool:
    return parameter.default is not parameter.empty and not isinstance(parameter.default, FieldInfo)


def _violations(error: ValidationError) -> str:
    """Says what is wrong with each argument, without the values: the model knows what it sent."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [
        f"{'.'.join(map(str, details['loc']))[:_MAX_PATH_LENGTH] or 'the arguments'}: {details['msg']}"
        for details in errors[:_MAX_VIOLATIONS]
    ]
    if len(errors) > _MAX_VIOLATIONS:
        lines.append(f"and {len(errors) - _MAX_VIOLATIONS} more")
    return "the arguments are not what the skill takes:\n" + "\n".join(lines)


class _Schema(GenerateJsonSchema):
    """Leaves out the titles of fields, which only repeat their names: each call of the model would pay for them."""

    def field_title_should_be_set(self, _schema: Any) -> bool:
        return False
