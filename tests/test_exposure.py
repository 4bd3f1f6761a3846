"""The addresses that only this machine can reach, and what all others need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palaver_server.exposure import check_exposure, is_local
from palaver_server.settings import Settings, SettingsError

FILE = Path(__file__)
TLS = {"tls_certificate": FILE, "tls_key": FILE}


@pytest.mark.parametrize(
    "listen",
    ["127.0.0.1:50051", "127.1.2.3:0", "[::1]:0", "localhost:0", "LOCALHOST:0", "unix:/run/palaver.sock", "unix:a"],
)
def test_addresses_of_this_machine(listen: str):
    assert is_local(listen)
    assert check_exposure(Settings(listen=listen)) == ""


@pytest.mark.parametrize(
    "listen",
    [
        "0.0.0.0:0",
        "[::]:0",
        "*:0",
        "10.0.0.1:0",
        "localhost.example:0",
        "127.0.0.1.example:0",
        "127.1:0",
        "0:0",
        "2130706433:0",
        "0x7f.0.0.1:0",
        "127.0.0.1%eth0:0",
        "[::ffff:0.0.0.0]:0",
        "ipv4:127.0.0.1,10.0.0.1:0",
        "dns:localhost:0",
    ],
)
def test_any_other_address_may_be_reached_from_elsewhere(listen: str):
    assert not is_local(listen)
    with pytest.raises(SettingsError):
        check_exposure(Settings(listen=listen))


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        ({"allow_unauthenticated": True}, "PALAVER_ALLOW_UNAUTHENTICATED: whoever reaches 0.0.0.0:0 "),
        ({"allow_unauthenticated": True, **TLS}, "PALAVER_ALLOW_UNAUTHENTICATED: "),
        ({"callers": FILE, **TLS}, ""),
        ({"callers": FILE, "allow_unencrypted": True}, "PALAVER_ALLOW_UNENCRYPTED: keys and tokens "),
        ({"callers": FILE, "allow_unauthenticated": True, **TLS}, ""),
    ],
)
def test_what_is_protected_or_said_to_be(settings: dict[str, Any], warning: str):
    found = check_exposure(Settings(listen="0.0.0.0:0", **settings))
    assert found.startswith(warning)
    assert bool(found) == bool(warning)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        TLS,
        {"allow_unencrypted": True},
        {"callers": FILE},
        {"callers": FILE, "allow_unauthenticated": True},
    ],
)
def test_what_is_not_protected(settings: dict[str, Any]):
    with pytest.raises(SettingsError, match=r"PALAVER_LISTEN: on 0\.0\.0\.0:0, "):
        check_exposure(Settings(listen="0.0.0.0:0", **settings))
