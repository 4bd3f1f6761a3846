"""The page of RPCs, messages and enums, from the comments of the contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, MethodDescriptorProto

from tools.reference.contract import ENUMS, FIELDS, MESSAGES, METHODS, PACKAGE, SERVICES, VALUES, File
from tools.reference.errors import ENUM as ERROR_REASON
from tools.reference.markdown import code, document, table

INTRODUCTION = """\
The package `palaver.v1` of the [contract](../../protos/palaver/v1/assistant_service.proto). A field that is marked
*optional* distinguishes unset from zero. [Errors](errors.md) have a page of their own, and
[concepts](../concepts.md) explains how the calls work together."""


def page(files: Sequence[File]) -> str:
    """Returns the page: the services first, then all messages and enums in the order of the contract."""
    return document(
        "RPCs",
        "protos/palaver/v1",
        INTRODUCTION,
        *(block for file in files for block in _services(file)),
        "## Messages",
        *(block for file in files for block in _messages(file)),
        "## Enums",
        *(block for file in files for block in _enums(file)),
    )


def _services(file: File) -> Iterator[str]:
    for position, service in file.services():
        yield f"## `{service.name}`"
        yield file.comment(SERVICES, position)
        for number, method in enumerate(service.method):
            yield f"### `{method.name}`"
            yield _signature(method)
            yield file.comment(SERVICES, position, METHODS, number)


def _signature(method: MethodDescriptorProto) -> str:
    stream = "a stream of " if method.server_streaming else ""
    return f"{_linked(method.input_type)} → {stream}{_linked(method.output_type)}"


def _messages(file: File) -> Iterator[str]:
    for position, message in file.messages():
        yield f"### `{message.name}`"
        yield file.comment(MESSAGES, position)
        if message.field:
            rows = (
                (code(field.name), _type(message, field), file.comment(MESSAGES, position, FIELDS, number))
                for number, field in enumerate(message.field)
            )
            yield table(("field", "type", "meaning"), rows)


def _enums(file: File) -> Iterator[str]:
    for position, enum in file.enums():
        if enum.name != ERROR_REASON:
            yield f"### `{enum.name}`"
            yield file.comment(ENUMS, position)
            rows = (
                (code(value.name), file.comment(ENUMS, position, VALUES, number))
                for number, value in enumerate(enum.value)
            )
            yield table(("value", "meaning"), rows)


def _type(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    name = _linked(field.type_name) or code(FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower())
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    if field.proto3_optional:
        return f"optional {name}"
    if field.HasField("oneof_index"):
        return f"{name}, one of {code(message.oneof_decl[field.oneof_index].name)}"
    return name


def _linked(type_name: str) -> str:
    """Returns a type of the contract with a link to it, any other as it is."""
    package, _, name = type_name.lstrip(".").rpartition(".")
    return f"[`{name}`](#{name.lower()})" if package == PACKAGE else code(type_name.lstrip("."))
