"""What a scenario is: something is done to a cluster, and figures come of it."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.erlang import Erlang
from tests.lab.checker import Fault, check
from tests.lab.cluster import Cluster

POLL = 5.0
"""Seconds between polls, as in the figures that these are held against."""
MARGIN = 3.0
"""How much longer than the goal a thing may take in a test: this machine may have others' work."""


@dataclass
class Result:
    """What a scenario came to: figures by name, each with its goal, and the history."""

    scenario: str
    seed: int
    figures: dict[str, tuple[float, float]] = field(default_factory=dict)
    history: str = ""

    def note(self, what: str, value: float, goal: float) -> None:
        """A figure and the most that it should be."""
        self.figures[what] = (value, goal)

    def late(self, margin: float = MARGIN) -> list[str]:
        """What missed its goal by more than a margin."""
        return [
            f"{what}: {value:.2f}, the goal is {goal:.2f}"
            for what, (value, goal) in self.figures.items()
            if value > goal * margin
        ]


Scenario = Callable[..., Awaitable[Result]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    """Have ``python -m tests.lab`` know it."""
    SCENARIOS[getattr(function, "__name__", "")] = function
    return function


def hosts(count: int, kind: Erlang | None = None) -> dict[str, Erlang | None]:
    """Hosts ``a``, ``b``, ... of one kind."""
    return {chr(ord("a") + number): kind for number in range(count)}


def options(**more: Any) -> dict[str, Any]:
    """What the nodes of a cluster are told, see `open_cluster`."""
    return {"barnacle": {"poll_interval": POLL}, **more}


def finish(result: Result, cluster: Cluster, faults: Sequence[Fault]) -> Result:
    """Hold the history against what must always be true.

    Raises:
      AssertionError: something is wrong with it.
    """
    breaches = check(cluster.history.events, faults)
    if breaches:
        raise AssertionError("\n".join([*breaches, "", str(cluster.history)]))
    result.history = str(cluster.history)
    return result


def pairs(one: Sequence[str], other: Sequence[str]) -> frozenset[frozenset[str]]:
    """Each of one group with each of another."""
    return frozenset(frozenset(pair) for pair in itertools.product(one, other))


def share(values: Sequence[float], part: float) -> float:
    """The value that such a part of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
