"""The keys with which issuers sign their tokens: fetched without blocking, and kept while an issuer is down."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import aiohttp
import jwt

from palaver_server.callers.urls import has_tls, is_local
from palaver_server.domain.errors import IssuerUnavailable, Unauthenticated
from palaver_server.domain.limits import MAX_ISSUER_KEYS, MAX_ISSUER_RESPONSE_BYTES

logger = logging.getLogger(__name__)

DISCOVERY_PATH = "/.well-known/openid-configuration"

FETCH_TIMEOUT = 5.0
"""Seconds that each of the two requests for keys may take. Only calls with a token of an unknown key wait for them."""

REFETCH_INTERVAL = 60.0
"""Seconds between two fetches, at least. Otherwise tokens with made-up key ids would flood an issuer."""

RETRY_INTERVAL = 5.0
"""Seconds between two fetches while no key of the issuer is known, when none of its tokens can be accepted."""

MAX_AGE = 3600.0
"""Seconds after which keys are fetched again, so that one that an issuer has withdrawn is not accepted for long."""

_ALGORITHMS = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
"""The algorithm of a key by its type and curve. A key never chooses another one."""


class IssuerError(Exception):
    """The keys of an issuer can't be fetched. The text says why."""


class Issuer:
    """An issuer of tokens, and its keys."""

    def __init__(self, url: str, session: aiohttp.ClientSession, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes the `iss` of its tokens, which is also the beginning of its discovery document's address."""
        self._url = url
        self._session = session
        self._clock = clock
        self._keys: dict[str | None, list[jwt.PyJWK]] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None
        self.problem = ""
        """Why the latest fetch failed, or an empty text."""

    async def key(self, key_id: object, algorithm: str) -> jwt.PyJWK:
        """Returns the key with an id, or the only key if a token names none.

        Raises `Unauthenticated` if the issuer has no such key, and `IssuerUnavailable` if none of its keys are known.
        """
        found = self._find(key_id, algorithm)
        if found is None and self.prefetch() is not None:
            # The fetch is shared. It goes on if this caller leaves.
            await asyncio.wait([task for task in (self._fetching,) if task is not None])
            found = self._find(key_id, algorithm)
        if found is not None:
            if self._age() > MAX_AGE:
                self.prefetch()
            return found
        if self._fetched_at is None:
            raise IssuerUnavailable(
                "the keys of the token's issuer can't be fetched at the moment", retry_after=self._wait()
            )
        raise Unauthenticated("the token is not signed with a key of its issuer that the server knows")

    def prefetch(self) -> asyncio.Task[None] | None:
        """Begins to fetch the keys and returns the task, or None if it is too early to fetch them again."""
        if self._fetching is None and self._wait() <= 0:
            self._tried_at = self._clock()
            self._fetching = asyncio.create_task(self._fetch())
            self._fetching.add_done_callback(self._forget_fetch)
        return self._fetching

    def close(self) -> None:
        """Ends a fetch in progress."""
        if self._fetching is not None:
            self._fetching.cancel()

    def _find(self, key_id: object, algorithm: str) -> jwt.PyJWK | None:
        if key_id is None:
            candidates: Iterable[jwt.PyJWK] = [key for keys in self._keys.values() for key in keys]
        else:
            candidates = self._keys.get(key_id, ()) if isinstance(key_id, str) else ()
        fitting = [key for key in candidates if key.algorithm_name == algorithm]
        return fitting[0] if len(fitting) == 1 or (fitting and key_id is not None) else None

    def _age(self) -> float:
        return 0.0 if self._fetched_at is None else self._clock() - self._fetched_at

    def _wait(self) -> float:
        """Returns the seconds until the keys may be fetched again."""
        if self._tried_at is None:
            return 0.0
        interval = RETRY_INTERVAL if self._fetched_at is None else REFETCH_INTERVAL
        return max(0.0, self._tried_at + interval - self._clock())

    def _forget_fetch(self, _task: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        """Replaces the keys. If that fails, the previous ones stay."""
        try:
            keys = await self._fetched_keys()
        except (IssuerError, aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError, RecursionError) as error:
            reason = str(error) if isinstance(error, IssuerError) else type(error).__name__
            self.problem = f"the keys of the issuer {self._url} can't be fetched ({reason})"
            logger.warning(
                "%s; %s",
                self.problem,
                "its tokens are refused" if self._fetched_at is None else "the known keys stay in use",
            )
        else:
            self.problem = ""
            self._keys = keys
            self._fetched_at = self._clock()

    async def _fetched_keys(self) -> dict[str | None, list[jwt.PyJWK]]:
        discovery = await self._get(self._url.rstrip("/") + DISCOVERY_PATH)
        if discovery.get("issuer") != self._url:
            raise IssuerError("its discovery document is for another issuer")
        address = discovery.get("jwks_uri")
        # Only an issuer on this machine may send the server to another address on this machine.
        is_allowed = isinstance(address, str) and (has_tls(address) or (is_local(self._url) and is_local(address)))
        if not is_allowed:
            raise IssuerError("its discovery document has no https address of a key set")
        keys = _usable_keys((await self._get(str(address))).get("keys"))
        if not keys:
            raise IssuerError("its key set has no usable key")
        return keys

    async def _get(self, url: str) -> dict[str, Any]:
        """Returns the JSON object at a URL. Its size is limited, and it is neither redirected nor inflated."""
        timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT)
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with self._session.get(url, allow_redirects=False, timeout=timeout, headers=headers) as response:
            if response.status != 200:
                raise IssuerError(f"status {response.status}")
            body = b""
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_ISSUER_RESPONSE_BYTES:
                    raise IssuerError(f"more than {MAX_ISSUER_RESPONSE_BYTES:,} bytes")
        document = json.loads(body)
        if not isinstance(document, dict):
            raise IssuerError("not a JSON object")
        return document


def _usable_keys(entries: object) -> dict[str | None, list[jwt.PyJWK]]:
    """Returns the keys of a key set for signatures, by their ids."""
    keys: dict[str | None, list[jwt.PyJWK]] = {}
    for entry in entries[:MAX_ISSUER_KEYS] if isinstance(entries, list) else ():
        if isinstance(entry, dict) and (key := _usable_key(entry)) is not None:
            key_id = entry.get("kid")
            keys.setdefault(key_id if isinstance(key_id, str) else None, []).append(key)
    return keys


def _usable_key(entry: Mapping[str, Any]) -> jwt.PyJWK | None:
    kind, curve = entry.get("kty"), entry.get("crv")
    if not (isinstance(kind, str) and (curve is None or isinstance(curve, str))):
        return None
    algorithm = _ALGORITHMS.get((kind, curve))
    if algorithm is None or entry.get("alg", algorithm) != algorithm or entry.get("use", "sig") != "sig":
        return None
    try:
        return jwt.PyJWK(dict(entry), algorithm)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
