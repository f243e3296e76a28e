"""Accepting: strangers wait at the door, few and not for long, until they prove the cookie."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from barnacle_trio._errors import BarnacleError, CookieRejected, PeerUnreachable
from barnacle_trio._logs import RateLimited
from barnacle_trio._names import NodeName
from barnacle_trio.distribution._addresses import remote_address
from barnacle_trio.distribution._connection import Connection
from barnacle_trio.distribution._dialler import Dialler
from barnacle_trio.distribution._guessing import Guesses
from barnacle_trio.distribution._handshake import (
    Acceptor,
    AliveAnswered,
    Done,
    NameReceived,
    Send,
)
from barnacle_trio.distribution._local import Local
from barnacle_trio.distribution._tls_stream import TlsStream, handshake_header

logger = logging.getLogger("barnacle_trio.node")

HANDSHAKE_TIMEOUT = 7.0
"""Seconds for a whole handshake, however it drips in; as OTP's ``net_setuptime``."""
MAX_STRANGERS = 128
"""Connections in mid-handshake; the oldest one goes when another comes."""
RECEIVE_SIZE = 4096


class Doorkeeper:
    """Takes accepted streams through the handshake.

    Args:
      local: this node.
      dialler: asked, and told, where both nodes dial each other.
      run: runs a connection to its end.
    """

    def __init__(
        self, local: Local, dialler: Dialler, run: Callable[[Connection, bytes], Awaitable[None]]
    ) -> None:
        self._local = local
        self._dialler = dialler
        self._run = run
        self._strangers: dict[trio.CancelScope, None] = {}
        self._refusing = False
        self._guesses = Guesses(trio.current_time)
        self._log = RateLimited(logger)

    @property
    def strangers(self) -> int:
        """Connections in mid-handshake."""
        return len(self._strangers)

    def refuse(self) -> None:
        """Let nobody in any more; handshakes under way are given up."""
        self._refusing = True
        for stranger in self._strangers:
            stranger.cancel("the node leaves")

    async def accept(self, stream: trio.abc.Stream) -> None:  # noqa: ASYNC910 - reads, or was cancelled
        """Shake hands on an accepted stream and close it where that leads to nothing.

        Whatever a stranger sends, nothing is raised; one log line every 10 s at most tells of it.
        A connection that came about is run to its end here.
        """
        admitted: tuple[Connection, bytes] | None = None
        try:
            with self._admit() as scope:
                await trio.lowlevel.checkpoint()
                admitted = await self._shake(stream)
            if scope.cancelled_caught and not self._refusing:
                self._log.warning("a handshake was given up: too slow, or too many at once")
        except PeerUnreachable as error:
            logger.debug("a handshake came to nothing: %s", error)
        except BarnacleError as error:
            self._log.warning("a connection was refused: %s", error)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            logger.debug("a handshake broke off")
        except Exception:
            logger.exception("a handshake failed on a fault of our own")
        finally:
            if admitted is None:
                await trio.aclose_forcefully(stream)
        if admitted is not None:
            connection, leftover = admitted
            await self._run(connection, leftover)

    @contextmanager
    def _admit(self) -> Iterator[trio.CancelScope]:
        while len(self._strangers) >= MAX_STRANGERS:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.cancel("too many handshakes at once, and this one was the oldest")
        with trio.move_on_after(HANDSHAKE_TIMEOUT) as scope:
            self._strangers[scope] = None
            if self._refusing:
                scope.cancel("the node leaves")
            try:
                yield scope
            finally:
                self._strangers.pop(scope, None)

    async def _shake(self, stream: trio.abc.Stream) -> tuple[Connection, bytes] | None:
        machine = Acceptor(
            self._local.identity(), self._local.challenges, header=handshake_header(stream)
        )
        address = remote_address(stream)
        claimed = None
        rival = True
        try:
            while True:
                data = bytes(await stream.receive_some(RECEIVE_SIZE))
                if not data:
                    machine.eof()
                events = machine.receive(data)
                is_done = any(isinstance(event, Done) for event in events)
                if is_done and rival and await self._ours_came_up(machine):
                    return None
                for event in events:
                    match event:
                        case Send():
                            await stream.send_all(event.data)
                        case NameReceived() if not self._guesses.may_try(address, event.peer.name):
                            self._log.warning(
                                "%s at %s is turned away for a while: cookies are being guessed",
                                event.peer.name,
                                address,
                            )
                            return None
                        case NameReceived():
                            rival = event.peer.name not in self._local.peers
                            objection = self._objection(stream, event.peer.name)
                            answer = None if objection else self._answer(machine, event)
                            if answer is not None:
                                claimed = event.peer.name
                                self._dialler.inbound_began(claimed)
                                await stream.send_all(answer)
                            else:
                                await self._turn_away(stream, machine, event, objection)
                                return None
                        case AliveAnswered():
                            if not event.genuine:
                                return None
                        case Done():
                            self._guesses.was_right(address, event.peer.name)
                            connection = self._local.adopt(
                                stream, event, dialled=False, rival=rival
                            )
                            return None if connection is None else (connection, event.leftover)
        except CookieRejected:
            assert claimed is not None  # noqa: S101 - it had a challenge
            self._guesses.was_wrong(address, claimed)
            raise
        except BarnacleError:
            if machine.farewell:
                await stream.send_all(machine.farewell)  # noqa: ASYNC120 - the deadline may win
            raise
        finally:
            machine.close()
            if claimed is not None:
                self._dialler.inbound_ended(claimed)

    def _answer(self, machine: Acceptor, event: NameReceived) -> bytes | None:
        """What to say to a name, None where it is to be turned away."""
        name = event.peer.name
        own = self._local.identity().name
        if name == own:
            return None
        cookie = self._local.cookies.for_peer(name)
        if name in self._local.peers:
            return machine.ask_alive(cookie)
        if self._dialler.is_dialling(name):
            # Both dial: the attempt of the greater name goes on ("Distribution Protocol").
            return machine.accept(cookie, simultaneous=True) if name > own else None
        return machine.accept(cookie)

    async def _ours_came_up(self, machine: Acceptor) -> bool:
        """Whether our own attempt, begun in the meantime, is the one that both sides keep.

        Where both dial, the greater name's attempt goes on. The peer was told of ours after we let
        it in, and may give up its own at any moment: once we say yes to that, it may be none.
        """
        assert machine.peer is not None  # noqa: S101 - it is done
        name = machine.peer.name
        if self._local.identity().name > name:
            await self._dialler.wait_for_ours(name)
        else:
            await trio.lowlevel.checkpoint()
        return name in self._local.peers

    async def _turn_away(
        self,
        stream: trio.abc.Stream,
        machine: Acceptor,
        event: NameReceived,
        objection: str | None,
    ) -> None:
        name = event.peer.name
        if objection is None or name == self._local.identity().name:
            await stream.send_all(machine.refuse("nok"))
        else:
            self._log.warning("%s may not connect: %s", name, objection)
            await stream.send_all(machine.refuse("not_allowed"))

    def _objection(self, stream: trio.abc.Stream, name: NodeName) -> str | None:
        """What speaks against letting in who claims that name, beside the cookie."""
        if not self._local.allowed(name):
            return "it is not among those allowed"
        return stream.name_fault(name) if isinstance(stream, TlsStream) else None
