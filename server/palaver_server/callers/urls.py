"""The addresses of issuers that the server may fetch keys from."""

from __future__ import annotations

import re

_TLS_URL = re.compile(r"https://[^\s/?#@\\]+(/[^\s?#]*)?")
_LOCAL_URL = re.compile(r"http://(127\.0\.0\.1|\[::1\]|localhost)(:\d{1,5})?(/[^\s?#]*)?")


def has_tls(url: str) -> bool:
    """Returns whether a text is an https URL, without a user name, a query or a fragment."""
    return bool(_TLS_URL.fullmatch(url))


def is_local(url: str) -> bool:
    """Returns whether a text is an http URL that leads to this machine."""
    return bool(_LOCAL_URL.fullmatch(url))
