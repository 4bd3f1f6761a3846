"""The rule for listening beyond this machine: it takes callers and TLS, or an operator who says that others do both."""

from __future__ import annotations

from ipaddress import ip_address

from palaver_server.settings import Settings, SettingsError


def check_exposure(settings: Settings) -> str:
    """Returns a warning about what is unprotected on purpose, or an empty text.

    Raises `SettingsError` if the server would be open to other machines and nothing says that this is meant.
    """
    if is_local(settings.listen):
        return ""
    if settings.callers is None:
        if not settings.allow_unauthenticated:
            raise SettingsError(
                f"PALAVER_LISTEN: on {settings.listen}, everyone on the network could do everything: name the callers "
                "in a file (PALAVER_CALLERS), listen on 127.0.0.1 or unix:PATH, or, if a gateway or a mesh "
                "authenticates, set PALAVER_ALLOW_UNAUTHENTICATED=true"
            )
        return (
            f"PALAVER_ALLOW_UNAUTHENTICATED: whoever reaches {settings.listen} may read, change and delete every "
            "conversation"
        )
    if settings.tls_certificate is None:
        if not settings.allow_unencrypted:
            raise SettingsError(
                f"PALAVER_LISTEN: on {settings.listen}, keys and tokens would cross the network in the clear: set "
                "PALAVER_TLS_CERTIFICATE and PALAVER_TLS_KEY, listen on 127.0.0.1 or unix:PATH, or, if a gateway or a "
                "mesh encrypts, set PALAVER_ALLOW_UNENCRYPTED=true"
            )
        return f"PALAVER_ALLOW_UNENCRYPTED: keys and tokens that callers send to {settings.listen} are not encrypted"
    return ""


def is_local(listen: str) -> bool:
    """Returns whether only this machine can reach the address. A name other than localhost could be any address."""
    if listen.startswith("unix:"):
        return True
    host = listen.rpartition(":")[0].removeprefix("[").removesuffix("]")
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
