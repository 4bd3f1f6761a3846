"""The contract as descriptors, with the comment of each element."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

BUF = Path(sys.executable).with_name("buf")
ROOT = Path(__file__).parents[2]
PACKAGE = "palaver.v1"

MESSAGES = FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER
ENUMS = FileDescriptorProto.ENUM_TYPE_FIELD_NUMBER
SERVICES = FileDescriptorProto.SERVICE_FIELD_NUMBER
FIELDS = DescriptorProto.FIELD_FIELD_NUMBER
VALUES = EnumDescriptorProto.VALUE_FIELD_NUMBER
METHODS = ServiceDescriptorProto.METHOD_FIELD_NUMBER


@dataclass(frozen=True)
class File:
    """A file of the contract."""

    descriptor: FileDescriptorProto
    _comments: dict[tuple[int, ...], str]

    def comment(self, *path: int) -> str:
        """Returns the comment of the element at a path of field numbers and positions, one paragraph or item a line."""
        return self._comments.get(path, "")

    def messages(self) -> Iterator[tuple[int, DescriptorProto]]:
        """Yields the messages with their positions."""
        return enumerate(self.descriptor.message_type)

    def enums(self) -> Iterator[tuple[int, EnumDescriptorProto]]:
        """Yields the enums with their positions."""
        return enumerate(self.descriptor.enum_type)

    def services(self) -> Iterator[tuple[int, ServiceDescriptorProto]]:
        """Yields the services with their positions."""
        return enumerate(self.descriptor.service)


def read() -> list[File]:
    """Compiles the contract and returns its files, in the order of their names."""
    command = [str(BUF), "build", "--as-file-descriptor-set", "--output", "-"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)  # noqa: S603 - the command is ours
    files = FileDescriptorSet.FromString(built.stdout).file
    return [_file(file) for file in sorted(files, key=lambda file: file.name) if file.package == PACKAGE]


def _file(descriptor: FileDescriptorProto) -> File:
    locations = descriptor.source_code_info.location
    return File(descriptor, {tuple(location.path): _unwrap(location.leading_comments) for location in locations})


def _unwrap(comment: str) -> str:
    """Joins the lines of each paragraph and of each item of a list."""
    text = "\n".join(line.strip() for line in comment.splitlines()).strip()
    return re.sub(r"(?<!\n)\n(?!\n|\* )", " ", text)
