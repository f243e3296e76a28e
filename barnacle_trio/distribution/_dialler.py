"""Dialling: at most one attempt for each peer at a time, shared by all who ask for it."""

from __future__ import annotations

import copy
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from barnacle_trio._errors import (
    HandshakeRefused,
    NameTakenError,
    PeerUnreachable,
)
from barnacle_trio._names import NodeName
from barnacle_trio._transport import PeerChange, PeerDown
from barnacle_trio.distribution._addresses import remote_address
from barnacle_trio.distribution._guessing import Proofs
from barnacle_trio.distribution._handshake import (
    AliveAsked,
    Done,
    HandshakeNok,
    Initiator,
    Send,
    StatusReceived,
    WrongNode,
)
from barnacle_trio.distribution._local import Local
from barnacle_trio.distribution._network import Network
from barnacle_trio.distribution._tls_stream import handshake_header

logger = logging.getLogger("barnacle_trio.node")

RIVAL_PAUSE = 0.2
"""Seconds that are left to the peer's own connection before it is dialled again."""
RIVAL_PATIENCE = 5.0
"""Seconds for which a connection that a peer dialled waits for the outcome of ours to it."""
NAMESAKE_WINDOW = 60.0
"""Seconds within which two connections lost to a namesake mean that the name is taken."""
RECEIVE_SIZE = 4096


class _Dial:
    """An attempt under way. The task that asked first makes it, others wait for ``settled``."""

    def __init__(self) -> None:
        self.settled = trio.Event()
        self.error: Exception | None = None
        self.attempt = trio.CancelScope()
        self.answered: trio.Event | None = None
        """While the peer has our name and did not say yes or no."""

    @contextmanager
    def awaits_answer(self) -> Iterator[None]:
        """Our name is sent within the block, and its outcome known when that is left."""
        answered = self.answered = trio.Event()
        try:
            yield
        finally:
            self.answered = None
            answered.set()

    def concede(self) -> None:
        """Let the peer's own attempt win, should it make one, whoever's name is greater.

        A peer that asked whether we are still `alive` may notice meanwhile that its old connection
        is gone, and dial by itself. A BEAM then forgets ours, and would wait for it for 7 s.
        """
        if self.answered is not None:
            self.answered.set()
            self.answered = None


