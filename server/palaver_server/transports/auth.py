"""The identification of callers, before their requests are parsed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from palaver_server.api.service import Call
from palaver_server.domain.ports import Authenticator, Credentials

AUTHORIZATION = "authorization"


def authentication(authenticator: Authenticator) -> Callable[[Call], AbstractAsyncContextManager[None]]:
    """Returns an interceptor that sets the caller of each call. It fails the calls of callers that are not known."""

    @asynccontextmanager
    async def identify(call: Call) -> AsyncIterator[None]:
        authorization = call.metadata.get(AUTHORIZATION, "")
        call.caller = await authenticator.authenticate(
            Credentials(authorization if isinstance(authorization, str) else "", call.certificate_names)
        )
        yield

    return identify


def certificate_names(context: Mapping[str, Iterable[bytes]]) -> tuple[str, ...]:
    """Returns the names in the client certificate of a connection, from gRPC's properties of it.

    These are its URIs and its DNS names. Only a certificate that has neither is identified by its common name, for
    which authorities have no common rules. An address or a mail box never is a name.
    """
    alternatives = [*context.get("peer_uri", ()), *context.get("peer_dns", ())]
    names = alternatives or context.get("x509_common_name", ())
    return tuple(text for name in names if (text := name.decode(errors="replace")))
