"""What must hold after an episode, and what must not have grown in the end."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import trio
from trio.testing import wait_all_tasks_blocked

from barnacle_trio._events import Missed, NodeDown, NodeUp, ShutDown
from barnacle_trio._names import NodeName
from barnacle_trio.etf import _leaves
from tests.scale import resident
from tests.soak.cluster import Cluster
from tests.soak.faults import Done

MEMORY = 16 << 20
"""Bytes by which a process may differ between two moments at which it holds the same."""
OBJECTS = 1.05
"""The share by which the number of Python objects may."""


def check(cluster: Cluster, done: Done) -> Counter[str]:
    """Hold what everybody was told against what was done. Gives how many ups and downs there were.

    Raises:
      AssertionError: what the head of `tests.soak.__main__` says does not hold.
    """
    told: Counter[str] = Counter()
    for name, member in cluster.members.items():
        downs: Counter[NodeName] = Counter()
        ups: Counter[NodeName] = Counter()
        for event in member.recorder.events:
            assert not isinstance(event, Missed)
            if isinstance(event, NodeUp):
                assert event.node not in member.up, f"{name}: {event.node} came twice"
                member.up.add(event.node)
                ups[event.node] += 1
            elif isinstance(event, NodeDown):
                assert event.node in member.up, f"{name}: {event.node} went twice"
                member.up.remove(event.node)
                downs[event.node] += 1
                assert done.explains(name, event.node), f"{name}: {event} for no reason: {done}"
            elif isinstance(event, ShutDown):
                member.up.clear()
        member.recorder.clear()
        assert member.up == set(cluster.names) - {name}
        told += Counter(up=ups.total(), down=downs.total())
        if name in done.restarted:
            continue
        for peer in done.restarted:
            if frozenset((name, peer)) not in done.cut:
                assert (downs[peer], ups[peer]) == (1, 1), f"{name}, {peer}: {downs}, {ups}, {done}"
    return told


@dataclass(frozen=True)
class Sample:
    """What a process holds: Trio's tasks, wires or file descriptors, Python's objects, bytes."""

    tasks: int
    ends: int
    objects: int
    memory: int

    @classmethod
    def take(cls, ends: int) -> Sample:
        """Now."""
        # Bounded, and filled by every incarnation: what is known by heart is no growth.
        _leaves.pids.clear()
        _leaves.atom_values.clear()
        memory = resident()  # collects garbage first
        tasks = trio.lowlevel.current_statistics().tasks_living
        objects = sum(type(each) is not cls for each in gc.get_objects())
        return cls(tasks, ends, objects, memory)


def check_flat(samples: Sequence[Sample]) -> None:
    """Hold what was there after the first quarter against all that came later.

    Trio forgets a thousand scopes at a time whose deadlines were never reached: so it is the most
    objects of the second quarter that are not to be exceeded.
    """
    first, *later = samples[len(samples) // 4 :]
    most = max(each.objects for each in samples[len(samples) // 4 : len(samples) // 2 + 1])
    for each in later:
        grown = f"{each} after {first}"
        assert (each.tasks, each.ends) == (first.tasks, first.ends), grown
        assert each.objects <= most * OBJECTS, grown
        assert each.memory <= first.memory + MEMORY, grown


async def sample(cluster: Cluster) -> Sample:
    """What is held while nothing happens."""
    await wait_all_tasks_blocked()
    return Sample.take(cluster.wires)
