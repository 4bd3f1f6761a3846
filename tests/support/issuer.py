"""An issuer of tokens on loopback: its discovery document, its keys, and tokens that it signs.

async with Issuer() as issuer:
    token = issuer.token(sub="ann")
    issuer.rotate()  # new tokens have another key
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from typing_extensions import Self

AUDIENCE = "api://palaver"

MAKERS: dict[str, tuple[Callable[[], Any], Any]] = {
    "RS256": (lambda: rsa.generate_private_key(65537, 2048), RSAAlgorithm),
    "ES256": (lambda: ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate, OKPAlgorithm),
}


class Key:
    """A key pair for signatures."""

    def __init__(self, algorithm: str, key_id: str) -> None:
        make, kind = MAKERS[algorithm]
        self.algorithm, self.id = algorithm, key_id
        self.private = make()
        # Entra ID's keys have no "alg".
        self.public = {**json.loads(kind.to_jwk(self.private.public_key())), "kid": key_id, "use": "sig"}

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        headers = {"kid": self.id, **header}
        return jwt.encode(claims, self.private, self.algorithm, {k: v for k, v in headers.items() if v is not None})


class Issuer:
    """A running issuer. Its knobs are attributes."""

    def __init__(self, *, path: str = "", algorithm: str = "ES256", ssl_context: Any = None) -> None:
        self.keys = [Key(algorithm, "first")]
        self.key_requests = 0
        self.requests = 0
        self.answer: Callable[[], web.StreamResponse] | None = None
        """Answers in place of the issuer."""
        self.gate = asyncio.Event()
        """While it is cleared, the key set is not sent."""
        self.gate.set()
        self.asked = asyncio.Event()
        """Set when the key set was requested."""
        self.jwks_uri = ""
        """The address of the key set that the discovery document names. Empty: this issuer's."""
        self.named = ""
        """The issuer that the discovery document names. Empty: this one."""
        self._path, self._ssl = path, ssl_context
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def origin(self) -> str:
        return f"{'https' if self._ssl else 'http'}://localhost:{self._port}"

    @property
    def url(self) -> str:
        return self.origin + self._path

    @property
    def key(self) -> Key:
        """The key that signs new tokens."""
        return self.keys[-1]

    def rotate(self, *, keeps_old: bool = False) -> None:
        """Signs with another key from now on."""
        new = Key(self.key.algorithm, f"key-{len(self.keys) + 1}-{time.monotonic_ns()}")
        self.keys = [*self.keys, new] if keeps_old else [new]

    def claims(self, **claims: Any) -> dict[str, Any]:
        """Returns the claims of a valid token. Those that are None are left out."""
        now = int(time.time())
        every = {"iss": self.url, "aud": AUDIENCE, "sub": "ann", "iat": now, "nbf": now, "exp": now + 3600, **claims}
        return {name: value for name, value in every.items() if value is not None}

    def token(self, **claims: Any) -> str:
        return self.key.sign(self.claims(**claims))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens, again on the same port if it did before."""
        app = web.Application()
        app.router.add_get(self._path.rstrip("/") + "/.well-known/openid-configuration", self._discover)
        app.router.add_get("/keys", self._send_keys)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._ssl, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Goes down."""
        self.gate.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _discover(self, _request: web.Request) -> web.StreamResponse:
        self.requests += 1
        if self.answer is not None:
            return self.answer()
        return web.json_response({"issuer": self.named or self.url, "jwks_uri": self.jwks_uri or self.origin + "/keys"})

    async def _send_keys(self, _request: web.Request) -> web.StreamResponse:
        self.key_requests += 1
        self.asked.set()
        await self.gate.wait()
        return web.json_response({"keys": [key.public for key in self.keys]})


def forged(claims: dict[str, Any], header: dict[str, Any], signature: bytes = b"") -> str:
    """Returns a token with any header and signature, which no library would make."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    return ".".join((part(json.dumps(header).encode()), part(json.dumps(claims).encode()), part(signature)))
