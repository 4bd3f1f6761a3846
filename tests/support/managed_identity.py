"""The endpoint that gives an Azure machine the tokens of its managed identity.

    async with ManagedIdentity() as identity:
        environment = identity.environment  # in which `azure-identity` looks for it in App Service
        environment = identity.vm_environment  # in which it looks for it on a virtual machine
        identity.lifetimes.append(60)  # seconds of the next token; by default a day

Its tokens have the form and the claims of real ones, but no valid signature.
"""

from __future__ import annotations

import asyncio
import json
import time
from base64 import urlsafe_b64encode
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from typing_extensions import Self

SECRET = "the header that proves that the caller is on this machine"
DAY = 86_400
LEEWAY = 60
"""Seconds for which a token is valid after it must be renewed, for the requests that are under way."""


@dataclass(frozen=True)
class Platform:
    """A kind of machine: what its requests for tokens look like."""

    path: str
    header: str
    header_value: str
    resource_id_parameter: str


APP_SERVICE = Platform("/msi/token", "x-identity-header", SECRET, "mi_res_id")
VIRTUAL_MACHINE = Platform("/metadata/identity/oauth2/token", "metadata", "true", "msi_res_id")
PLATFORMS = {platform.path: platform for platform in (APP_SERVICE, VIRTUAL_MACHINE)}


@dataclass(frozen=True)
class TokenRequest:
    """A request for a token, and the token that it received."""

    resource: str
    client_id: str | None
    token: str
    resource_id: str | None = None
    """The resource id of the identity, if it was sent under the name that this kind of machine knows."""


class ManagedIdentity:
    """The endpoint, for the time of its `async with` block."""

    def __init__(self) -> None:
        self.requests: list[TokenRequest] = []
        self.lifetimes: deque[int] = deque()
        self.status = 200
        self._server: asyncio.Server | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {"IDENTITY_ENDPOINT": f"{self._url}{APP_SERVICE.path}", "IDENTITY_HEADER": SECRET}

    @property
    def vm_environment(self) -> dict[str, str]:
        return {"AZURE_POD_IDENTITY_AUTHORITY_HOST": self._url}

    @property
    def _url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            status, content = self._answer(first.split(" ")[1], headers)
            body = json.dumps(content).encode()
            head = (
                f"HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                "Connection: close\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
        writer.close()

    def _answer(self, target: str, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
        if self.status != 200:
            return self.status, {"message": "no identity for you"}
        url = urlsplit(target)
        platform = PLATFORMS[url.path]
        if headers.get(platform.header) != platform.header_value:
            return 401, {"message": "not from this machine"}
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        now = int(time.time())
        expires_on = now + (self.lifetimes.popleft() if self.lifetimes else DAY)
        claims = {
            "aud": query["resource"],
            "iss": "https://sts.windows.net/ab1f708d-50f6-404c-a006-d71b2ac7a606/",
            "iat": now - 10,
            "nbf": now - 10,
            "exp": expires_on + LEEWAY,
            "jti": str(len(self.requests)),
        }
        token = ".".join(urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (
            {"typ": "JWT", "alg": "RS256"}, claims, "signature"
        ))  # fmt: skip
        # As in Azure, a parameter that the platform does not know is ignored.
        resource_id = query.get(platform.resource_id_parameter)
        self.requests.append(TokenRequest(query["resource"], query.get("client_id"), token, resource_id))
        return 200, {
            "access_token": token,
            "expires_on": str(expires_on),
            "resource": query["resource"],
            "token_type": "Bearer",
        }
