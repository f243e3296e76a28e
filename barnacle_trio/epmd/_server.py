"""A port mapper that behaves as OTP's `epmd` does, and bounds what anybody can make it hold."""

from __future__ import annotations

import ipaddress
import logging
import resource
from collections.abc import Callable, Sequence

import trio

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._logs import RateLimited
from barnacle_trio._values import AsyncValue
from barnacle_trio.epmd._client import mapper_port
from barnacle_trio.epmd._clients import Clients
from barnacle_trio.epmd._estate import Estate
from barnacle_trio.epmd._listening import (
    Listener,
    duplicate,
    family_of,
    has_ended,
    is_wildcard,
    listen,
    listen_at_loopback,
)
from barnacle_trio.epmd._registry import MAX_HELD_NAMES, Registry
from barnacle_trio.epmd._wire import PortEntry

logger = logging.getLogger("barnacle_trio.epmd")

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
        self._handlers: trio.Nursery | None = None
        self._accepting: trio.Nursery | None = None
        self._accepted_all = trio.Event()  # set when nothing is accepted any more
        self._trouble = RateLimited(logger)
        if estate is None:
            self._listeners = listen_at_loopback(port)
            next_creation = None
        else:
            self._listeners = [Listener(sock) for sock in estate.listeners]
            next_creation = estate.next_creation
        self.port = self._listeners[0].port
        self._registry = Registry(next_creation=next_creation, max_names=room_for_names())
        self._clients = Clients(self._registry, self.port, on_registered)
        names = [] if estate is None else estate.names
        self._adopted = [self._clients.adopt(entry, sock) for entry, sock in names]

    @property
    def entries(self) -> list[PortEntry]:
        """What is registered, the newest first."""
        return [holding.entry for holding in self._registry]

    @property
    def count(self) -> AsyncValue[int]:
        """How many names are registered."""
        return self._clients.count

    @property
    def dropped(self) -> int:
        """How many connections were closed for cause."""
        return self._clients.dropped

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
                    self._handlers.start_soon(self._clients.serve, stream)
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
                for client in self._adopted:
                    handlers.start_soon(self._clients.keep, client)
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
            for client in self._adopted:
                client.stream.socket.close()

    async def hand_over(self) -> Estate:
        """Stop accepting, let requests under way finish, and give everything to a successor.

        What is given are duplicates: cancel `run` afterwards, and neither a name nor a connection
        that waits to be accepted is lost. Takes at most a quarter of a second.

        Raises:
          OSError: there are not enough file descriptors.
        """
        with trio.move_on_after(_QUIET):
            if self._accepting is not None:
                self._accepting.cancel_scope.cancel("the server moves")
                self._accepting = None
                await self._accepted_all.wait()
            for _ in range(2):  # what was accepted last comes to be pending
                await trio.lowlevel.checkpoint()
            await self._clients.settle()
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
                handlers.start_soon(self._clients.serve, stream)


def room_for_names() -> int:
    """How many names can be held by a program that has other uses for its descriptors.

    To hand over takes as many again, and a third is left.
    """
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_HELD_NAMES if soft == resource.RLIM_INFINITY else min(MAX_HELD_NAMES, soft // 3)


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
