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

    Args:
      peers: by name. A peer's ``ticket`` tells which of its entries is the valid one, 0 none.
      max_dials: slots.
    """

    def __init__(self, peers: Mapping[NodeName, Peer], max_dials: int) -> None:
        self._peers = peers
        self._max_dials = max_dials
        # a few slots are kept for peers that were working a moment ago, so that a long list of
        # dead addresses does not hold them up
        self._unreserved = max_dials - max_dials // 8
        self._under_way = 0
        self._tickets = 0
        # dials to come by time; those whose time has come by importance
        self._queue: list[tuple[float, int, NodeName]] = []
        self._ready: list[tuple[bool, int, int, NodeName]] = []

    def schedule(self, peer: Peer, when: float) -> None:
        """Have a peer dialled at a time, instead of whenever it was to be."""
        self._tickets += 1
        peer.ticket, peer.next_attempt = self._tickets, when
        if peer.dialling:
            return  # whoever ends the dial schedules it again
        heappush(self._queue, (when, peer.ticket, peer.name))
        if len(self._queue) + len(self._ready) > 4 * len(self._peers) + 64:
            self._tidy()

    def unschedule(self, peer: Peer) -> None:
        """Have a peer not dialled."""
        peer.ticket, peer.next_attempt = 0, None

    def take(self, now: float, is_wanted: Callable[[Peer], bool]) -> list[Peer]:
        """The peers to dial now, within the free slots; each takes one until `ended`."""
        while self._queue and self._queue[0][0] <= now:
            _when, ticket, name = heappop(self._queue)
            peer = self._valid(ticket, name)
            if peer is None:
                continue
            if not is_wanted(peer):
                self.unschedule(peer)
                continue
            failures = peer.failures + peer.refusals
            heappush(self._ready, (not peer.recently_lost(now), failures, ticket, name))
        taken: list[Peer] = []
        while (peer := self._first()) is not None:
            stranger = self._ready[0][0]
            if self._under_way >= (self._unreserved if stranger else self._max_dials):
                break
            heappop(self._ready)
            self._under_way += 1
            self.unschedule(peer)
            taken.append(peer)
        return taken

    def ended(self) -> None:
        """A dial is over."""
        self._under_way -= 1

    def next(self) -> float:
        """When to ask again for dials, if nothing else happens: a time, or infinity."""
        while self._queue:
            when, ticket, name = self._queue[0]
            if self._valid(ticket, name) is not None:
                return when
            heappop(self._queue)
        return math.inf

    def is_untried_waiting(self) -> bool:
        """Whether next in turn is one that no dial has failed to reach since it last worked."""
        return self._first() is not None and not self._ready[0][1]

    def _first(self) -> Peer | None:
        """Whose turn it is, of those that are due."""
        while self._ready:
            _stranger, _failures, ticket, name = self._ready[0]
            if (peer := self._valid(ticket, name)) is not None:
                return peer
            heappop(self._ready)
        return None

    def _valid(self, ticket: int, name: NodeName) -> Peer | None:
        peer = self._peers.get(name)
        return peer if peer is not None and peer.ticket == ticket else None

    def _tidy(self) -> None:
        """Drop entries of dials that were planned anew since: most of them lie in the future."""
        self._queue = [entry for entry in self._queue if self._valid(entry[1], entry[2])]
        self._ready = [entry for entry in self._ready if self._valid(entry[2], entry[3])]
        heapify(self._queue)
        heapify(self._ready)
