"""The `skill` decorator, which turns a function into a skill. It raises all errors of a definition immediately."""

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

from palaver.skills._docstring import parse_docstring
from palaver.skills._types import Invocation, SkillError

_Function = TypeVar("_Function", bound=Callable[..., object])

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ATTRIBUTE = "__palaver_skill__"
# Parameters may start with "_" or have the name of a method of pydantic models; fields must not.
_FIELD_NAME = "parameter_{}"

_MAX_VIOLATIONS = 20
_MAX_PATH_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Definition:
    """A skill and its function.

    Attributes:
        name: The name by which the model calls the skill.
        description: What the skill does and when to use it, for the model to read.
        parameters_json_schema: The JSON Schema of the arguments, as JSON text.
        function: The function.
        is_async: Whether the function is called in the event loop. Synchronous functions are called in a thread.
    """

    name: str
    description: str
    parameters_json_schema: str
    function: Callable[..., Any]
    is_async: bool
    _model: type[BaseModel]
    _parameters: tuple[inspect.Parameter, ...]
    _invocation_names: tuple[str, ...]

    def arguments(self, arguments_json: str, invocation: Invocation) -> dict[str, Any]:
        """Returns the keyword arguments of the function for a call.

        Raises:
            SkillError: The arguments do not match the schema. The message lists the violations, so that the model can
                correct them.
        """
        try:
            # Models send an empty text for a skill without parameters.
            values = self._model.model_validate_json(arguments_json.strip() or "{}", strict=True)
        except ValidationError as error:
            raise SkillError(_describe_violations(error)) from None
        arguments: dict[str, Any] = {
            parameter.name: getattr(values, field)
            for parameter in self._parameters
            # Defaults of the function are passed unchanged, because they may be compared by identity.
            if (field := _FIELD_NAME.format(parameter.name)) in values.model_fields_set
            or not _has_own_default(parameter)
        }
        return arguments | dict.fromkeys(self._invocation_names, invocation)


@overload
def skill(function: _Function, /) -> _Function: ...
@overload
def skill(*, name: str | None = None) -> Callable[[_Function], _Function]: ...
def skill(
    function: _Function | None = None, /, *, name: str | None = None
) -> _Function | Callable[[_Function], _Function]:
    """Turns a function into a skill. The function itself is returned unchanged and can be called as before.

    The model gets the name, the docstring, and the parameters with their type hints, defaults and descriptions
    (`Annotated[..., Field(description=...)]`, or an "Args:" section in the docstring). Its arguments are validated
    strictly: types are not converted ("3" is not an `int`), and unknown arguments are rejected. Every type for which
    pydantic can generate a JSON Schema is allowed: enums, data classes, models and so on. Whether a parameter that is a
    pydantic model accepts unknown fields depends on the configuration of that model.

    A synchronous function is called in a thread, an asynchronous one in the event loop. The model gets the result: a
    string unchanged, None as empty text, and everything else as JSON, encoded by pydantic. A parameter with the
    annotation `Invocation` gets the context of the call and is hidden from the model.

    Example:
        >>> @skill
        ... def tell_time(city: Annotated[str, Field(description="In English.")]) -> str:
        ...     '''Tells the time of day in a city.'''

    Args:
        function: A function with a docstring, whose parameters all have type hints.
        name: The name by which the model calls the skill: 1 to 64 letters, digits, `_` and `-`. The default is the name
            of the function.

    Raises:
        TypeError: The argument is not a function, or its parameters can't be described by a JSON Schema.
        ValueError: The docstring is missing, or the name is not allowed.
    """
    # The type hints of a nested function may refer to local names of the enclosing function.
    local_names = sys._getframe(1).f_locals

    def define(function: _Function) -> _Function:
        setattr(function, _ATTRIBUTE, _define(function, name, local_names))
        return function

    return define if function is None else define(function)


