"""What must not pass a large message that is under way.

Erlang promises that signals from one process to another arrive in the order in which they were
sent. A message in fragments is under way for a while: what its sender says meanwhile to its
receiver waits in its lane, and everything else goes on ("Processes", section "Signals", of OTP's
reference manual).
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TypeAlias

from barnacle_trio.distribution._fragments import Transfer
from barnacle_trio.etf import Atom, Pid, Reference

Party: TypeAlias = Pid | Atom | Reference | None
"""A sender or a receiver: a process by its pid, its name or an alias. None may be anyone."""
Parties: TypeAlias = tuple[Party, Party]
"""The sender and the receiver of a signal."""
Item: TypeAlias = bytes | Transfer
"""A frame, or a large message."""

MAX_PAIRS = 64
"""Pairs of sender and receiver in a lane; one with more holds whatever comes."""
MAX_UNDER_WAY = 4
"""Large messages that go at once; others wait in some lane.

No more than a node of ours takes at once, each being the largest that it takes.
"""


class Lanes:
    """The large messages under way, and what waits for each."""

    def __init__(self) -> None:
        self._lanes: list[_Lane] = []
        self._under_way: dict[Transfer, _Lane] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    def holds(self, parties: Parties) -> bool:
        """Whether a signal between these would have to wait."""
        return any(lane.concerns(parties) for lane in self._lanes)

    def take(self, parties: Parties, item: Item) -> bool:
        """Keep what has to wait. True: it does, and `finish` gives it; False: it may go now.

        A `Transfer` that may go opens a lane of its own.
        """
        concerned = [lane for lane in self._lanes if lane.concerns(parties)]
        if not concerned:
            if not isinstance(item, Transfer):
                return False
            if len(self._under_way) < MAX_UNDER_WAY:
                lane = self._under_way[item] = _Lane(item, parties)
                self._lanes.append(lane)
                return False
            concerned = [min(self._lanes, key=len)]
        first, *others = concerned
        for other in others:  # it waits for all of them: from here on they are one
            self._lanes.remove(other)
            first.join(other)
            self._under_way.update(dict.fromkeys(other.under_way, first))
        first.append(parties, item)
        return True

    def finish(self, transfer: Transfer) -> list[Item]:
        """What may go now that a large message has left. A `Transfer` among it is the last."""
        lane = self._under_way.pop(transfer)
        freed = lane.finish(transfer)
        if not lane.under_way:
            self._lanes.remove(lane)
        elif freed:
            self._under_way.update(dict.fromkeys(lane.under_way, lane))
        return freed


class _Lane:
    """Large messages that have begun, and in order what waits until all of them are through.

    ``len()`` is how much waits.
    """

    __slots__ = ("_pairs", "_waiting", "under_way")

    def __init__(self, transfer: Transfer, parties: Parties) -> None:
        self.under_way = {transfer: parties}
        self._pairs = Counter((parties,))  # of all that is under way or waits
        self._waiting: deque[tuple[Parties, Item]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def concerns(self, parties: Parties) -> bool:
        pairs = self._pairs
        if parties in pairs or len(pairs) > MAX_PAIRS:
            return True
        sender, receiver = parties
        return any(_may_be(sender, one) and _may_be(receiver, other) for one, other in pairs)

    def append(self, parties: Parties, item: Item) -> None:
        self._pairs[parties] += 1
        self._waiting.append((parties, item))

    def join(self, other: _Lane) -> None:
        self.under_way |= other.under_way
        self._pairs += other._pairs
        self._waiting += other._waiting

    def finish(self, transfer: Transfer) -> list[Item]:
        self._let_go(self.under_way.pop(transfer))
        freed: list[Item] = []
        while self._waiting and not self.under_way:
            parties, item = self._waiting.popleft()
            freed.append(item)
            if isinstance(item, Transfer):
                self.under_way[item] = parties
            else:
                self._let_go(parties)
        return freed

    def _let_go(self, parties: Parties) -> None:
        """Hold no longer who has nothing here any more, or a lane with much to do would fill up."""
        self._pairs[parties] -= 1
        if not self._pairs[parties]:
            del self._pairs[parties]


def _may_be(one: Party, other: Party) -> bool:
    """Whether two may be the same process. A name or an alias may be of any pid."""
    return one == other or not (type(one) is type(other) and type(one) in (Pid, Atom))
