"""Which addresses a node binds, and which of them are beyond this host's loopback."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Sequence

import trio

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import NodeName

LOOPBACK = ("127.0.0.1", "::1")
WILDCARD = ("0.0.0.0", "::")  # noqa: S104 - what a host name means to a BEAM node, too
BACKLOG = 1024
"""Connections that the kernel holds until they are accepted."""


def is_literal(host: str) -> bool:
    """Whether the host is an IPv4 or IPv6 address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether a literal address can be reached from this host alone."""
    return ipaddress.ip_address(address).is_loopback


def remote_address(stream: trio.abc.Stream) -> str:
    """The address that a stream leads to, inside TLS or not; empty where it has none."""
    stream = getattr(stream, "transport_stream", stream)
    if not isinstance(stream, trio.SocketStream):
        return ""
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return ""  # it was reset already


def listen_addresses(name: NodeName, listen: tuple[str, int] | None) -> tuple[str, ...]:
    """The literal addresses that a node of this name binds.

    A literal address in the name is the one, ``localhost`` is loopback, and any other host name
    means every address, as it does for a BEAM node (whose host name often resolves to 127.0.1.1).

    Raises:
      ConfigurationError: ``listen`` names a host that is neither an address nor ``localhost``.
    """
    host = name.host if listen is None else listen[0]
    if host == "localhost":
        return LOOPBACK
    if is_literal(host):
        return (host,)
    if listen is None:
        return WILDCARD
    raise ConfigurationError(
        f"listen={listen!r}: give a literal address (0.0.0.0 for all) or 'localhost'"
    )


async def bind(addresses: Sequence[str], ports: Iterable[int]) -> list[trio.SocketListener]:
    """Listen on every one of the addresses, on the first of the ports that is free on them all.

    Port 0 is any free one, the same for all addresses. One of several addresses whose family this
    host does not have is left out.

    Raises:
      ConfigurationError: none of the ports, or no address at all, can be bound.
    """
    failure: OSError | None = None
    tried: list[int] = []
    for port in ports:
        # A free port of one family may be taken in the other: try a few.
        for _attempt in range(8 if port == 0 else 1):
            try:
                return _bind_all(addresses, port)
            except OSError as error:
                failure = error
                if error.errno != errno.EADDRINUSE:
                    break
        tried.append(port)
        await trio.lowlevel.checkpoint()
    where = ", ".join(addresses)
    which = f"port {tried[0]}" if len(tried) == 1 else f"any port of {tried[0]} to {tried[-1]}"
    raise ConfigurationError(f"cannot listen on {where}, {which}: {failure}") from failure


def _bind_all(addresses: Sequence[str], port: int) -> list[trio.SocketListener]:
    bound: list[socket.socket] = []
    try:
        for address in addresses:
            try:
                sock = _bind(address, port)
            except OSError as error:
                absent = error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
                if absent and len(addresses) > 1:
                    continue
                raise
            bound.append(sock)
            port = sock.getsockname()[1]
        if not bound:
            raise OSError(errno.EADDRNOTAVAIL, "no such address on this host")
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    return [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in bound]


def _bind(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Both families are bound one by one; without this the second would be refused.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
