"""A cluster in memory whose nodes can be started, stopped and cut off."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from unittest.mock import patch

import trio

from barnacle_trio._barnacle import Barnacle
from barnacle_trio._names import NodeName
from barnacle_trio._running import open_barnacle
from barnacle_trio.distribution import _detector
from barnacle_trio.distribution._detector import Patience
from barnacle_trio.testing import EventRecorder, MemoryNetwork, ScriptedStrategy


@contextmanager
def patient(pace: float) -> Iterator[None]:
    """Nodes that look at their connections, tick and probe that many times less often."""
    with (
        patch.object(_detector, "TICK_AFTER", _detector.TICK_AFTER * pace),
        patch.object(_detector, "PROBE_AFTER", _detector.PROBE_AFTER * pace),
        patch.object(Patience, "interval", property(lambda _self: 0.5 * pace)),
    ):
        yield


class Member:
    """A node with a barnacle, and those that come after it under the same name."""

    def __init__(self, name: NodeName, names: Sequence[NodeName]) -> None:
        self.name = name
        self.strategy = ScriptedStrategy(names)
        self.recorder = EventRecorder(20_000)
        self.barnacle: Barnacle | None = None
        self.up: set[NodeName] = set()
        self._stop = trio.Event()
        self._ended = trio.Event()

    async def live(
        self, network: MemoryNetwork, pace: float, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """One life, until `end`."""
        self._stop, self._ended = trio.Event(), trio.Event()
        try:
            async with (
                network.open_node(
                    self.name, net_ticktime=60 * pace, failure_timeout=10 * pace
                ) as node,
                open_barnacle(
                    self.strategy, node, poll_interval=5 * pace, listener=self.recorder.send
                ) as self.barnacle,
            ):
                task_status.started()
                await self._stop.wait()
        finally:
            self.barnacle = None
            self._ended.set()

    async def end(self) -> None:
        """Leave, with a goodbye to whom it reaches."""
        self._stop.set()
        await self._ended.wait()


class Cluster:
    """Members in one network in memory, and what can be done to them.

    Args:
      size: how many.
      pace: see `patient`.
      nursery: where they live.
    """

    def __init__(self, size: int, pace: float, nursery: trio.Nursery) -> None:
        self.pace = pace
        self.network = MemoryNetwork()
        self.names = [NodeName(f"n{number}@soak") for number in range(size)]
        self.members = {name: Member(name, self.names) for name in self.names}
        self._nursery = nursery
        self._cuts: Counter[frozenset[NodeName]] = Counter()

    async def start(self, name: NodeName) -> None:
        """Have a member live."""
        await self._nursery.start(self.members[name].live, self.network, self.pace)

    def cut(self, pairs: Iterable[frozenset[NodeName]]) -> None:
        """Cut pairs apart; one that is cut twice is to be joined twice."""
        for pair in pairs:
            self._cuts[pair] += 1
            if self._cuts[pair] == 1:
                self.network.cut(*pair)

    def join(self, pairs: Iterable[frozenset[NodeName]]) -> None:
        """Undo `cut`."""
        for pair in pairs:
            self._cuts[pair] -= 1
            if not self._cuts[pair]:
                del self._cuts[pair]
                self.network.heal(*pair)

    async def mesh(self, within: float) -> None:
        """Wait until everybody is connected with everybody else."""
        with trio.move_on_after(within) as scope:
            for name in self.names:
                barnacle = self.members[name].barnacle
                assert barnacle is not None
                await barnacle.nodes.wait_value(frozenset(self.names) - {name})
        if scope.cancelled_caught:
            lacking = {
                name: sorted(set(self.names) - {name} - member.barnacle.nodes.value)
                for name, member in self.members.items()
                if member.barnacle is not None
            }
            missing = {name: peers for name, peers in lacking.items() if peers}
            raise AssertionError(f"no mesh {within:g} s after the last fault, missing: {missing}")

    async def stop(self) -> None:
        """End all members."""
        for member in self.members.values():
            await member.end()
            member.recorder.close()

    @property
    def wires(self) -> int:
        """How many wires, two for each connection, the network holds."""
        return sum(map(len, self.network._wires.values()))


@asynccontextmanager
async def open_cluster(size: int, pace: float) -> AsyncIterator[Cluster]:
    """A cluster whose members have met."""
    async with trio.open_nursery() as nursery:
        cluster = Cluster(size, pace, nursery)
        for name in cluster.names:
            await cluster.start(name)
        await cluster.mesh(30 + 5 * pace)
        yield cluster
        await cluster.stop()
