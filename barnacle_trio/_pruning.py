"""Whom to disconnect, because discovery names them no more; and how many at a time.

Pure: the clock's reading is given.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Mapping

from barnacle_trio._names import NodeName
from barnacle_trio._peers import Peer
from barnacle_trio._rules import Rules


class Pruning:
    """What keeps a wrong answer of discovery from costing the cluster.

    A peer goes once it was missing for long enough, in enough answers, and only so many go within
    ``prune_after`` seconds.

    Args:
      peers: by name.
      rules: what counts as enough.
    """

    def __init__(self, peers: Mapping[NodeName, Peer], rules: Rules) -> None:
        self._peers = peers
        self._rules = rules
        self._ended: deque[float] = deque()  # when, within the last `prune_after` seconds
        self.held_back = 0
        """How many peers the share ``max_prune`` kept from being pruned the last time."""

    def take(
        self,
        now: float,
        *,
        visible: Collection[str] | None = None,
        held: Callable[[NodeName], bool] = lambda _name: False,
    ) -> list[NodeName]:
        """The peers to disconnect now, longest missing first.

        Args:
          now: the clock's reading.
          visible: for ``prune="all"`` the peers that are not hidden; None means all.
          held: whether another barnacle on the transport names the peer.
        """
        rules = self._rules
        self.held_back = 0
        if rules.prune == "never":
            return []
        while self._ended and now - self._ended[0] >= rules.prune_after:
            self._ended.popleft()
        concerned = [peer for peer in self._peers.values() if self._concerns(peer, visible)]
        gone = [peer for peer in concerned if self.is_gone(peer, now) and not held(peer.name)]
        gone.sort(key=lambda peer: (peer.missing_since, peer.name))
        allowed = max(0, self._allowance(len(concerned)) - len(self._ended))
        self.held_back = max(0, len(gone) - allowed)
        for peer in gone[:allowed]:
            peer.pruning = True
        return [peer.name for peer in gone[:allowed]]

    def ended(self, name: NodeName, now: float) -> bool:
        """A disconnect is over. True: it worked, and counts against ``max_prune``."""
        peer = self._peers.get(name)
        if peer is not None and peer.connected and peer.pruning:
            peer.pruning = False
            return False
        self._ended.append(now)
        return True

    def is_gone(self, peer: Peer, now: float) -> bool:
        """Whether enough answers, for long enough, were without the peer."""
        return peer.is_gone(now, after=self._rules.prune_after, answers=self._rules.prune_answers)

    def _concerns(self, peer: Peer, visible: Collection[str] | None) -> bool:
        if not peer.connected or peer.excused:
            return False
        if peer.ours:
            return True
        return self._rules.prune == "all" and (visible is None or peer.name in visible)

    def _allowance(self, connected: int) -> int:
        # the share of what was there when the window began; one may always go, or the last stale
        # peer would stay for ever
        if not self._rules.max_prune:
            return 0
        return max(1, math.floor(self._rules.max_prune * (connected + len(self._ended))))
