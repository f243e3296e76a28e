"""The group that gossip is said to: sockets that send to it and are members of it."""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import shorten, show

DEFAULT_GROUP = "233.252.1.32"  # libcluster's, since its 3.3.0
BROADCAST = "255.255.255.255"

# Options of Linux that Python's socket has no names for (its <linux/in.h> and <linux/in6.h>): give
# a socket what was sent to groups of its own only, not to those of every socket of the host.
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29
_ON_LINUX = sys.platform == "linux"

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Where gossip is said and heard.

    ``interface`` is a name, an index, or (IPv4 multicast) an address of the interface to use; None
    leaves it to the routing table.
    """

    address: IPv4Address | IPv6Address
    port: int
    interface: str | int | IPv4Address | None
    ttl: int
    broadcast: bool

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        through = "" if self.interface is None else f" on {self.interface}"
        return f"{host}:{self.port}{through}"

    @property
    def _index(self) -> int:
        """The interface's index, 0 if the routing table decides.

        Raises:
          OSError: there is no such interface, at this moment.
        """
        if isinstance(self.interface, str):
            try:
                return socket.if_nametoindex(self.interface)
            except OSError as error:
                raise OSError(error.errno, f"there is no interface {self.interface}") from error
        return self.interface if isinstance(self.interface, int) else 0

    @property
    def destination(self) -> SocketAddress:
        """Where to send to.

        Raises:
          OSError: there is no such interface, at this moment.
        """
        if self.address.version == 6:
            return str(self.address), self.port, 0, self._index
        return str(self.address), self.port

    def open(self) -> socket.socket:
        """A socket that does not block, hears what is said to the group, and can speak to it.

        It is bound to the group's own address, so that nothing reaches it that was sent to this
        host alone: multicast does not cross routers unless they are told so, unicast does.

        Raises:
          OSError: it cannot be had now: no such interface, no route, the port is another
            program's that does not share it.
        """
        family = socket.AF_INET6 if self.address.version == 6 else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            self._share_port(sock)
            if self.broadcast:
                self._set_up_broadcast(sock)
            elif self.address.version == 6:
                self._join_v6(sock)
            else:
                self._join_v4(sock)
            sock.bind(self.destination)
        except BaseException:
            sock.close()
            raise
        return sock

    def _share_port(self, sock: socket.socket) -> None:
        # Several nodes of one host hear the same port. Linux gives a datagram for a group to each
        # socket that has REUSEADDR, as libcluster's have; others ask for REUSEPORT besides.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not _ON_LINUX and hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    def _set_up_broadcast(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        index = self._index
        if index:
            name = socket.if_indextoname(index).encode()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name + b"\0")

    def _join_v4(self, sock: socket.socket) -> None:
        # struct ip_mreqn: the group, an address of the interface, its index
        group = self.address.packed
        chosen = self.interface.packed if isinstance(self.interface, IPv4Address) else bytes(4)
        interface = chosen + struct.pack("@i", self._index)
        if _ON_LINUX:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, self.ttl)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        if self.interface is not None:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, group + interface)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + interface)

    def _join_v6(self, sock: socket.socket) -> None:
        index = self._index
        # else the port could not be shared with a socket of IPv4
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if _ON_LINUX:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, self.ttl)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        if index:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        membership = self.address.packed + struct.pack("@I", index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)


def sender(address: SocketAddress) -> str:
    """Where a datagram came from: its address, and the link's index if it means nothing without."""
    host, zone = address[0].partition("%")[0], address[3] if len(address) == 4 else 0
    return f"{host}%{zone}" if zone else host


def is_here(source: str) -> bool:
    """Whether an address, as `sender` writes it, is one of this host's."""
    host, _, zone = source.partition("%")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((host, 0, 0, int(zone or 0)) if family == socket.AF_INET6 else (host, 0))
    except (OSError, ValueError):
        return False
    return True


def checked_group(
    *, group: str, port: int, interface: str | int | None, ttl: int, broadcast: bool
) -> Group:
    """Refuse what no socket could be opened for, ever.

    Raises:
      ConfigurationError: the message says what is wrong.
    """
    try:
        address = ip_address(group)
    except ValueError as error:
        raise ConfigurationError(f"group is a literal address, not {show(group)}") from error
    if isinstance(address, IPv6Address) and address.scope_id:
        raise ConfigurationError(f"write {shorten(group)} without a zone, and interface=...")
    if broadcast and str(address) == DEFAULT_GROUP:
        address = IPv4Address(BROADCAST)
    _check_kind(address, broadcast)
    if not _is_int(port, 1, 65535):
        raise ConfigurationError(f"port is a number from 1 to 65535, not {show(port)}")
    if not _is_int(ttl, 0, 255):
        raise ConfigurationError(f"ttl is a number from 0 to 255, not {show(ttl)}")
    return Group(
        address=address,
        port=port,
        interface=_checked_interface(interface, address, broadcast=broadcast),
        ttl=ttl,
        broadcast=broadcast,
    )


def _check_kind(address: IPv4Address | IPv6Address, broadcast: bool) -> None:
    if not broadcast:
        if not address.is_multicast:
            raise ConfigurationError(
                f"{address} is no multicast address; for one of broadcast, say broadcast=True"
            )
    elif address.version == 6:
        raise ConfigurationError("IPv6 knows no broadcast: give a multicast group, e.g. ff15::7a")
    elif address.is_multicast or address.is_unspecified or address.is_loopback:
        raise ConfigurationError(f"{address} is no broadcast address")


def _checked_interface(
    interface: str | int | None, address: IPv4Address | IPv6Address, *, broadcast: bool
) -> str | int | IPv4Address | None:
    if interface is None or _is_int(interface, 1, 2**31 - 1):
        chosen: str | int | IPv4Address | None = interface
    elif isinstance(interface, str) and interface and "\0" not in interface:
        chosen = interface
        try:
            literal = ip_address(interface)
        except ValueError:
            pass
        else:
            if broadcast or address.version == 6 or literal.version == 6:
                raise ConfigurationError("give the interface by its name or its index here")
            chosen = IPv4Address(interface)
    else:
        raise ConfigurationError(
            f"interface is a name, an index or an address, not {show(interface)}"
        )
    if broadcast and chosen is not None and not hasattr(socket, "SO_BINDTODEVICE"):
        raise ConfigurationError("this system cannot broadcast through a chosen interface")
    return chosen


def _is_int(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most
