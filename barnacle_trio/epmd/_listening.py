"""Listening sockets of a port mapper: opened without waiting, drained, duplicated."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from typing import Final

import trio

LOOPBACK: Final = ("127.0.0.1", "::1")
EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104  # asked for by `listen` callers only

_BACKLOG = 1024  # the system may lower it
_NO_SUCH_ADDRESS = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})


class Listener:
    """One listening socket, which this object owns."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.address, self.port = sock.getsockname()[:2]
        self.family = sock.family
        self._socket = sock
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))

    async def accept(self) -> trio.SocketStream:
        """The next connection.

        Raises:
          OSError: there is nothing left to accept it with.
          trio.ClosedResourceError: this was closed.
        """
        return await self._listener.accept()

    def drain(self) -> Iterator[trio.SocketStream]:
        """The connections that wait to be accepted, and those alone."""
        while True:
            try:
                accepted, _peer = self._socket.accept()
            except OSError:  # none waits, or there is no file descriptor for one
                return
            yield trio.SocketStream(trio.socket.from_stdlib_socket(accepted))

    def duplicate(self) -> socket.socket:
        """The same listening socket again: it goes on when this one is closed."""
        return duplicate(self._socket.fileno())

    def close(self) -> None:
        """Stop listening, unless a duplicate stands; `trio.ClosedResourceError` to who accepts."""
        self._listener.socket.close()


def listen(address: str, port: int) -> Listener:
    """Listen at a literal address; port 0 is any.

    Raises:
      OSError: that is not possible here, or somebody does so already.
    """
    version = ipaddress.ip_address(address).version
    sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        # Connections that a dead predecessor left behind must not hold up its successor. Two
        # who listen at once are still refused.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
        return Listener(sock)
    except BaseException:
        sock.close()
        raise


def listen_at_loopback(port: int) -> list[Listener]:
    """Listen at loopback in both families, or in the one that there is.

    The first family decides who of several serves the port: with it taken, all is.

    Raises:
      OSError: somebody listens there, or there is no loopback.
    """
    listeners: list[Listener] = []
    try:
        for address in LOOPBACK:
            try:
                listeners.append(listen(address, listeners[0].port if listeners else port))
            except OSError as error:
                if not listeners and error.errno not in _NO_SUCH_ADDRESS:
                    raise
                missing = error
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    if not listeners:
        raise missing
    return listeners


def duplicate(fd: int) -> socket.socket:
    """A second descriptor for a socket. The two share it: shutting one down shuts both down.

    Raises:
      OSError: there is no file descriptor left.
    """
    return socket.socket(fileno=os.dup(fd))


def has_ended(sock: socket.socket) -> bool:
    """Whether a connection on which nothing more is to be said has ended, or bears bytes."""
    try:
        sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def is_loopback(address: str) -> bool:
    """Whether a literal address belongs to this host alone."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def is_wildcard(address: str) -> bool:
    """Whether a literal address stands for all of its family."""
    return ipaddress.ip_address(address).is_unspecified


def family_of(address: str) -> socket.AddressFamily:
    """The family of a literal address."""
    version = ipaddress.ip_address(address).version
    return socket.AF_INET if version == 4 else socket.AF_INET6
