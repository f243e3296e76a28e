"""Addresses as they stand in node names, and those that no node can have."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

_BROADCAST = IPv4Address("255.255.255.255")
# Only in these two prefixes does Erlang take the second group for the zone, as the KAME stacks do.
_ZONED = frozenset({0xFE80, 0xFF02})


def erlang_text(address: Address) -> str:
    """Write an address exactly as ``inet:ntoa/1`` of Erlang's kernel does.

    A node is known by one name only, so the text must be the one that the BEAM at that address
    was started with. It is RFC 5952's, save that every IPv4-compatible address but ``::`` and
    ``::1`` ends in dotted decimals (``::0.0.1.2``), as a mapped one does, and that a zone held in
    an address's second group moves to its end (``fe80::1%05``).
    """
    if isinstance(address, IPv4Address):
        return str(address)
    number = int(address)
    # Python writes mapped addresses in dotted decimals since 3.13 only; here both are written out.
    embedded = str(IPv4Address(number & 0xFFFF_FFFF))
    if number >> 32 == 0xFFFF:
        return f"::ffff:{embedded}"
    if number >> 32 == 0 and number > 1:
        return f"::{embedded}"
    zone = number >> 96 & 0xFFFF
    if zone and number >> 112 in _ZONED:
        return f"{IPv6Address(number & ~(0xFFFF << 96)).compressed}%0{zone}"
    return address.compressed


def is_nobodys(address: Address) -> bool:
    """Whether no node can be reached there: the unspecified, multicast and broadcast addresses."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_unspecified or address.is_multicast or address == _BROADCAST