class Dialler:
    """Connects this node to peers.

    Args:
      local: this node.
      network: how peers are reached.
      connect_timeout: seconds for a whole dial, from the look-up to the handshake's end.
    """

    def __init__(self, local: Local, network: Network, *, connect_timeout: float) -> None:
        self._local = local
        self._network = network
        self._connect_timeout = connect_timeout
        self._dials: dict[NodeName, _Dial] = {}
        self._inbound: dict[NodeName, int] = {}
        self._refusing = False
        self._proofs = Proofs(trio.current_time)
        self._lost_at: dict[NodeName, float] = {}
        self._stolen_at: dict[NodeName, deque[float]] = {}
        local.peers.subscribe(self._on_change)

    async def connect(self, name: NodeName) -> None:
        """Connect a peer, or join the attempt under way.

        Raises:
          PeerUnreachable: not known, nobody there, or no answer within ``connect_timeout`` seconds.
          HandshakeRefused: cookie, name, flags or an allow-list stand in the way.
          RemoteProtocolError: what answered is no node.

        If cancelled, the attempt is given up and its socket closed, unless others wait for it: then
        one of them goes on with a new one.
        """
        if not self._local.allowed(name):
            raise HandshakeRefused(f"{name} is not among those that allow= admits")
        while name not in self._local.peers:
            dial = self._dials.get(name)
            if dial is None:
                await self._lead(name)
                return
            await dial.settled.wait()
            if dial.error is not None:
                # Each caller gets an object of its own: tracebacks grow on what is raised.
                raise copy.copy(dial.error) from dial.error.__cause__
        await trio.lowlevel.checkpoint()

    def refuse(self) -> None:
        """Dial nobody any more. Attempts under way are given up; who waits for them is told."""
        self._refusing = True
        for dial in self._dials.values():
            dial.attempt.cancel("the node leaves")

    def is_dialling(self, name: NodeName) -> bool:
        """Whether an attempt is under way that has told the peer our name."""
        dial = self._dials.get(name)
        return dial is not None and dial.answered is not None

    async def wait_for_ours(self, name: NodeName) -> None:
        """Wait for the outcome of an attempt that has told the peer our name; for 5 s at most."""
        dial = self._dials.get(name)
        await trio.lowlevel.checkpoint()
        if dial is not None and dial.answered is not None:
            with trio.move_on_after(RIVAL_PATIENCE):
                await dial.answered.wait()

    def inbound_began(self, name: NodeName) -> None:
        """A connection from that peer (so it says) is being accepted."""
        self._inbound[name] = self._inbound.get(name, 0) + 1

    def inbound_ended(self, name: NodeName) -> None:
        """The end of what began with `inbound_began`."""
        self._inbound[name] -= 1
        if not self._inbound[name]:
            del self._inbound[name]

    async def _lead(self, name: NodeName) -> None:
        dial = self._dials[name] = _Dial()
        try:
            await self._dial(name, dial)
        except BaseException as error:
            # Nobody answered as that node would: the next dial asks anew where it is.
            self._network.forget(name)
            if isinstance(error, Exception):
                dial.error = error
            raise
        finally:
            del self._dials[name]
            dial.settled.set()

    async def _dial(self, name: NodeName, dial: _Dial) -> None:
        turned_away = None
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(self._connect_timeout):  # noqa: ASYNC912 - it dials
            while name not in self._local.peers:
                if self._refusing:
                    raise PeerUnreachable(f"{name}: this node leaves, and dials nobody any more")
                try:
                    with trio.CancelScope() as dial.attempt:  # noqa: ASYNC912 - it dials
                        await self._attempt(name, dial)
                        return
                except HandshakeNok as nok:
                    turned_away = nok
                await self._leave_way(name)
            return
        within = f"within {self._connect_timeout:g} s"
        if turned_away is not None:
            raise PeerUnreachable(f"{turned_away}; no connection came {within}") from turned_away
        raise PeerUnreachable(f"{name}: no answer {within}")

    async def _leave_way(self, name: NodeName) -> None:
        """Give the peer's own connection a moment."""
        with trio.move_on_after(RIVAL_PAUSE):
            await trio.lowlevel.checkpoint()
            while name not in self._local.peers:
                await self._local.peers.wait_change(name)

    async def _attempt(self, name: NodeName, dial: _Dial) -> None:
        try:
            await self._attempt_once(name, dial)
        except WrongNode:
            # The port was remembered, and is another node's today.
            self._network.forget(name)
            await self._attempt_once(name, dial)

    async def _attempt_once(self, name: NodeName, dial: _Dial) -> None:  # noqa: ASYNC910 - it dials
        stream, location = await self._network.dial(name)
        kept = False
        try:
            if name in self._inbound:
                await self._leave_way(name)
                if name in self._local.peers:
                    return
            with dial.awaits_answer():
                done, rival = await self._shake(stream, name, dial)
            kept = self._local.adopt(stream, done, dialled=True, rival=rival) is not None
        except HandshakeRefused as error:
            if error.location is None:
                error.location = location
            raise
        finally:
            if not kept:
                await trio.aclose_forcefully(stream)

    async def _shake(  # noqa: ASYNC910 - eof() always raises
        self, stream: trio.abc.Stream, name: NodeName, dial: _Dial
    ) -> tuple[Done, bool]:
        cookie = self._local.cookies.for_peer(name)
        machine = Initiator(
            self._local.identity(),
            name,
            cookie,
            self._local.challenges,
            header=handshake_header(stream),
        )
        address = remote_address(stream)
        proven = False  # by us, for nothing so far
        rival = True
        try:
            await stream.send_all(machine.begin())
            while True:
                data = bytes(await stream.receive_some(RECEIVE_SIZE))
                if not data:
                    machine.eof()
                for event in machine.receive(data):
                    match event:
                        case Send():  # our proof
                            if not self._proofs.may_give(address):
                                raise PeerUnreachable(
                                    f"{name}: {address} took proof of the cookie too often and "
                                    "gave none; it is left alone for a moment"
                                )
                            proven = True
                            await stream.send_all(event.data)
                        case AliveAsked():
                            rival = False
                            dial.concede()
                            steal = self._may_steal(name)
                            await stream.send_all(machine.answer_alive(steal))
                            if not steal:
                                raise NameTakenError(
                                    f"another node is named {self._local.identity().name} too: "
                                    f"it took the connection to {name} twice"
                                )
                        case StatusReceived():
                            pass
                        case Done():
                            proven = False
                            return event, rival
        except trio.BrokenResourceError:
            machine.eof()
        finally:
            machine.close()
            if proven and name not in self._local.peers:
                self._proofs.was_wasted(address)

    def _may_steal(self, name: NodeName) -> bool:
        """Whether a connection that the peer holds under our name may be replaced.

        It is our own old one, as a rule. But if ours had just been closed from the other side, a
        namesake took it, and the second time within a minute the two would go on for ever.
        """
        now = trio.current_time()
        lost_at = self._lost_at.get(name)
        if lost_at is None or now - lost_at > NAMESAKE_WINDOW:
            return True
        stolen = self._stolen_at.setdefault(name, deque(maxlen=2))
        stolen.append(now)
        return len(stolen) < 2 or now - stolen[0] > NAMESAKE_WINDOW

    def _on_change(self, change: PeerChange) -> None:
        name = change.node
        if isinstance(change, PeerDown):
            if change.reason == "lost":
                self._lost_at[name] = trio.current_time()
            else:
                self._lost_at.pop(name, None)
            self._forget_old()
        elif name in self._dials:
            # It came in by itself: the attempt has nothing left to do.
            self._dials[name].attempt.cancel("the peer connected by itself")

    def _forget_old(self) -> None:
        limit = trio.current_time() - NAMESAKE_WINDOW
        if len(self._lost_at) > 1000:
            self._lost_at = {name: at for name, at in self._lost_at.items() if at > limit}
            self._stolen_at = {
                name: at for name, at in self._stolen_at.items() if name in self._lost_at
            }
