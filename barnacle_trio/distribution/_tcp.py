"""The network of real nodes: TCP, and a port mapper that tells who listens where."""

from __future__ import annotations

import logging
import math
import socket
import struct
import sys
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from functools import partial

import trio

from barnacle_trio._errors import BarnacleError, HandshakeRefused, NodeCrashed, PeerUnreachable
from barnacle_trio._names import NodeName
from barnacle_trio._scopes import open_background
from barnacle_trio.distribution._addresses import WILDCARD, bind, is_literal
from barnacle_trio.distribution._network import Accept
from barnacle_trio.epmd import PortMapper

logger = logging.getLogger("barnacle_trio.node")

CONNECT_PATIENCE = 1.0
"""Seconds after which an unanswered TCP connect is replaced by a new one.

The kernel repeats a lost SYN after 1, 3, 7, 15... seconds: a peer that comes back just after one of
them would wait for the next.
"""
STAGGER = 0.25
"""Seconds between the connects to several addresses of one host (RFC 8305)."""
MAX_ATTEMPTS = 16
"""Connects under way at once to one host; of more addresses than that, some wait a moment."""
MAX_REMEMBERED = 10_000
"""Ports of peers that are remembered, the latest ones."""


class TcpNetwork:
    """Listens on TCP, registers with a port mapper and dials by it.

    Args:
      name: the node that stands here.
      addresses: the literal addresses to bind.
      ports: the ports to try, in order; 0 is any.
      mapper: who tells where peers listen.
      hidden: as registered; no BEAM node looks at it.
    """

    def __init__(
        self,
        name: NodeName,
        *,
        addresses: Sequence[str],
        ports: Iterable[int],
        mapper: PortMapper,
        hidden: bool,
    ) -> None:
        self._name = name
        self._addresses = tuple(addresses)
        self._ports = ports
        self._mapper = mapper
        self._hidden = hidden
        self._remembered: OrderedDict[NodeName, int] = OrderedDict()
        self.port: int | None = None
        self._listeners: list[trio.SocketListener] = []
        self._reachable = trio.CancelScope()
        self._withdrawn = trio.Event()

    async def serve(self, accept: Accept, *, task_status: trio.TaskStatus[int]) -> None:
        """See `Network.serve`."""
        listeners = await bind(self._addresses, self._ports)
        self._listeners.extend(listeners)
        try:
            addresses = [listener.socket.getsockname()[0] for listener in listeners]
            self.port = listeners[0].socket.getsockname()[1]
            # Connections outlive the listeners: see `withdraw`.
            async with open_background(
                f"the connections of {self._name}", NodeCrashed
            ) as connections:
                with self._reachable:
                    async with open_background(
                        f"the listener of {self._name}", NodeCrashed
                    ) as nursery:
                        # First the listeners: who finds the name must find somebody there.
                        nursery.start_soon(
                            partial(
                                trio.serve_listeners, accept, listeners, handler_nursery=connections
                            )
                        )
                        creation = await nursery.start(
                            partial(
                                self._mapper.serve_registration,
                                self._name,
                                port=self.port,
                                hidden=self._hidden,
                                addresses=addresses,
                            )
                        )
                        task_status.started(creation)
                        await trio.sleep_forever()
                self._withdrawn.set()
                await trio.sleep_forever()
        finally:
            self._withdrawn.set()
            self._close_listeners()

    async def withdraw(self) -> None:
        """See `Network.withdraw`. Takes as long as the port mapper's part in it."""
        self._reachable.cancel("the node withdraws")
        # Whoever dials now is refused by the kernel at once, and does not wait in a queue.
        self._close_listeners()
        await self._withdrawn.wait()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.socket.close()

    async def dial(self, name: NodeName) -> tuple[trio.abc.Stream, Hashable]:
        """See `Network.dial`. Waits without a limit of its own for a peer that does not answer."""
        addresses = await _resolve(name.host)
        remembered = self._remembered.get(name)
        if remembered is not None:
            try:
                return await _connect(addresses, remembered, patient=False), remembered
            except OSError:
                self.forget(name)
        port = await self._mapper.lookup(name)
        try:
            stream = await _connect(addresses, port, patient=True)
        except OSError as error:
            raise PeerUnreachable(f"{name}: port {port}: {error}") from error
        if self._is_here(stream):
            await trio.aclose_forcefully(stream)
            raise HandshakeRefused(f"{name} leads back to this node, {self._name}")
        self._remembered[name] = port
        self._remembered.move_to_end(name)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return stream, port

    def _is_here(self, stream: trio.SocketStream) -> bool:
        """Whether we dialled ourselves, under another name for this host."""
        try:
            address, port = stream.socket.getpeername()[:2]
        except OSError:
            return False  # it was reset already
        if port != self.port:
            return False
        here = address == stream.socket.getsockname()[0]
        return here and (address in self._addresses or bool(set(WILDCARD) & set(self._addresses)))

    def forget(self, name: NodeName) -> None:
        """See `Network.forget`."""
        self._remembered.pop(name, None)

    async def locate(self, name: NodeName) -> Hashable:
        """See `Network.locate`: the port, from the port mapper at the peer's host."""
        if self._mapper.fixed is not None:
            await trio.lowlevel.checkpoint()
            return self._mapper.fixed
        await trio.lowlevel.checkpoint()
        try:
            return await self._mapper.lookup(name)
        except BarnacleError:
            return None

    def acknowledged(self, stream: trio.abc.Stream) -> int | None:
        """See `Network.acknowledged`: from Linux's ``TCP_INFO``, None elsewhere."""
        info = _tcp_info(stream)
        # struct tcp_info: 8 bytes of flags, 24 words, two pacing rates, then tcpi_bytes_acked.
        return int(struct.unpack_from("=Q", info, 120)[0]) if len(info) >= 128 else None

    def unheard(self, stream: trio.abc.Stream) -> float | None:
        """See `Network.unheard`: from Linux's ``TCP_INFO``, None elsewhere."""
        info = _tcp_info(stream)
        # The 13th of the words is tcpi_last_ack_recv, in milliseconds.
        return struct.unpack_from("=I", info, 56)[0] / 1000 if len(info) >= 60 else None


