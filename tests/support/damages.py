"""Ways to damage a database file: functions from its bytes to the damaged ones."""

from __future__ import annotations


def garbage_header(data: bytes) -> bytes:
    return b"This was a database once." + data[25:]


def garbage_in_the_middle(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + b"\xa5" * 20_000 + data[middle + 20_000 :]


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def nearly_all_lost(data: bytes) -> bytes:
    return data[:50]


def garbage_alone(_data: bytes) -> bytes:
    return b"\x00\xff" * 50_000


DAMAGES = [garbage_header, garbage_in_the_middle, truncated, nearly_all_lost, garbage_alone]
