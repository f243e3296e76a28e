"""A transport without a network, whose peers do what a test says."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

import trio

from barnacle_trio._errors import PeerUnreachable
from barnacle_trio._names import NodeName
from barnacle_trio._transport import PeerChange, PeerDown, PeerDownReason, PeerUp
from barnacle_trio.testing._scripted import HANG, Hang

Behaviour = Exception | Hang | None
"""How a peer answers: it raises, it never answers, or (None) all is well."""

ABILITIES = frozenset({"subscribe", "list_visible", "locate", "drain"})
"""What a `FakeTransport` has beside what every transport has."""


@dataclass(slots=True)
class FakePeer:
    """What a test says of a peer. Each attribute may be set at any time.

    ``reachable``: a dial finds it. ``on_connect``, ``on_disconnect``: what happens instead of going
    well. ``delay``: seconds that a dial takes. ``lies``: a dial returns, but nothing is connected.
    ``location``: what `locate` tells. ``hidden``: as a hidden node connects.
    """

    reachable: bool = False
    on_connect: Behaviour = None
    on_disconnect: Behaviour = None
    delay: float = 0.0
    lies: bool = False
    location: Hashable = None
    hidden: bool = False


class FakeTransport:
    """A transport without a network.

    Args:
      name: the local node's name.
      reachable: the peers that a dial finds from the start.
      abilities: which optional abilities it has.

    ``dials``, ``disconnects``: (Trio's clock, peer) of each call. ``most_dialling``: the most dials
    that were under way at once. ``listings``: how often it was asked for its nodes. ``on_list``:
    what happens then instead of going well. ``drains``: the grace (seconds) of each `drain`.
    """

    def __init__(
        self,
        name: str = "local@127.0.0.1",
        reachable: Iterable[str] = (),
        *,
        abilities: Iterable[str] = ABILITIES,
    ) -> None:
        self.name = NodeName(name)
        self.peers: dict[NodeName, FakePeer] = {}
        self.dials: list[tuple[float, NodeName]] = []
        self.disconnects: list[tuple[float, NodeName]] = []
        self.drains: list[float] = []
        self.listings = 0
        self.most_dialling = 0
        self.on_list: Behaviour = None
        self._dialling = 0
        self._connected: dict[NodeName, tuple[int, bool]] = {}
        self._creations = itertools.count(1)
        self._callbacks: list[Callable[[PeerChange], None]] = []
        self.come_back(*reachable)
        for ability in abilities:
            # present or absent, for that is how a barnacle finds out
            setattr(self, ability, getattr(self, f"_{ability}"))

    # -- what a test does -------------------------------------------------------------------------

    def peer(self, name: str) -> FakePeer:
        """What is said of a peer so far; set its attributes to say more."""
        return self.peers.setdefault(NodeName(name), FakePeer())

    def come_back(self, *names: str) -> None:
        """Make peers reachable. They do not dial by themselves, see `dial_in`."""
        for name in names:
            self.peer(name).reachable = True

    def lose(self, name: str, reason: PeerDownReason = "lost", *, gone: bool = False) -> None:
        """Cut a peer's connection, and with ``gone`` make it unreachable."""
        if gone:
            self.peer(name).reachable = False
        self._down(NodeName(name), reason)

    def dial_in(self, name: str, *, hidden: bool = False) -> None:
        """Have a peer connect by itself. One that is connected already is replaced."""
        node = NodeName(name)
        self._down(node, "replaced")
        self._up(node, hidden=hidden or self.peer(name).hidden)

    @property
    def connected(self) -> frozenset[NodeName]:
        """The connected peers."""
        return frozenset(self._connected)

    def dials_of(self, name: str) -> list[float]:
        """When (Trio's clock) a peer was dialled."""
        return [at for at, dialled in self.dials if dialled == name]

    # -- what a barnacle does ---------------------------------------------------------------------

    async def connect(self, name: NodeName) -> None:
        """Dial a peer, which does what the test says.

        Raises:
          PeerUnreachable: it is not reachable.
          Exception: what the test says.
        """
        self.dials.append((trio.current_time(), name))
        self._dialling += 1
        self.most_dialling = max(self.most_dialling, self._dialling)
        peer = self.peer(name)
        try:
            await trio.sleep(peer.delay)
            await _behave(peer.on_connect)
            if not peer.reachable:
                raise PeerUnreachable(f"{name} is not reachable")
            if not peer.lies and name not in self._connected:
                self._up(name, hidden=peer.hidden)
        finally:
            self._dialling -= 1

    async def disconnect(self, name: NodeName) -> None:
        """Disconnect a peer, or do nothing where it is not connected."""
        self.disconnects.append((trio.current_time(), name))
        await trio.lowlevel.checkpoint()
        await _behave(self.peer(name).on_disconnect)
        self._down(name, "closed_by_us")

    async def list_nodes(self) -> Iterable[str]:
        """The connected peers."""
        self.listings += 1
        await trio.lowlevel.checkpoint()
        await _behave(self.on_list)
        return list(self._connected)

    def _subscribe(self, callback: Callable[[PeerChange], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    async def _list_visible(self) -> Iterable[str]:
        await trio.lowlevel.checkpoint()
        return [name for name, (_creation, hidden) in self._connected.items() if not hidden]

    async def _locate(self, name: NodeName) -> Hashable:
        await trio.lowlevel.checkpoint()
        return self.peer(name).location

    async def _drain(self, grace: float) -> None:
        self.drains.append(grace)
        await trio.lowlevel.checkpoint()
        for name in self.connected:
            self._down(name, "closed_by_us")

    def _up(self, name: NodeName, *, hidden: bool) -> None:
        creation = next(self._creations)
        self._connected[name] = (creation, hidden)
        self._tell(PeerUp(node=name, creation=creation, hidden=hidden))

    def _down(self, name: NodeName, reason: PeerDownReason) -> None:
        if name in self._connected:
            creation, hidden = self._connected.pop(name)
            self._tell(PeerDown(node=name, reason=reason, creation=creation, hidden=hidden))

    def _tell(self, change: PeerChange) -> None:
        for callback in tuple(self._callbacks):
            callback(change)


async def _behave(behaviour: Behaviour) -> None:
    await trio.lowlevel.checkpoint()
    if behaviour is HANG:
        await trio.sleep_forever()
    if isinstance(behaviour, Exception):
        raise behaviour
