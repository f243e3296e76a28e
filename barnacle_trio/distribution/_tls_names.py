"""Whether a certificate is for a node name.

Source: RFC 6125, of which a private authority's needs are kept: subject alternative names alone,
and a wildcard that stands for one whole label. One thing is added for Erlang: its clients look for
the host of ``app@127.0.0.1`` among a certificate's DNS names, so that is where it is often found.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from barnacle_trio._names import NodeName, shorten
from barnacle_trio.distribution._tls import NameCheck

MAX_SHOWN = 5
"""How many names of a certificate an error shows."""


def name_fault(certificate: Mapping[str, Any], name: NodeName, check: NameCheck) -> str | None:
    """What speaks against a verified certificate for a node's name; None where it fits.

    Args:
      certificate: as ``ssl.SSLSocket.getpeercert`` gives it.
      name: of the node that was dialled, or claims that it dials.
      check: see `TlsOptions`.
    """
    if check == "any":
        return None
    if check != "host":
        return None if check(name, certificate) else "its certificate does not pass check_name"
    if _is_for_host(certificate, name.host):
        return None
    names = [value for _, value in _names(certificate)]
    shown = ", ".join(shorten(value, 60) for value in names[:MAX_SHOWN])
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    whose = f"is for {shown}{more}, not for" if names else "names no host, and so not"
    return f"its certificate {whose} {shorten(name.host)}"


def _names(certificate: Mapping[str, Any]) -> list[tuple[str, str]]:
    found: tuple[tuple[str, str], ...] = certificate.get("subjectAltName", ())
    return [(kind, value) for kind, value in found if kind in ("DNS", "IP Address")]


def _is_for_host(certificate: Mapping[str, Any], host: str) -> bool:
    address = _address(host)
    for kind, value in _names(certificate):
        if kind == "IP Address":
            if address is not None and _address(value) == address:
                return True
        elif address is not None:
            if _address(value) == address:
                return True
        elif _is_for_dns_name(value.lower(), host.lower()):
            return True
    return False


def _is_for_dns_name(pattern: str, host: str) -> bool:
    pattern, host = pattern.removesuffix("."), host.removesuffix(".")
    if not pattern.startswith("*."):
        return pattern == host and "*" not in pattern
    label, dot, parent = host.partition(".")
    return bool(label and dot and parent) and pattern[2:] == parent and "*" not in parent


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
