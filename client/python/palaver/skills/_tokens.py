"""The tokens that a host accepts."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from grpc.aio import Metadata

from palaver._token import authorization


class Tokens:
    """The tokens of a host, any of which a call must send."""

    def __init__(self, tokens: Sequence[str]) -> None:
        """Takes the tokens.

        Raises:
            ValueError: There is none, or one is not a valid header value.
        """
        if not tokens:
            raise ValueError("the host must accept at least one token")
        self._expected = [value.encode() for token in tokens for _, value in authorization(token)]

    def permit(self, metadata: Metadata | Sequence[tuple[str, str | bytes]] | None) -> bool:
        """Returns whether a call with this metadata sends one of the tokens, in a time that does not depend on how."""
        sent = dict(metadata or ()).get("authorization", "")
        value = sent if isinstance(sent, bytes) else sent.encode()
        return sum(hmac.compare_digest(value, expected) for expected in self._expected) > 0
