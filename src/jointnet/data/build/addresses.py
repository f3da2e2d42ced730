"""Which network addresses may be connected to: lists of links come from strangers, and this machine's own network is not theirs."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

Resolve = Callable[[str, int], list[str]]
"""A host's name and a port -> its IP addresses. Raises: OSError."""

_NAT64 = IPv6Network("64:ff9b::/96")
_NOT_PUBLIC = tuple(map(IPv6Network, ("64:ff9b:1::/48", "100::/64", "2001::/23", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10")))
"""Local NAT64, discard-only, protocol assignments with Teredo, 6to4, documentation, segment routing, site-local (RFC 6890 and later)."""


def resolve(host: str, port: int) -> list[str]:
    """Ask the system for a host's addresses; odd spellings of numbers (0x7f.1, 2130706433) become addresses too. Raises: OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: str) -> bool:
    """Return True for an address on the open internet: not private, loopback, link-local, multicast, reserved, or one of these within an
    IPv6 address."""
    try:
        return _is_public(ip_address(address.partition("%")[0]))
    except ValueError:
        return False


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return _is_public(address.ipv4_mapped)
        if address in _NAT64:
            return _is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if any(address in network for network in _NOT_PUBLIC):
            return False
    is_special = address.is_multicast or address.is_reserved or address.is_loopback or address.is_link_local or address.is_unspecified
    return address.is_global and not is_special