def _tcp_info(stream: trio.abc.Stream) -> bytes:
    if not sys.platform.startswith("linux") or not isinstance(stream, trio.SocketStream):
        return b""
    try:
        return stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
    except OSError:
        return b""


async def _resolve(host: str) -> list[str]:
    if is_literal(host):
        await trio.lowlevel.checkpoint()
        return [host]
    try:
        found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the latter: a label that is empty or too long
        raise PeerUnreachable(f"host {host} has no address: {error}") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def _connect(addresses: Sequence[str], port: int, *, patient: bool) -> trio.SocketStream:
    """Connect to whichever address answers first; each unanswered attempt is replaced by itself.

    So is a refused one, as long as another address may still answer. Where not ``patient``, each
    address has only one attempt, and its silence is an `OSError` as well.
    """
    if len(addresses) == 1:
        return await _connect_to_one(addresses[0], port, patient=patient)
    winners: list[trio.SocketStream] = []
    errors: dict[str, OSError] = {}  # of the addresses that said no, or are taken to have
    slots = trio.Semaphore(MAX_ATTEMPTS)

    async def attempt(address: str) -> None:
        await trio.lowlevel.checkpoint()
        try:
            stream = await _connect_one(address, port)
        except OSError as error:
            errors[address] = error
            return
        if winners:
            await trio.aclose_forcefully(stream)
            return
        winners.append(stream)
        nursery.cancel_scope.cancel("an address answered")

    async def keep_trying(address: str, failed: trio.Event) -> None:
        while True:
            errors.pop(address, None)
            async with slots:
                replaced_at = trio.current_time() + CONNECT_PATIENCE
                with trio.move_on_at(replaced_at) as scope:
                    await attempt(address)
            if scope.cancelled_caught and not patient:
                errors[address] = _silence()
            if address in errors:
                failed.set()
                if len(errors) == len(addresses):
                    nursery.cancel_scope.cancel("no address is left")
                if not patient:
                    return
                await trio.sleep_until(replaced_at)

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(keep_trying, address, failed)
                with trio.move_on_after(STAGGER if address != addresses[-1] else math.inf):
                    await failed.wait()
    except BaseException:
        for stream in winners:
            await trio.aclose_forcefully(stream)
        raise
    if not winners:
        raise list(errors.values())[-1]
    return winners[0]


async def _connect_to_one(address: str, port: int, *, patient: bool) -> trio.SocketStream:
    """As `_connect`, without the cost of a race; most hosts have one address."""
    while True:
        with trio.move_on_after(CONNECT_PATIENCE):
            return await _connect_one(address, port)
        if not patient:
            raise _silence()


def _silence() -> OSError:
    return OSError(f"no answer within {CONNECT_PATIENCE:g} s")


async def _connect_one(address: str, port: int) -> trio.SocketStream:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await sock.connect((address, port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)
