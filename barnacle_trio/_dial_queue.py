"""Who is to be dialled next: by time, then by importance, within a number of slots.

Pure: the clock's reading is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush

from barnacle_trio._names import NodeName
from barnacle_trio._peers import Peer


class DialQueue:
    """The dials to come, and how many are under way.

    Peers that were lost a moment ago come first. From eight slots on, neither they nor the others
    ever hold all: an eighth is kept for who is lost next, and as many for newcomers, however many
    are silent.

    Args:
      peers: by name. A peer's ``ticket`` tells which of its entries is the valid one, 0 none.
      max_dials: slots.
    """

    def __init__(self, peers: Mapping[NodeName, Peer], max_dials: int) -> None:
        self._peers = peers
        self._max_dials = max_dials
        self._share = max_dials - max_dials // 8
        self._tickets = 0
        # dials to come by time
        self._queue: list[tuple[float, int, NodeName]] = []
        # those whose time has come by importance, and dials under way: of lost peers, and of others
        self._ready: dict[bool, list[tuple[bool, int, int, NodeName]]] = {True: [], False: []}
        self._under_way = {True: 0, False: 0}

    def __len__(self) -> int:
        """How many entries are kept, valid or not."""
        return len(self._queue) + sum(map(len, self._ready.values()))

    def schedule(self, peer: Peer, when: float) -> None:
        """Have a peer dialled at a time, instead of whenever it was to be."""
        self._tickets += 1
        peer.ticket, peer.next_attempt = self._tickets, when
        if peer.dialling:
            return  # whoever ends the dial schedules it again
        heappush(self._queue, (when, peer.ticket, peer.name))
        if len(self) > 4 * len(self._peers) + 64:
            self._tidy()

    def unschedule(self, peer: Peer) -> None:
        """Have a peer not dialled."""
        peer.ticket, peer.next_attempt = 0, None

    def hasten(self, now: float, longest: float, rng: Callable[[], float]) -> None:
        """Have nobody who only failed to answer wait longer than that, from now on."""
        for peer in self._peers.values():
            if peer.next_attempt is None or peer.dialling or peer.is_suspect(now):
                continue
            if peer.next_attempt > now + longest:
                self.schedule(peer, now + rng() * longest)

    def take(
        self, now: float, is_wanted: Callable[[Peer], bool], *, most: float = math.inf
    ) -> list[Peer]:
        """So many peers to dial now, within the free slots; each takes one until `ended`."""
        while self._queue and self._queue[0][0] <= now:
            _when, ticket, name = heappop(self._queue)
            peer = self._valid(ticket, name)
            if peer is None:
                continue
            if is_wanted(peer):
                self._make_ready(peer, lost=peer.recently_lost(now))
            else:
                self.unschedule(peer)
        taken: list[Peer] = []
        while len(taken) < most and (peer := self._next(now)) is not None:
            self.unschedule(peer)
            peer.dialling = True
            taken.append(peer)
        return taken

    def ended(self, peer: Peer) -> None:
        """The dial of a peer is over."""
        peer.dialling = False
        self._under_way[peer.favoured] -= 1

    def next(self) -> float:
        """When to ask again for dials, if nothing else happens: a time, or infinity."""
        while self._queue:
            when, ticket, name = self._queue[0]
            if self._valid(ticket, name) is not None:
                return when
            heappop(self._queue)
        return math.inf

    def is_untried_waiting(self, now: float) -> bool:
        """Whether there is no slot for a peer that was not dialled yet."""
        peer = self._first(now, lost=False)
        return peer is not None and not peer.tried

    def _next(self, now: float) -> Peer | None:
        if sum(self._under_way.values()) >= self._max_dials:
            return None
        for lost in (True, False):
            if self._under_way[lost] >= self._share:
                continue
            if (peer := self._first(now, lost=lost)) is not None:
                heappop(self._ready[lost])
                self._under_way[lost] += 1
                peer.favoured = lost
                return peer
        return None

    def _first(self, now: float, *, lost: bool) -> Peer | None:
        """Whose turn it is, of those that are due."""
        ready = self._ready[lost]
        while ready:
            _tried, _failures, ticket, name = ready[0]
            peer = self._valid(ticket, name)
            if peer is not None and (not lost or peer.recently_lost(now)):
                return peer
            heappop(ready)
            if peer is not None:  # it waited so long that it is like any other
                self._make_ready(peer, lost=False)
        return None

    def _make_ready(self, peer: Peer, *, lost: bool) -> None:
        failures = peer.failures + peer.refusals
        heappush(self._ready[lost], (peer.tried, failures, peer.ticket, peer.name))

    def _valid(self, ticket: int, name: NodeName) -> Peer | None:
        peer = self._peers.get(name)
        return peer if peer is not None and peer.ticket == ticket else None

    def _tidy(self) -> None:
        """Drop entries of dials that were planned anew since: most of them lie in the future."""
        self._queue = [entry for entry in self._queue if self._valid(*entry[1:])]
        heapify(self._queue)
        for lost, ready in self._ready.items():
            self._ready[lost] = [entry for entry in ready if self._valid(*entry[2:])]
            heapify(self._ready[lost])
