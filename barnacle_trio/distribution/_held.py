"""What holds our processes and those of other nodes together, node by node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from barnacle_trio._errors import RemoteProtocolError
from barnacle_trio.etf import Pid, Reference

MAX_HELD = 100_000
"""Links, and monitors of theirs, that the processes of one node may have with ours."""

Tie: TypeAlias = tuple[Pid, Pid, Reference | None]
"""A process of ours and one of theirs: linked, or theirs monitors ours by that reference."""


class Held:
    """Links with other nodes' processes, and their monitors, by node.

    Bounded for each node, so that no peer makes us keep more, or uses up what others may have; and
    found at once when the connection to a node is lost.
    """

    def __init__(self) -> None:
        self._by_node: dict[str, dict[Tie, None]] = {}

    def check_room(self, node: str) -> None:
        """See whether a node may have one more.

        Raises:
          RemoteProtocolError: it may not.
        """
        if len(self._by_node.get(node, ())) >= MAX_HELD:
            raise RemoteProtocolError(f"{MAX_HELD} links and monitors are held there already")

    def add(self, ours: Pid, theirs: Pid, ref: Reference | None = None) -> None:
        """Note a link, or a monitor."""
        self._by_node.setdefault(theirs.node.name, {})[ours, theirs, ref] = None

    def discard(self, ours: Pid, theirs: Pid, ref: Reference | None = None) -> None:
        """Forget one that ended, if it was noted."""
        node = theirs.node.name
        ties = self._by_node.get(node)
        if ties is not None:
            ties.pop((ours, theirs, ref), None)
            if not ties:
                del self._by_node[node]

    def lose(self, node: str) -> Iterable[Tie]:
        """Forget all that were noted for a node; returns them, the oldest first."""
        return self._by_node.pop(node, {})
