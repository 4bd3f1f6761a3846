"""Tokens: the checks that a bearer token of an OIDC issuer must pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jwt

from palaver_server.callers.blocks import CallerBlock, TokenRule
from palaver_server.callers.issuers import Issuer
from palaver_server.domain.errors import FieldViolation, PermissionDenied, Unauthenticated

LEEWAY = 60
"""Seconds by which the clocks of the server and an issuer may differ."""

SPACE_SEPARATED = ("scp", "scope")
"""The claims that are lists with spaces between their values. In any other claim, a space is part of the value."""

_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (jwt.ExpiredSignatureError, "the token has expired"),
    (jwt.ImmatureSignatureError, "the token is not valid yet"),
    (jwt.InvalidSignatureError, "the signature of the token is not valid"),
    (jwt.MissingRequiredClaimError, "the token has no exp claim"),
)


def looks_like_token(credential: str) -> bool:
    """Returns whether a credential has the form of a token: three parts with dots between them."""
    return credential.count(".") == 2


async def verified_owner(
    token: str, blocks: Sequence[CallerBlock], issuers: Mapping[str, Issuer]
) -> tuple[CallerBlock, dict[str, Any]]:
    """Returns the first block whose rule a token fulfils, and the claims of the token.

    Raises `Unauthenticated`, or `PermissionDenied` if the token is valid and lacks only the claims that are required.
    """
    header, issuer_url = _unverified(token)
    rules = [(block, block.tokens) for block in blocks if block.tokens and block.tokens.issuer == issuer_url]
    if not rules:
        raise Unauthenticated("the token is of an issuer that this server does not accept")
    algorithm = header.get("alg")
    rules = [(block, rule) for block, rule in rules if algorithm in rule.algorithms]
    if not rules:
        raise Unauthenticated("the token is signed with an algorithm that this server does not accept")
    key = await issuers[rules[0][1].issuer].key(header.get("kid"), str(algorithm))
    claims = _verified(token, key, rules[0][1].issuer)
    rules = [(block, rule) for block, rule in rules if _is_for(claims, rule)]
    if not rules:
        raise Unauthenticated("the token is for another audience")
    for block, rule in rules:
        if _missing(claims, rule) is None:
            return block, claims
    block, rule = rules[0]
    claim = _missing(claims, rule)
    raise PermissionDenied(
        FieldViolation("", f'the token lacks the claim {claim} that the caller "{block.name}" requires')
    )


def subject_of(claims: Mapping[str, object]) -> str:
    """Returns the identity of a token's bearer. Entra ID's is `tid` and `oid`, since its `sub` differs between apps."""
    tenant, person = claims.get("tid"), claims.get("oid")
    if isinstance(tenant, str) and isinstance(person, str):
        return f"{tenant} {person}"
    subject = claims.get("sub")
    return subject if isinstance(subject, str) else ""


def _unverified(token: str) -> tuple[dict[str, Any], object]:
    """Returns the header of a token and its `iss`, which only serve to find the rules and the key to verify it."""
    try:
        decoded = jwt.decode_complete(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise Unauthenticated("the credential is neither a key of this server nor a token") from None
    return decoded["header"], decoded["payload"].get("iss")


def _verified(token: str, key: jwt.PyJWK, issuer: str) -> dict[str, Any]:
    """Returns the claims of a token, after its signature, its issuer and its times were verified."""
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            issuer=issuer,
            leeway=LEEWAY,
            # The audience is a matter of the rules. Without an expiry, a leaked token would be valid forever.
            options={"verify_aud": False, "require": ["exp"], "enforce_minimum_key_length": True},
        )
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
        reason = next((text for kind, text in _REASONS if isinstance(error, kind)), "the token is not valid")
        raise Unauthenticated(reason) from None
    return claims


def _is_for(claims: Mapping[str, object], rule: TokenRule) -> bool:
    audience = claims.get("aud")
    return any(each in rule.audiences for each in (audience if isinstance(audience, list) else [audience]))


def _missing(claims: Mapping[str, object], rule: TokenRule) -> str | None:
    """Returns the first required claim that a token lacks, or None."""
    for claim, values in rule.required:
        if not all(_has(claim, claims.get(claim), value) for value in values):
            return claim
    return None


def _has(claim: str, found: object, value: object) -> bool:
    if isinstance(found, str) and claim in SPACE_SEPARATED:
        return value in found.split(" ")
    return any(type(each) is type(value) and each == value for each in (found if isinstance(found, list) else [found]))
