"""What must not pass a large message that is under way.

Erlang promises that signals from one process to another arrive in the order in which they were
sent. A message in fragments is under way for a while: what its sender says meanwhile to its
receiver waits in its lane, and everything else goes on ("Processes", section "Signals", of OTP's
reference manual).
"""

from __future__ import annotations

from collections import deque
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


class Lanes:
    """The large messages under way, and what waits for each."""

    def __init__(self) -> None:
        self._lanes: list[_Lane] = []

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
            if isinstance(item, Transfer):
                self._lanes.append(_Lane(item, parties))
            return False
        first, *others = concerned
        for other in others:  # it waits for all of them: from here on they are one
            self._lanes.remove(other)
            first.join(other)
        first.append(parties, item)
        return True

    def finish(self, transfer: Transfer) -> list[Item]:
        """What may go now that a large message has left. A `Transfer` among it is the last."""
        for lane in self._lanes:
            if transfer in lane.under_way:
                lane.under_way.remove(transfer)
                if lane.under_way:
                    return []
                freed = lane.release()
                if not lane.under_way:
                    self._lanes.remove(lane)
                return freed
        raise ValueError("no such message is under way")


class _Lane:
    """Large messages that have begun, and in order what waits until all of them are through."""

    __slots__ = ("_pairs", "_waiting", "under_way")

    def __init__(self, transfer: Transfer, parties: Parties) -> None:
        self.under_way = {transfer}
        self._pairs = {parties}
        self._waiting: deque[Item] = deque()

    def concerns(self, parties: Parties) -> bool:
        pairs = self._pairs
        return (
            parties in pairs
            or len(pairs) > MAX_PAIRS
            or any(_may_be(parties[0], a) and _may_be(parties[1], b) for a, b in pairs)
        )

    def append(self, parties: Parties, item: Item) -> None:
        if len(self._pairs) <= MAX_PAIRS:
            self._pairs.add(parties)
        self._waiting.append(item)

    def join(self, other: _Lane) -> None:
        self.under_way |= other.under_way
        self._pairs |= other._pairs
        self._waiting += other._waiting

    def release(self) -> list[Item]:
        freed: list[Item] = []
        while self._waiting and not self.under_way:
            item = self._waiting.popleft()
            freed.append(item)
            if isinstance(item, Transfer):
                self.under_way.add(item)
        return freed


def _may_be(one: Party, other: Party) -> bool:
    """Whether two may be the same process. A name or an alias may be of any pid."""
    return one == other or not (type(one) is type(other) and type(one) in (Pid, Atom))
