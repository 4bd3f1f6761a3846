"""The authenticator: it finds the caller for the credentials of a call."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp

from palaver_server.callers.blocks import CallerBlock, Claims
from palaver_server.callers.issuers import Issuer
from palaver_server.callers.keys import Keys
from palaver_server.callers.tokens import looks_like_token, subject_of, verified_owner
from palaver_server.domain.errors import Unauthenticated
from palaver_server.domain.ports import Credentials
from palaver_server.domain.turns import Caller

BEARER = "bearer"


class Callers:
    """The callers of a callers' file. A new version of the file can replace them at any time."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        """Takes the HTTP session that fetches the keys of issuers."""
        self._session = session
        self._blocks: Sequence[CallerBlock] = ()
        self._keys = Keys.of(())
        self._issuers: dict[str, Issuer] = {}

    def use(self, blocks: Sequence[CallerBlock]) -> None:
        """Replaces the callers. The keys of issuers that were there before stay known."""
        urls = {block.tokens.issuer for block in blocks if block.tokens}
        for url in self._issuers.keys() - urls:
            self._issuers.pop(url).close()
        for url in urls - self._issuers.keys():
            self._issuers[url] = Issuer(url, self._session)
            self._issuers[url].prefetch()
        self._blocks, self._keys = tuple(blocks), Keys.of(blocks)

    async def authenticate(self, credentials: Credentials) -> Caller:
        """Returns the caller with these credentials; raises `Unauthenticated` or `PermissionDenied`.

        If there are both a key or token and a client certificate, only the former counts, because a gateway that
        forwards the calls of users has a certificate of its own.
        """
        if credentials.authorization:
            return await self._caller_with_bearer(_bearer(credentials.authorization))
        for block in self._blocks:
            for name in credentials.certificate_names:
                if block.certificates is not None and name in block.certificates:
                    return _caller(block, subject=name)
        if credentials.certificate_names:
            raise Unauthenticated("the client certificate is not one of a caller of this server")
        raise Unauthenticated('credentials are missing: send the metadata "authorization: Bearer <key or token>"')

    async def _caller_with_bearer(self, credential: str) -> Caller:
        if (owner := self._keys.owner_of(credential)) is not None:
            return _caller(owner)
        if not (self._issuers and looks_like_token(credential)):
            raise Unauthenticated("the key is not one of a caller of this server")
        block, claims = await verified_owner(credential, self._blocks, self._issuers)
        return _caller(block, subject_of(claims), claims)

    async def problems(self) -> list[str]:
        """Waits until the keys of all issuers have been asked for, and returns why those of some are unknown."""
        if fetches := list(filter(None, (issuer.prefetch() for issuer in self._issuers.values()))):
            await asyncio.wait(fetches)
        return [issuer.problem for issuer in self._issuers.values() if issuer.problem]

    def close(self) -> None:
        """Ends the fetches in progress."""
        for issuer in self._issuers.values():
            issuer.close()


@asynccontextmanager
async def callers_of(blocks: Sequence[CallerBlock]) -> AsyncIterator[Callers]:
    """Yields an authenticator for the blocks of a callers' file."""
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context())
    async with aiohttp.ClientSession(
        connector=connector, trust_env=True, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        callers = Callers(session)
        try:
            callers.use(blocks)
            yield callers
        finally:
            callers.close()


def _bearer(authorization: str) -> str:
    scheme, _, credential = authorization.partition(" ")
    if scheme.lower() != BEARER or not credential.strip():
        raise Unauthenticated('the metadata "authorization" must be "Bearer <key or token>"')
    return credential.strip()


def _caller(block: CallerBlock, subject: str = "", claims: Claims | None = None) -> Caller:
    return Caller(block.name, subject, block.rights_of(claims or {}))
