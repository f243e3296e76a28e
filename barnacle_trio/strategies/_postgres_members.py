"""Who has been heard of on a channel, and when to tell of oneself: no clock, no database."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Literal, TypeAlias

from barnacle_trio._names import NodeName

JITTER = 0.1
"""Heartbeats stray by this share of the interval, so that nodes started together drift apart."""
ANSWER_WITHIN = 0.2
"""Seconds within which a newcomer is told of a node that knows nobody else..."""
ANSWER_WITHIN_PER_NODE = 0.02
"""...and what each node that it knows adds: all together they say some 100 names a second."""
LEAST_GAP = 0.25
"""Seconds between two heartbeats, however many newcomers there are."""

Heard: TypeAlias = Literal["new", "known", "own", "unwanted", "too many", "junk"]
"""What a heartbeat amounts to."""


class Members:
    """The nodes whose heartbeats were heard lately.

    A name is kept for ``expire_after`` seconds of hearing: `expire` is to be called when it is
    certain that whatever was said until then has been heard, and not while nothing can be.

    Args:
      own: the local node's name, which is never a member.
      wanted: which names may be members; the others are passed over.
      expire_after: seconds without a heartbeat after which a name is dropped.
      at_most: how many names are kept; one that is expired or said goodbye makes room.
    """

    def __init__(
        self,
        own: NodeName,
        *,
        wanted: Callable[[NodeName], bool],
        expire_after: float,
        at_most: int,
    ) -> None:
        self._own = own
        self._wanted = wanted
        self._expire_after = expire_after
        self._at_most = at_most
        self._heard_at: dict[NodeName, float] = {}  # the longest silent first
        self._turned_away_at = -inf
        self.junk = 0
        """How many heartbeats named no node."""

    @property
    def names(self) -> frozenset[NodeName]:
        """All of them."""
        return frozenset(self._heard_at)

    def __len__(self) -> int:
        return len(self._heard_at)

    def overfull(self, now: float) -> bool:
        """Whether there are more nodes than fit, going by the last while."""
        return now - self._turned_away_at < self._expire_after

    def hear(self, payload: bytes, now: float) -> Heard:
        """Take one heartbeat."""
        name = parse(payload)
        if name is None:
            self.junk += 1
            return "junk"
        if name == self._own:
            return "own"
        if self._heard_at.pop(name, None) is not None:
            self._heard_at[name] = now
            return "known"
        if not self._wanted(name):
            return "unwanted"
        if len(self._heard_at) >= self._at_most:
            self._turned_away_at = now
            return "too many"
        self._heard_at[name] = now
        return "new"

    def part(self, payload: bytes) -> bool:
        """Take one goodbye; whether it was a member's."""
        name = parse(payload)
        return name is not None and self._heard_at.pop(name, None) is not None

    def expire(self, now: float) -> bool:
        """Drop who has been silent for too long; whether anybody was."""
        gone: list[NodeName] = []
        for name, heard_at in self._heard_at.items():
            if now - heard_at < self._expire_after:
                break
            gone.append(name)
        for name in gone:
            del self._heard_at[name]
        return bool(gone)

    def resume(self, now: float) -> None:
        """Begin to hear again after an outage, which is nobody's fault: all are as if heard now."""
        self._heard_at = dict.fromkeys(self._heard_at, now)


def parse(payload: bytes) -> NodeName | None:
    """The node that a payload names; None if it names none."""
    try:
        return NodeName(payload.decode("ascii"))
    except ValueError:
        return None


class Pace:
    """When to tell of oneself: at once, then at an interval, and sooner where somebody is new.

    Args:
      interval: seconds.
      rng: a random number from 0 to 1.
    """

    def __init__(self, interval: float, *, rng: Callable[[], float]) -> None:
        self._interval = interval
        self._rng = rng
        self._told_at = -inf
        self._stopped = False
        self.due = -inf
        """When to tell next."""

    def start(self) -> None:
        """Tell at once, to whoever has just become able to hear."""
        if not self._stopped:
            self.due = -inf

    def told(self, now: float) -> None:
        """It was told."""
        self._told_at = now
        self.due = now + self._interval * (1 + JITTER * (2 * self._rng() - 1))

    def met(self, now: float, known: int) -> None:
        """Somebody is new, and one of ``known``: tell soon, the later the more there are."""
        within = min(self._interval, ANSWER_WITHIN + ANSWER_WITHIN_PER_NODE * known)
        soon = max(now + within * self._rng(), self._told_at + LEAST_GAP)
        if not self._stopped:
            self.due = min(self.due, soon)

    def stop(self) -> None:
        """Tell no more, whatever comes."""
        self._stopped = True
        self.due = inf
