"""Connections to a Kubernetes API server."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import httpcore2
import trio

from barnacle_trio.strategies._kube_access import Access
from barnacle_trio.strategies._kube_http import LEAVE_WITHIN, Http

_KEEPALIVE: Final = [
    # A server that vanished without a word is noticed after some 30 s, not after the 15 minutes
    # that the kernel would need.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, option), value)
        for option, value in (
            ("TCP_KEEPIDLE", 15),
            ("TCP_KEEPINTVL", 5),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", 30_000),
        )
        if hasattr(socket, option)  # not every system has each
    ),
]


@asynccontextmanager
async def open_http(access: Access) -> AsyncIterator[Http]:
    """Requests to an API server over one connection at a time, as long as the block lasts."""
    async with httpcore2.AsyncConnectionPool(
        ssl_context=access.tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # that believes nobody
        max_connections=1,
        network_backend=_Backend(),
        socket_options=_KEEPALIVE,
    ) as pool:
        yield Http(access, pool)


# The library leaves a socket open when it is cancelled in the handshake of TLS. Deadlines are
# given by cancel scopes here, never by the parameters called timeout.


class _Backend(httpcore2.TrioBackend):
    """Opens connections of the kind below."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        return _Connection(
            await super().connect_tcp(host, port, timeout, local_address, socket_options)
        )


class _Connection(httpcore2.AsyncNetworkStream):
    """A connection that is closed on every way out of the handshake but success."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore2.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            with trio.move_on_after(LEAVE_WITHIN, shield=True):
                await self._stream.aclose()
            raise

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
