"""Those who ask a port mapper: each gets one answer, within bounds, and may hold a name."""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Callable
from typing import Final

import trio

from barnacle_trio._errors import RemoteProtocolError
from barnacle_trio._logs import RateLimited
from barnacle_trio._names import shorten
from barnacle_trio._values import AsyncValue, Settable
from barnacle_trio.epmd._allowance import Allowance
from barnacle_trio.epmd._listening import LOOPBACK, is_loopback
from barnacle_trio.epmd._registry import Holding, Registry
from barnacle_trio.epmd._wire import (
    KILL_REFUSED,
    AliveRequest,
    DumpRequest,
    KillRequest,
    NamesRequest,
    PortEntry,
    PortRequest,
    Request,
    RequestCutter,
    encode_alive_answer,
    encode_dump_answer,
    encode_names_answer,
    encode_port_answer,
    parse_request,
)

logger = logging.getLogger("barnacle_trio.epmd")

REQUEST_DEADLINE: Final = 5.0
"""Seconds from a connection's start until its request is complete and its answer is written."""

MAX_PENDING: Final = 256
"""Connections that hold no name, at one time."""

LISTS_PER_SECOND: Final = 500.0
"""How often the list of names is given to other hosts; twice as many may come at once."""


class Client:
    """One connection: pending until its request is answered, then gone, or the holder of a name."""

    __slots__ = ("address", "holding", "local", "scope", "stream")

    def __init__(self, stream: trio.SocketStream, address: str) -> None:
        self.stream = stream
        self.address = address
        self.local = is_loopback(address)
        self.scope = trio.CancelScope(deadline=trio.current_time() + REQUEST_DEADLINE)
        self.holding: Holding | None = None


class Clients:
    """All connections to one port mapper, and what they do to its table.

    Only loopback may register. Names are freed when the connection that registered them ends,
    however it ends.

    Args:
      registry: the table.
      port: where the port mapper is asked, as the list of names says.
      on_registered: called with every entry that is taken.
    """

    def __init__(
        self, registry: Registry, port: int, on_registered: Callable[[PortEntry], None]
    ) -> None:
        self._registry = registry
        self._port = port
        self._on_registered = on_registered
        self._pending: dict[Client, None] = {}  # the oldest first
        self._settled = trio.Event()  # set by whoever leaves `_pending` empty
        self._lists = Allowance(LISTS_PER_SECOND)
        self._complaints = RateLimited(logger)
        self._count = Settable(len(registry))
        self.dropped = 0  # connections, for cause

    @property
    def count(self) -> AsyncValue[int]:
        """How many names are registered."""
        return self._count.view

    def adopt(self, entry: PortEntry, sock: socket.socket) -> Client:
        """Take over a holder of a name from another port mapper; it is to be served by `keep`."""
        client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(sock)), LOOPBACK[0])
        client.holding = Holding(entry, sock.fileno())
        self._registry.adopt(client.holding)
        self._count.value = len(self._registry)
        return client

    @trio.lowlevel.enable_ki_protection
    async def keep(self, client: Client) -> None:
        """Wait for the end of an adopted connection; its name is free afterwards."""
        try:
            await client.stream.receive_some(1)
        except trio.BrokenResourceError:
            pass
        finally:
            self._release(client)
            await trio.aclose_forcefully(client.stream)

    @trio.lowlevel.enable_ki_protection
    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer a connection, keep its name for as long as it lasts, and close it."""
        try:
            await self._serve(stream)
        finally:
            await trio.aclose_forcefully(stream)

    async def settle(self) -> None:
        """Wait until nobody has a request under way."""
        if self._pending:
            self._settled = trio.Event()
            await self._settled.wait()
        else:
            await trio.lowlevel.checkpoint()

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            address = stream.socket.getpeername()[0]
        except OSError:  # gone already
            await trio.lowlevel.checkpoint()
            return
        client = Client(stream, address)
        if not self._make_room(client):
            self._drop(address, "too many connections at once")
            await trio.lowlevel.checkpoint()
            return
        self._pending[client] = None
        try:
            with client.scope:
                await self._converse(client)
            if client.scope.cancelled_caught:
                self._drop(address, "no complete request in time")
        except RemoteProtocolError as error:
            self._drop(address, str(error))
        except trio.BrokenResourceError:
            pass
        except Exception:  # a fault of ours costs this connection, never the server
            logger.exception("a request to the port mapper failed")
        finally:
            self._no_longer_pending(client)
            self._release(client)
        await trio.lowlevel.checkpoint()

    def _no_longer_pending(self, client: Client) -> None:
        self._pending.pop(client, None)
        if not self._pending:
            self._settled.set()

    def _make_room(self, newcomer: Client) -> bool:
        """Whether there is room among the pending ones; loopback comes first, then the newer."""
        if len(self._pending) < MAX_PENDING:
            return True
        oldest = next((each for each in self._pending if not each.local), None)
        if oldest is None and newcomer.local:
            oldest = next(iter(self._pending))
        if oldest is None:
            return False
        del self._pending[oldest]
        oldest.scope.cancel("room is needed")
        return True

    async def _converse(self, client: Client) -> None:
        stream, cutter = client.stream, RequestCutter()
        while True:
            data = await stream.receive_some(4096)
            if not data:
                return
            body = cutter.feed(data)
            if body is not None:
                break
        answer = self._answer(parse_request(body), client)
        if answer:
            await stream.send_all(answer)
        if client.holding is not None:
            # Nothing more is said on this connection: whatever comes, the end of it or bytes
            # against the protocol, frees the name.
            self._no_longer_pending(client)
            client.scope.deadline = math.inf
            await stream.receive_some(1)

    def _answer(self, request: Request, client: Client) -> bytes:
        """The answer; empty where the protocol has none and the connection is just closed."""
        match request:
            case PortRequest(name):
                held = self._registry.get(name)
                return encode_port_answer(held.entry if held else None)
            case AliveRequest(entry):
                return self._register(entry, client)
            case NamesRequest():
                if client.local or self._lists.take():
                    entries = [holding.entry for holding in self._registry]
                    return encode_names_answer(self._port, entries)
            case DumpRequest() if client.local:
                held_by_fd = ((held.entry, held.fd) for held in self._registry)
                return encode_dump_answer(self._port, held_by_fd)
            case KillRequest():
                return KILL_REFUSED
            case _:
                pass
        self._drop(client.address, f"{type(request).__name__} is refused")
        return b""

    def _register(self, entry: PortEntry, client: Client) -> bytes:
        if not client.local:
            self._drop(client.address, "only this host can register nodes")
            return b""
        holding = Holding(entry, client.stream.socket.fileno())
        answer = self._registry.register(holding)
        if answer.result == 0:
            client.holding = holding
            self._count.value = len(self._registry)
            logger.debug("%s registered, port %d", shorten(entry.name), entry.port)
            self._on_registered(entry)
        else:
            logger.debug("%s was refused a registration", shorten(entry.name))
        return encode_alive_answer(answer, highest=entry.highest)

    def _release(self, client: Client) -> None:
        if client.holding is not None:
            self._registry.release(client.holding)
            self._count.value = len(self._registry)
            logger.debug("%s is free", shorten(client.holding.entry.name))

    def _drop(self, address: str, reason: str) -> None:
        """Count a connection that is about to be closed, and tell of some of them."""
        self.dropped += 1
        self._complaints.warning(
            "the port mapper drops a connection from %s: %s", address, shorten(reason, 200)
        )
