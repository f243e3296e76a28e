"""What every node said, and what was done to them, in one list."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import trio


@dataclass(frozen=True, slots=True)
class Happened:
    """One thing. ``at`` is seconds since the history began, on the clock that all processes share.

    ``what``: of nodes ``start``, ``up``, ``down``, ``end``; of the laboratory ``fault`` and
    ``heal``, with the fault in ``reason``.
    """

    at: float
    what: str
    node: str = ""
    peer: str = ""
    reason: str = ""

    def __str__(self) -> str:
        said = " ".join(filter(None, (self.node, self.what, self.peer, self.reason)))
        return f"{self.at:8.3f}  {said}"


@dataclass
class History:
    """All that happened, in order of being told."""

    began: float = field(default_factory=time.monotonic)
    events: list[Happened] = field(default_factory=list)
    _more: trio.Event = field(default_factory=trio.Event)

    def tell(
        self, what: str, node: str = "", peer: str = "", reason: str = "", at: float | None = None
    ) -> Happened:
        """Note something that happens now, or happened at a time of `time.monotonic`."""
        when = (time.monotonic() if at is None else at) - self.began
        event = Happened(when, what, node, peer, reason)
        self.events.append(event)
        self._more.set()
        self._more = trio.Event()
        return event

    @property
    def now(self) -> float:
        """Seconds since the history began."""
        return time.monotonic() - self.began

    async def until(self, condition: Callable[[], bool], within: float, what: str) -> float:
        """Wait until something holds that follows from the history; gives the time of that.

        Raises:
          AssertionError: it does not within so many seconds.
        """
        with trio.move_on_after(within) as scope:
            await trio.lowlevel.checkpoint()
            while not condition():
                await self._more.wait()
        if scope.cancelled_caught:
            raise AssertionError(f"not within {within} s: {what}\n{self}")
        # Processes are not heard in the order in which they spoke.
        return max((event.at for event in self.events), default=0.0)

    def seen_up(self, node: str) -> set[str]:
        """Whom a node has connected, as far as it told since it started last."""
        peers: set[str] = set()
        for event in self.events:
            if event.node != node:
                continue
            if event.what in ("start", "end"):
                peers.clear()
            elif event.what == "up":
                peers.add(event.peer)
            elif event.what == "down":
                peers.discard(event.peer)
        return peers

    def since(self, at: float, what: str = "") -> Iterator[Happened]:
        """What happened from a time on."""
        return (e for e in self.events if e.at >= at and (not what or e.what == what))

    def first(self, at: float, what: str, node: str, peer: str) -> Happened | None:
        """The first thing of a kind from a time on."""
        return next((e for e in self.since(at, what) if (e.node, e.peer) == (node, peer)), None)

    def __str__(self) -> str:
        return "\n".join(map(str, self.events))

    def as_dicts(self) -> list[dict[str, object]]:
        """For a file."""
        return [asdict(event) for event in self.events]