def definition_of(function: Callable[..., object]) -> Definition:
    """Returns the definition that `skill` attached to a function.

    Raises:
        TypeError: The function is not decorated with `skill`, or another decorator wraps it.
    """
    definition = getattr(function, _ATTRIBUTE, None)
    if not isinstance(definition, Definition) or definition.function is not function:
        raise TypeError(f"{function!r} is not a skill: decorate it with @skill, as the outermost decorator")
    return definition


def _define(function: Callable[..., object], name: str | None, local_names: Mapping[str, Any]) -> Definition:
    """Checks a function and returns its definition. `local_names` resolves its type hints."""
    if not inspect.isfunction(function):
        raise TypeError(f"a skill must be a function, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{function.__name__}: a skill must return its result; it can't yield")
    name = function.__name__ if name is None else name
    if not _NAME.fullmatch(name):
        raise ValueError(f'the name "{name}" of a skill must be 1 to 64 letters, digits, "_" and "-"')
    docstring = parse_docstring(function.__doc__ or "")
    if not docstring.description:
        raise ValueError(
            f"{name}: a skill must have a docstring, which tells the model what it does and when to use it"
        )
    parameters, hints = _checked_parameters(name, function, local_names)
    invocation_names = tuple(parameter.name for parameter in parameters if hints[parameter.name] is Invocation)
    parameters = tuple(parameter for parameter in parameters if parameter.name not in invocation_names)
    try:
        model = _arguments_model(name, parameters, hints)
        schema = model.model_json_schema(schema_generator=_Schema)
    except (PydanticUserError, PydanticUndefinedAnnotation, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise TypeError(
            f"{name}: pydantic must be able to generate a JSON Schema for the types of all parameters: {reason}"
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
        _invocation_names=invocation_names,
    )


def _checked_parameters(
    name: str, function: Callable[..., object], local_names: Mapping[str, Any]
) -> tuple[tuple[inspect.Parameter, ...], dict[str, Any]]:
    """Returns the parameters of a function and their type hints by name, and checks that both are usable."""
    parameters = tuple(inspect.signature(function).parameters.values())
    for parameter in parameters:
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise TypeError(
                f"{name}: it must be possible to pass each parameter of a skill by name; "
                f'"{parameter}" is positional-only, *args or **kwargs'
            )
    try:
        hints = typing.get_type_hints(function, localns=dict(local_names), include_extras=True)
    except NameError as error:
        raise TypeError(f"{name}: a type hint refers to a name that is not defined: {error}") from error
    for parameter in parameters:
        if parameter.name not in hints:
            raise TypeError(f'{name}: each parameter of a skill must have a type hint; "{parameter.name}" has none')
    return parameters, hints


def _arguments_model(name: str, parameters: tuple[inspect.Parameter, ...], hints: Mapping[str, Any]) -> type[BaseModel]:
    """Returns a pydantic model that validates the arguments and describes them to the model."""
    fields: dict[str, Any] = {
        _FIELD_NAME.format(parameter.name): (
            Annotated[hints[parameter.name], Field(alias=parameter.name, validation_alias=parameter.name)],
            ... if parameter.default is parameter.empty else parameter.default,
        )
        for parameter in parameters
    }
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)


def _has_own_default(parameter: inspect.Parameter) -> bool:
    """Returns whether a parameter has a default that is not a pydantic `Field`."""
    return parameter.default is not parameter.empty and not isinstance(parameter.default, FieldInfo)


def _describe_violations(error: ValidationError) -> str:
    """Returns a list of the invalid arguments for the model, without their values, which it knows."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [
        f"{'.'.join(map(str, details['loc']))[:_MAX_PATH_LENGTH] or 'the arguments'}: {details['msg']}"
        for details in errors[:_MAX_VIOLATIONS]
    ]
    if len(errors) > _MAX_VIOLATIONS:
        lines.append(f"and {len(errors) - _MAX_VIOLATIONS} more")
    return "the arguments do not match the schema of the skill:\n" + "\n".join(lines)


class _Schema(GenerateJsonSchema):
    """Omits the titles of fields, which only repeat their names and would cost tokens in every model call."""

    def field_title_should_be_set(self, _schema: Any) -> bool:
        return False
