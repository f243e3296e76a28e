"""What must be true of every history, whatever was done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.lab.history import Happened


@dataclass(frozen=True)
class Fault:
    """What was done, from when to when, to whom: pairs of node names that it came between.

    A node that was killed, frozen or restarted comes between itself and everybody: ``whole``.
    """

    begin: float
    end: float
    pairs: frozenset[frozenset[str]] = frozenset()
    whole: frozenset[str] = frozenset()

    def concerns(self, one: str, other: str) -> bool:
        """Whether it came between two nodes."""
        return bool({one, other} & self.whole) or frozenset((one, other)) in self.pairs


def check(
    events: Iterable[Happened], faults: Iterable[Fault] = (), *, settle: float = 15.0
) -> list[str]:
    """What is wrong with a history: a line for each breach, none if all is well.

    Args:
      events: all that happened.
      faults: what was done.
      settle: seconds after the end of a fault for which it still accounts for downs.
    """
    events, faults = list(events), list(faults)
    return [*_alternation(events), *_unexplained(events, faults, settle)]


def _alternation(events: list[Happened]) -> Iterable[str]:
    """Up, down, up, down: nobody goes who was not there, or comes who is."""
    there: dict[str, set[str]] = defaultdict(set)
    for event in events:
        if event.what in ("start", "end"):
            there[event.node].clear()
        elif event.what == "up":
            if event.peer in there[event.node]:
                yield f"came twice: {event}"
            there[event.node].add(event.peer)
        elif event.what == "down":
            if event.peer not in there[event.node]:
                yield f"went without having come: {event}"
            there[event.node].discard(event.peer)
        if event.peer and event.peer == event.node:
            yield f"a node met itself: {event}"


def _unexplained(events: list[Happened], faults: list[Fault], settle: float) -> Iterable[str]:
    """No connection falls for which nothing was done."""
    for event in events:
        if event.what == "down" and not any(
            fault.begin <= event.at <= fault.end + settle and fault.concerns(event.node, event.peer)
            for fault in faults
        ):
            yield f"fell for no reason: {event}"


def counts(
    events: Iterable[Happened], what: str, *, since: float = 0.0, until: float = float("inf")
) -> Mapping[tuple[str, str], int]:
    """How often something was told, by (observer, peer)."""
    found: dict[tuple[str, str], int] = defaultdict(int)
    for event in events:
        if event.what == what and since <= event.at <= until:
            found[event.node, event.peer] += 1
    return found
