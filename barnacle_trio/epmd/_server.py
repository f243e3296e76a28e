"""A port mapper that behaves as OTP's `epmd` does, and bounds what anybody can make it hold."""

from __future__ import annotations

import ipaddress
import logging
import math
import resource
from collections.abc import Callable, Sequence
from typing import Final

import trio

from barnacle_trio._errors import ConfigurationError, RemoteProtocolError
from barnacle_trio._logs import RateLimited
from barnacle_trio._names import shorten
from barnacle_trio._values import AsyncValue, Settable
from barnacle_trio.epmd._allowance import Allowance
from barnacle_trio.epmd._client import mapper_port
from barnacle_trio.epmd._estate import Estate
from barnacle_trio.epmd._listening import (
    LOOPBACK,
    Listener,
    duplicate,
    family_of,
    has_ended,
    is_loopback,
    is_wildcard,
    listen,
    listen_at_loopback,
)
from barnacle_trio.epmd._registry import MAX_HELD_NAMES, Holding, Registry
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

_BREATH = 0.1  # seconds without accepting when that fails
_QUIET = 0.25  # seconds that requests under way have to finish when the server moves


class EpmdServer:
    """A port mapper: a table of names, the sockets it is asked at, and the tasks that answer.

    Loopback, in both families, is always listened at, and alone may register. Names are freed
    when the connection that registered them ends, however it ends. Nobody can kill the server or
    free another's name through the protocol.

    Its tasks do not take a `KeyboardInterrupt`: what a program does when it is interrupted, to
    hand over, needs them. It reaches the program's main task instead.

    Args:
      port: of all listening sockets; 0 has the system choose one. Not used with ``estate``.
      estate: what another server handed over; without it one starts anew.
      on_registered: called with every entry that is taken.

    Raises:
      OSError: loopback cannot be listened at; most often another port mapper does.
    """

    def __init__(
        self,
        port: int,
        *,
        estate: Estate | None = None,
        on_registered: Callable[[PortEntry], None] = lambda _entry: None,
    ) -> None:
        self._on_registered = on_registered
        self._handlers: trio.Nursery | None = None
        self._accepting: trio.Nursery | None = None
        self._pending: dict[_Connection, None] = {}  # the oldest first
        self._settled = trio.Event()  # set by whoever leaves `_pending` empty
        self._accepted_all = trio.Event()  # set when nothing is accepted any more
        self._lists = Allowance(LISTS_PER_SECOND)
        self._complaints = RateLimited(logger)
        self._trouble = RateLimited(logger)
        self.dropped = 0  # connections, for cause
        self._adopted: list[_Connection] = []
        if estate is None:
            self._registry = Registry(max_names=room_for_names())
            self._listeners = listen_at_loopback(port)
        else:
            self._registry = Registry(
                next_creation=estate.next_creation, max_names=room_for_names()
            )
            self._listeners = [Listener(sock) for sock in estate.listeners]
            for entry, sock in estate.names:
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
                connection = _Connection(stream, LOOPBACK[0])
                connection.holding = Holding(entry, sock.fileno())
                self._registry.adopt(connection.holding)
                self._adopted.append(connection)
        self.port = self._listeners[0].port
        self._count = Settable(len(self._registry))

    @property
    def entries(self) -> list[PortEntry]:
        """What is registered, the newest first."""
        return [holding.entry for holding in self._registry]

    @property
    def count(self) -> AsyncValue[int]:
        """How many names are registered."""
        return self._count.view

    @property
    def addresses(self) -> frozenset[str]:
        """Where it listens."""
        return frozenset(listener.address for listener in self._listeners)

    def listen(self, address: str) -> None:
        """Be asked at one more literal address; the wildcard takes in all of its family.

        Raises:
          OSError: it cannot be listened at; the server stays where it was.
          ValueError: it is not a literal address.
        """
        address = str(ipaddress.ip_address(address))
        family = family_of(address)
        of_family = [each for each in self._listeners if each.family == family]
        if any(each.address == address or is_wildcard(each.address) for each in of_family):
            return
        if not is_wildcard(address):
            self._add(listen(address, self.port))
            return
        # Linux refuses the wildcard beside single addresses, so it comes in their place. Nothing
        # is awaited in between, and connections that wait to be accepted are taken along.
        for listener in of_family:
            if self._handlers is not None:
                for stream in listener.drain():
                    self._handlers.start_soon(self._serve_and_close, stream)
            self._listeners.remove(listener)
            listener.close()
        try:
            self._add(listen(address, self.port))
        except OSError:
            for listener in of_family:
                self._add(listen(listener.address, self.port))
            raise

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Serve for ever. If cancelled, everything is closed.

        The port can be asked from the beginning on: until this runs, connections wait.
        """
        try:
            async with trio.open_nursery() as handlers:
                self._handlers = handlers
                for connection in self._adopted:
                    handlers.start_soon(self._keep_adopted, connection)
                async with trio.open_nursery() as self._accepting:
                    for listener in self._listeners:
                        self._accepting.start_soon(self._accept, listener, handlers)
                    await trio.sleep_forever()
                self._accepted_all.set()
                # Moving: what is held is held on until `run` is cancelled.
                await trio.sleep_forever()
        finally:
            self.close()

    def close(self) -> None:
        """Close all sockets that no task serves."""
        for listener in self._listeners:
            listener.close()
        if self._handlers is None:
            for connection in self._adopted:
                connection.stream.socket.close()

    async def hand_over(self) -> Estate:
        """Stop accepting, let requests under way finish, and give everything to a successor.

        What is given are duplicates: cancel `run` afterwards, and neither a name nor a connection
        that waits to be accepted is lost. Takes at most a quarter of a second.

        Raises:
          OSError: there are not enough file descriptors.
        """
        self._settled = trio.Event()
        with trio.move_on_after(_QUIET):
            if self._accepting is not None:
                self._accepting.cancel_scope.cancel("the server moves")
                self._accepting = None
                await self._accepted_all.wait()
            for _ in range(2):  # what was accepted last comes to be pending
                await trio.lowlevel.checkpoint()
            if self._pending:
                await self._settled.wait()
        estate = Estate(port=self.port, next_creation=self._registry.next_creation)
        try:
            for listener in self._listeners:
                estate.listeners.append(listener.duplicate())
            for holding in reversed(list(self._registry)):
                sock = duplicate(holding.fd)
                if has_ended(sock):  # though nobody had the time to notice
                    sock.close()
                else:
                    estate.names.append((holding.entry, sock))
        except BaseException:
            estate.close()
            raise
        return estate

    # --- connections --------------------------------------------------------------------------

    def _add(self, listener: Listener) -> None:
        self._listeners.append(listener)
        if self._accepting is not None and self._handlers is not None:
            self._accepting.start_soon(self._accept, listener, self._handlers)

    @trio.lowlevel.enable_ki_protection
    async def _accept(self, listener: Listener, handlers: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:  # the wildcard took its place
                await trio.lowlevel.checkpoint()
                return
            except OSError as error:  # most often, there is no file descriptor left
                self._trouble.warning("the port mapper cannot accept connections: %s", error)
                await trio.sleep(_BREATH)
            else:
                handlers.start_soon(self._serve_and_close, stream)

    @trio.lowlevel.enable_ki_protection
    async def _serve_and_close(self, stream: trio.SocketStream) -> None:
        try:
            await self._serve(stream)
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            address = stream.socket.getpeername()[0]
        except OSError:  # gone already
            await trio.lowlevel.checkpoint()
            return
        connection = _Connection(stream, address)
        if not self._make_room(connection):
            self._drop(address, "too many connections at once")
            await trio.lowlevel.checkpoint()
            return
        self._pending[connection] = None
        try:
            with connection.scope:
                await self._converse(connection)
            if connection.scope.cancelled_caught:
                self._drop(address, "no complete request in time")
        except RemoteProtocolError as error:
            self._drop(address, str(error))
        except trio.BrokenResourceError:
            pass
        except Exception:  # a fault of ours costs this connection, never the server
            logger.exception("a request to the port mapper failed")
        finally:
            self._settle(connection)
            self._release(connection)
        await trio.lowlevel.checkpoint()

    def _settle(self, connection: _Connection) -> None:
        self._pending.pop(connection, None)
        if not self._pending:
            self._settled.set()

    def _make_room(self, newcomer: _Connection) -> bool:
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

    async def _converse(self, connection: _Connection) -> None:
        stream, cutter = connection.stream, RequestCutter()
        while True:
            data = await stream.receive_some(4096)
            if not data:
                return
            body = cutter.feed(data)
            if body is not None:
                break
        answer = self._answer(parse_request(body), connection)
        if answer:
            await stream.send_all(answer)
        if connection.holding is not None:
            # Nothing more is said on this connection: whatever comes, the end of it or bytes
            # against the protocol, frees the name.
            self._settle(connection)
            connection.scope.deadline = math.inf
            await stream.receive_some(1)

    def _answer(self, request: Request, connection: _Connection) -> bytes:
        """The answer; empty where the protocol has none and the connection is just closed."""
        match request:
            case PortRequest(name):
                held = self._registry.get(name)
                return encode_port_answer(held.entry if held else None)
            case AliveRequest(entry):
                return self._register(entry, connection)
            case NamesRequest():
                if connection.local or self._lists.take():
                    return encode_names_answer(self.port, self.entries)
            case DumpRequest() if connection.local:
                held_by_fd = ((held.entry, held.fd) for held in self._registry)
                return encode_dump_answer(self.port, held_by_fd)
            case KillRequest():
                return KILL_REFUSED
            case _:
                pass
        self._drop(connection.address, f"{type(request).__name__} is refused")
        return b""

    def _register(self, entry: PortEntry, connection: _Connection) -> bytes:
        if not connection.local:
            self._drop(connection.address, "only this host can register nodes")
            return b""
        holding = Holding(entry, connection.stream.socket.fileno())
        answer = self._registry.register(holding)
        if answer.result == 0:
            connection.holding = holding
            self._count.value = len(self._registry)
            logger.debug("%s registered, port %d", shorten(entry.name), entry.port)
            self._on_registered(entry)
        else:
            logger.debug("%s was refused a registration", shorten(entry.name))
        return encode_alive_answer(answer, highest=entry.highest)

    def _release(self, connection: _Connection) -> None:
        if connection.holding is not None:
            self._registry.release(connection.holding)
            self._count.value = len(self._registry)
            logger.debug("%s is free", shorten(connection.holding.entry.name))

    def _drop(self, address: str, reason: str) -> None:
        """Count a connection that is about to be closed, and tell of some of them."""
        self.dropped += 1
        self._complaints.warning(
            "the port mapper drops a connection from %s: %s", address, shorten(reason, 200)
        )

    @trio.lowlevel.enable_ki_protection
    async def _keep_adopted(self, connection: _Connection) -> None:
        try:
            await connection.stream.receive_some(1)
        except trio.BrokenResourceError:
            pass
        finally:
            self._release(connection)
            await trio.aclose_forcefully(connection.stream)


def room_for_names() -> int:
    """How many names can be held by a program that has other uses for its descriptors.

    To hand over takes as many again, and a third is left.
    """
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_HELD_NAMES if soft == resource.RLIM_INFINITY else min(MAX_HELD_NAMES, soft // 3)


class _Connection:
    """One client: pending until its request is answered, then gone, or the holder of a name."""

    __slots__ = ("address", "holding", "local", "scope", "stream")

    def __init__(self, stream: trio.SocketStream, address: str) -> None:
        self.stream = stream
        self.address = address
        self.local = is_loopback(address)
        self.scope = trio.CancelScope(deadline=trio.current_time() + REQUEST_DEADLINE)
        self.holding: Holding | None = None


async def serve_epmd(
    *,
    addresses: Sequence[str] = (),
    port: int | None = None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Be a port mapper, in the place of OTP's `epmd`, until cancelled. Then all names are freed.

    Loopback is always served, in both families, and alone can register nodes.

    Args:
      addresses: further literal addresses to answer look-ups at; ``0.0.0.0`` and ``::`` are all.
      port: None is ``ERL_EPMD_PORT`` or 4369; 0 is any.
      task_status: ``started`` gives the port in use, once it can be asked.

    Raises:
      OSError: an address cannot be listened at; most often another port mapper does.
      ConfigurationError: the port is none, or an address is not a literal one.
    """
    server = EpmdServer(0 if port == 0 else mapper_port(port))
    try:
        for address in addresses:
            try:
                server.listen(address)
            except ValueError as error:
                raise ConfigurationError(f"addresses must be literal ones: {error}") from error
        task_status.started(server.port)
        await server.run()
    finally:
        server.close()
