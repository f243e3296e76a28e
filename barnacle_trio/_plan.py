"""What to do next: whom to dial, whom to disconnect, and until when to wait.

Pure: facts go in (an answer, a peer up or down, a dial's outcome), decisions come out. The clock's
reading and the jitter are given, so that the whole policy is tested without either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass

from barnacle_trio._dial_queue import DialQueue
from barnacle_trio._events import DownReason, PeerStatus
from barnacle_trio._names import NodeName
from barnacle_trio._peers import (
    NOWHERE,
    QUIET,
    STABLE,
    UNKNOWN,
    WORKED,
    Peer,
    longest_pause,
)
from barnacle_trio._pruning import Pruning
from barnacle_trio._rules import Rules
from barnacle_trio._strategy import Discovery
from barnacle_trio._transport import PeerDownReason

MAX_PAST = 10_000
"""How many names are remembered that are neither connected nor named any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What an answer changed.

    ``adopted``: connected peers that are among ours from now on. ``dropped``: peers that nobody
    dials any more.
    """

    adopted: frozenset[NodeName] = frozenset()
    dropped: frozenset[NodeName] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A peer went down. ``ours``: users are told. ``fresh``: it had been a working one."""

    ours: bool
    reason: DownReason
    fresh: bool


class Plan:
    """The memory of all peers, and what follows from it."""

    def __init__(self, local: NodeName, rules: Rules, rng: Callable[[], float]) -> None:
        self._local = local
        self._rules = rules
        self._rng = rng
        self._peers: dict[NodeName, Peer] = {}
        # names without a record: whether they were pruned (else merely ours); oldest first
        self._past: dict[NodeName, bool] = {}
        self._connected = 0
        self._paced = 0  # how many were absent when the longest of today's pauses was chosen
        self._queue = DialQueue(self._peers, rules.max_dials)
        self._pruning = Pruning(self._peers, rules)

    # -- facts: discovery -------------------------------------------------------------------

    def answer(self, discovery: Discovery, now: float) -> Answered:
        """Take in an answer. A failed one changes nothing, a partial one only adds."""
        if discovery.kind == "failed":
            return Answered()
        adopted: set[NodeName] = set()
        for name in discovery.nodes:
            if name == self._local:
                continue
            peer = self._get(name)
            if peer.named_now() and peer.connected:
                adopted.add(name)
            if not peer.connected and not peer.dialling and peer.next_attempt is None:
                self._queue.schedule(peer, now)
            peer.touch(now)
        dropped: set[NodeName] = set()
        if discovery.kind == "complete":
            for name in self._peers.keys() - discovery.nodes:
                peer = self._peers[name]
                peer.unnamed_now(now, evidence=bool(discovery.nodes))
                peer.touch(now)
                if self._forget(peer, now):
                    dropped.add(name)
        return Answered(adopted=frozenset(adopted), dropped=frozenset(dropped))

    # -- facts: the transport -----------------------------------------------------------------

    def up(self, name: NodeName, now: float, *, creation: int = 0) -> bool:
        """A peer is connected, whoever dialled. True: it is one of ours."""
        if name == self._local:
            return False
        peer = self._get(name)
        if peer.connected:
            return False
        peer.connected, peer.up_since, peer.creation = True, now, creation
        self._connected += 1
        peer.ups += 1
        peer.quarantined = peer.pruning = peer.tried = False
        peer.last_error = peer.left_at = None
        self._queue.unschedule(peer)
        peer.touch(now)
        self._quicken(now)
        return peer.ours

    def down(self, name: NodeName, reason: PeerDownReason, now: float) -> Loss | None:
        """A peer is no longer connected. None: it was not known to be."""
        peer = self._peers.get(name)
        if peer is None or not peer.connected:
            return None
        peer.connected = False
        self._connected -= 1
        ours, fresh = peer.ours, False
        if peer.pruning:
            peer.pruning = peer.ours = peer.named = False
            peer.excused = True
            self._forget(peer, now)
            return Loss(ours=ours, reason="pruned", fresh=False)
        peer.flaps += 1
        stable = now - peer.up_since >= STABLE
        if stable:
            peer.failures = peer.refusals = 0
            peer.lost_at = None
        if reason == "left":
            peer.left_at, peer.location = now, UNKNOWN
            self._queue.schedule(peer, now + QUIET)
        elif reason == "closed_by_us":
            self._queue.schedule(peer, now + self._rules.poll_interval)  # on purpose: no haste
        else:
            if reason != "replaced":
                fresh = peer.lost_at is None or now - peer.up_since >= WORKED
                if fresh:
                    peer.lost_at = now
                if not stable:
                    peer.failures += 1  # a connection that does not last is no success
            peer.silent = reason == "silent"
            self._queue.schedule(peer, now + self._pause(peer, now))
        peer.touch(now)
        self._forget(peer, now)
        return Loss(ours=ours, reason=reason, fresh=fresh and ours)

    def connected(self) -> frozenset[NodeName]:
        """All connected peers, ours or not."""
        return frozenset(peer.name for peer in self._peers.values() if peer.connected)

    def is_connected(self, name: NodeName, *, creation: int | None = None) -> bool:
        """Whether a peer is connected (in this incarnation)."""
        peer = self._peers.get(name)
        if peer is None or not peer.connected:
            return False
        return creation is None or peer.creation == creation

    # -- facts: dials ---------------------------------------------------------------------------

    def ups(self, name: NodeName) -> int:
        """How often a peer came up: tells whether a dial had an effect."""
        peer = self._peers.get(name)
        return peer.ups if peer is not None else 0

    def dial_ended(self, name: NodeName, now: float) -> None:
        """A dial is over, one way or another; to be called first, once for each one taken."""
        peer = self._peers[name]  # a peer that is dialled is never forgotten
        self._queue.ended(peer)
        if not peer.connected:
            # as if it had not been tried (the outcome follows, unless the dial was cancelled), or
            # when it was due after it came up and was lost again meanwhile
            self._queue.schedule(peer, now if peer.next_attempt is None else peer.next_attempt)
        peer.touch(now)
        self._forget(peer, now)

    def gave_way(self, name: NodeName, now: float) -> bool:
        """A dial was given up for another one's sake. True: it is to be dialled again."""
        peer = self._peers.get(name)
        if peer is None or peer.connected:
            return False
        peer.tried = True
        self._queue.schedule(peer, now)
        return True

    def failed(self, name: NodeName, error: Exception, now: float, *, silent: bool) -> bool:
        """A dial failed, and might not the next time. True: that is news, worth a line."""
        peer = self._peers.get(name)
        if peer is None or peer.connected:
            return False
        peer.failures += 1
        peer.tried = True
        peer.silent = silent
        peer.quarantined = False
        peer.last_error = error
        self._queue.schedule(peer, now + self._pause(peer, now))
        peer.touch(now)
        return self._is_news(peer, error)

    def refused(
        self, name: NodeName, error: Exception, now: float, *, location: Hashable = None
    ) -> bool:
        """A dial was refused: quarantine. True: that is news, worth a line."""
        peer = self._peers.get(name)
        if peer is None or peer.connected:
            return False
        peer.refusals += 1
        peer.tried = peer.quarantined = True
        peer.location = location
        peer.last_error = error
        self._queue.schedule(peer, now + peer.quarantine())
        peer.touch(now)
        return self._is_news(peer, error)

    def suspects(self, now: float) -> frozenset[NodeName]:
        """The peers that are left alone, but whose place would tell if they were started anew."""
        return frozenset(peer.name for peer in self._peers.values() if peer.is_suspect(now))

    def quiet(self, now: float) -> frozenset[NodeName]:
        """Those of them that said goodbye a moment ago."""
        return frozenset(name for name in self.suspects(now) if self._peers[name].is_quiet(now))

    def located(self, name: NodeName, where: Hashable, now: float) -> bool:
        """Where one of them is today, None if nobody knows. True: it is dialled at once."""
        peer = self._peers.get(name)
        if peer is None or not peer.is_suspect(now):
            return False
        if peer.location is UNKNOWN:
            peer.location = NOWHERE if where is None else where
        if where is None or where == peer.location:
            return False
        peer.quarantined, peer.refusals, peer.left_at = False, 0, None
        self._queue.schedule(peer, now)
        peer.touch(now)
        return True

    # -- decisions ------------------------------------------------------------------------------

    def force(self, now: float) -> frozenset[NodeName]:
        """Make every wanted peer due, whatever its backoff or quarantine; those not connected."""
        forced: set[NodeName] = set()
        for peer in self._wanted(now):
            if peer.connected:
                continue
            forced.add(peer.name)
            if not peer.dialling:
                self._queue.schedule(peer, now)
        return frozenset(forced)

    def take_dials(self, now: float, *, most: float = math.inf) -> list[NodeName]:
        """So many peers to dial now, within the free slots. Each counts as dialled from here on."""
        prune_after = self._rules.prune_after
        taken = self._queue.take(now, lambda peer: peer.is_wanted(now, prune_after), most=most)
        for peer in taken:
            peer.touch(now)
        return [peer.name for peer in taken]

    def next_dial(self) -> float:
        """When to ask again for dials, if nothing else happens: a time, or infinity."""
        return self._queue.next()

    def is_untried_waiting(self, now: float) -> bool:
        """Whether there is no slot for a peer that was not dialled yet, see `may_give_way`."""
        return self._queue.is_untried_waiting(now)

    def may_give_way(self, name: NodeName) -> bool:
        """Whether a dial that meets silence may be given up for another one's sake."""
        return not self._peers[name].favoured

    def take_prunes(
        self,
        now: float,
        *,
        visible: Collection[str] | None = None,
        held: Callable[[NodeName], bool] = lambda _name: False,
    ) -> list[NodeName]:
        """The peers to disconnect now, see `Pruning.take`."""
        return self._pruning.take(now, visible=visible, held=held)

    def prune_ended(self, name: NodeName, now: float) -> bool:
        """A disconnect is over. True: it worked, and counts against ``max_prune``."""
        return self._pruning.ended(name, now)

    @property
    def held_back(self) -> int:
        """How many peers the share ``max_prune`` kept from being pruned the last time."""
        return self._pruning.held_back

    # -- views ----------------------------------------------------------------------------------

    def nodes(self) -> frozenset[NodeName]:
        """The connected peers that are ours."""
        return frozenset(peer.name for peer in self._peers.values() if peer.connected and peer.ours)

    def holds(self, name: NodeName, now: float) -> bool:
        """Whether this plan's strategy names the peer, or did so not long ago."""
        peer = self._peers.get(name)
        if peer is None or not peer.ours:
            return False
        return peer.named or not self._pruning.is_gone(peer, now)

    def awaits_change(self, now: float) -> bool:
        """Whether a lost peer is not back yet, or one that just connected is not named yet."""
        return any(
            peer.connected and not peer.ours and now - peer.up_since < self._rules.poll_interval
            for peer in self._peers.values()
        ) or any(peer.ups and not peer.connected for peer in self._wanted(now))

    def errors(self, now: float) -> dict[str, Exception]:
        """Why wanted peers are not connected, of those whose last dial failed."""
        return {
            peer.name: peer.last_error
            for peer in self._wanted(now)
            if not peer.connected and peer.last_error is not None
        }

    def status(self) -> dict[str, PeerStatus]:
        """How each of our peers stands."""
        return {peer.name: peer.status() for peer in self._peers.values() if peer.ours}

    # -- inside ---------------------------------------------------------------------------------

    def _get(self, name: NodeName) -> Peer:
        peer = self._peers.get(name)
        if peer is None:
            pruned = self._past.pop(name, None)
            peer = self._peers[name] = Peer(name)
            if pruned is not None:
                peer.ours, peer.excused = not pruned, pruned
        return peer

    def _wanted(self, now: float) -> Iterator[Peer]:
        after = self._rules.prune_after
        return (peer for peer in self._peers.values() if peer.is_wanted(now, after))

    def _forget(self, peer: Peer, now: float) -> bool:
        """Drop the record of a peer that is neither connected, dialled nor wanted."""
        if peer.connected or peer.dialling or peer.is_wanted(now, self._rules.prune_after):
            return False
        del self._peers[peer.name]
        if peer.ours or peer.excused:
            self._past[peer.name] = peer.excused
            if len(self._past) > MAX_PAST:
                del self._past[next(iter(self._past))]
        return True

    def _pause(self, peer: Peer, now: float) -> float:
        absent = len(self._peers) - self._connected
        self._paced = max(self._paced, absent)
        return peer.pause(now, self._rules.poll_interval, self._rng(), absent=absent)

    def _quicken(self, now: float) -> None:
        """Shorten the pauses that were long because many were absent, now that half of them came.

        A few at a time would cost more than they save.
        """
        absent, interval = len(self._peers) - self._connected, self._rules.poll_interval
        if 2 * absent > self._paced or longest_pause(interval, self._paced) <= interval:
            return
        self._paced = absent
        self._queue.hasten(now, longest_pause(interval, absent), self._rng)

    def _is_news(self, peer: Peer, error: Exception) -> bool:
        told = (peer.state, type(error), peer.flaps)
        if told == peer.told:
            return False
        peer.told = told
        return True
