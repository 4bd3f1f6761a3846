"""Tells whether a gRPC target can only mean this machine."""

from __future__ import annotations

import ipaddress
import re

_ADDRESS = re.compile(r"(?:([^:\[\]]+)|\[([^\[\]]+)\])(?::[0-9]+)?")


def is_local(target: str) -> bool:
    """Returns whether a gRPC target can only mean this machine."""
    scheme, _, rest = target.partition(":")
    if scheme not in {"dns", "ipv4", "ipv6", "unix", "unix-abstract"}:
        return _is_loopback(target, or_localhost=True)
    if rest.startswith("//"):
        # "dns://authority/name" asks that name server, which may return any address.
        authority, _, rest = rest[2:].partition("/")
        if authority:
            return False
    if scheme.startswith("unix"):
        return rest != ""
    if scheme == "dns":
        return _is_loopback(rest, or_localhost=True)
    return all(_is_loopback(address) for address in rest.split(","))


def _is_loopback(address: str, *, or_localhost: bool = False) -> bool:
    """Returns whether an address, with or without a port, is a loopback address, or "localhost" if that is allowed."""
    match = _ADDRESS.fullmatch(address)
    host, ipv6 = match.groups() if match else (None, address)  # without a port, an IPv6 address needs no brackets
    try:
        if host is not None:
            return (or_localhost and host.lower() == "localhost") or ipaddress.IPv4Address(host).is_loopback
        ip = ipaddress.IPv6Address(ipv6)
    except ValueError:
        return False
    return ip.scope_id is None and (ip.ipv4_mapped or ip).is_loopback
