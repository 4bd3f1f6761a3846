"""The blocks of the callers' file, as data classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from palaver_server.callers.patterns import Pattern
from palaver_server.domain.rights import Allowed, Rights

ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""The signature algorithms that may be configured. All are asymmetric: the server never holds what signs a token."""

DEFAULT_ALGORITHMS = ALGORITHMS[:1]
"""RS256 alone, which every issuer must support, and which Entra ID uses."""

Claims = Mapping[str, object]
"""The claims of a token."""


@dataclass(frozen=True, slots=True)
class TokenRule:
    """The tokens of an issuer that identify a caller."""

    issuer: str
    """The `iss` of the tokens, and the beginning of the address of the issuer's discovery document."""
    audiences: tuple[str, ...]
    required: tuple[tuple[str, tuple[object, ...]], ...] = ()
    """Claims, and the values that each of them must have."""
    algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS


@dataclass(frozen=True, slots=True)
class CallerBlock:
    """A block of the file: how a caller is identified, and its rights."""

    name: str
    key_digests: tuple[bytes, ...] = ()
    """The SHA-256 digests of the caller's keys."""
    tokens: TokenRule | None = None
    certificates: Allowed | None = None
    """The names of the client certificates that identify the caller."""
    ids: tuple[Pattern, ...] = (Pattern.parse("*"),)
    rights: Rights = field(default_factory=Rights)
    """The rights, except for those to `ids`, which depend on the token."""

    def rights_of(self, claims: Claims) -> Rights:
        """Returns the rights of the bearer of a token with these claims."""
        globs = (pattern.filled(claims) for pattern in self.ids)
        texts = tuple(pattern.text for pattern in self.ids)
        return replace(self.rights, ids=Allowed(texts, tuple(glob for glob in globs if glob is not None)))
