"""How much may be stored: what one transaction of Azure Table Storage holds, so that every store holds the same."""

from __future__ import annotations

from json.encoder import encode_basestring_ascii

from palaver_server.errors import TurnTooLarge

MAX_MESSAGE_UNITS = 450_000
"""UTF-16 code units of a message."""

MAX_TURN_BYTES = 3_670_016
"""Bytes of a turn as encoded: 3.5 MiB."""


def utf16_units(text: str) -> int:
    """Counts UTF-16 code units, which is how Azure Table Storage and .NET measure text."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def encoded_bytes(text: str) -> int:
    """Counts the bytes of a text in JSON, where a character outside ASCII is an escape of six or twelve bytes."""
    return len(encode_basestring_ascii(text)) - 2


class TurnSize:
    """Adds up what a turn will store, and ends the turn as soon as that is too much."""

    def __init__(self, *texts: str) -> None:
        """Takes the messages that the turn begins with, whose length was checked before."""
        self._bytes = sum(map(encoded_bytes, texts))
        self._reply_units = 0

    def add(self, text: str) -> None:
        """Counts a message or anything else that is stored; raises `TurnTooLarge`."""
        self._bytes += encoded_bytes(text)
        self._check()

    def has_room_for(self, text: str) -> bool:
        """Whether a text would fit."""
        return self._bytes + encoded_bytes(text) <= MAX_TURN_BYTES

    def begin_reply(self) -> None:
        """Begins a message of the model."""
        self._reply_units = 0

    def add_reply(self, text: str) -> None:
        """Counts a piece of the reply; raises `TurnTooLarge`."""
        self._reply_units += utf16_units(text)
        self._bytes += encoded_bytes(text)
        self._check()

    def _check(self) -> None:
        if self._reply_units > MAX_MESSAGE_UNITS:
            raise TurnTooLarge(f"the reply has more than {MAX_MESSAGE_UNITS:,} UTF-16 code units; set max_tokens")
        if self._bytes > MAX_TURN_BYTES:
            raise TurnTooLarge(f"the turn has more than {MAX_TURN_BYTES:,} bytes as encoded; set max_tokens")
