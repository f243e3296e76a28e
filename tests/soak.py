"""Weeks of a cluster under faults at random, in virtual time; and many lives of single nodes.

    python -m tests.soak --seed 7 --days 14     # 20 nodes in memory; takes some minutes
    python -m tests.soak --cycles 1000          # starts and stops, cuts and heals

The same seed gives the same faults. A run goes in episodes: one to three faults at once
(partitions, pairs cut, nodes cut off from all, restarts with and without a goodbye, the whole
process standing still, strategies that fail, hang, tell half of it or crash), then all is mended.
After each episode

- everybody is connected with everybody again, in bounded time;
- ups and downs alternated, and no down came between two nodes that nothing was done to;
- each peer that was in no other trouble saw one down and one up for each restart;
- tasks and wires are as many as they were in the beginning.

In the end objects and memory are what they were after the first quarter. ``--pace`` makes the nodes
that many times more patient (ticks, probes, time-outs, rounds): what a day then costs is its
faults, and not the ticks between them.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio._barnacle import Barnacle
from barnacle_trio._errors import DiscoveryError
from barnacle_trio._events import Missed, NodeDown, NodeUp, ShutDown
from barnacle_trio._names import NodeName
from barnacle_trio._running import open_barnacle
from barnacle_trio.distribution import _detector, open_node
from barnacle_trio.distribution._detector import Patience
from barnacle_trio.epmd import names
from barnacle_trio.testing import HANG, EventRecorder, MemoryNetwork, ScriptedStrategy
from barnacle_trio.testing._scripted import Answer
from tests.beam import COOKIE
from tests.conftest import free_port
from tests.scale import descriptors, resident

DAY = 86_400.0
MEMORY = 16 << 20
"""Bytes by which a process may differ between two moments at which it holds the same."""
OBJECTS = 1.05
"""The share by which the number of Python objects may."""


@contextmanager
def patient(pace: float) -> Iterator[None]:
    """Nodes that look at their connections, tick and probe that many times less often."""
    with (
        patch.object(_detector, "TICK_AFTER", _detector.TICK_AFTER * pace),
        patch.object(_detector, "PROBE_AFTER", _detector.PROBE_AFTER * pace),
        patch.object(Patience, "interval", property(lambda _self: 0.5 * pace)),
    ):
        yield


# -- a cluster -----------------------------------------------------------------------------------


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


# -- faults --------------------------------------------------------------------------------------


@dataclass
class Done:
    """What was done in one episode."""

    kinds: list[str] = field(default_factory=list)
    cut: set[frozenset[NodeName]] = field(default_factory=set)
    restarted: set[NodeName] = field(default_factory=set)

    def explains(self, one: NodeName, other: NodeName) -> bool:
        """Whether a down between two nodes has a reason."""
        return bool({one, other} & self.restarted) or frozenset((one, other)) in self.cut


class Nemesis:
    """Does what the seed says; each fault has a chance of its own, whatever their order."""

    def __init__(self, cluster: Cluster, chance: random.Random, clock: MockClock) -> None:
        self._cluster = cluster
        self._chance = chance
        self._clock = clock
        self._done = Done()

    async def episode(self) -> Done:
        """One to three faults at once, all of them mended at the end."""
        self._done = Done()
        kinds: list[Callable[[random.Random], Awaitable[None]]] = [
            self._partition,
            self._pair,
            self._alone,
            self._restart,
            self._vanish,
            self._stand_still,
            self._strategies,
        ]
        async with trio.open_nursery() as nursery:
            for kind in self._chance.choices(kinds, k=self._chance.choice((1, 1, 2, 3))):
                self._done.kinds.append(kind.__name__.strip("_"))
                nursery.start_soon(kind, random.Random(self._chance.random()))
        return self._done

    async def _sleep(self, seconds: float) -> None:
        """Some time, as the pace has it."""
        await trio.sleep(seconds * self._cluster.pace)

    def _some(self, chance: random.Random) -> list[NodeName]:
        return chance.sample(self._cluster.names, len(self._cluster.names))

    async def _cut(self, pairs: set[frozenset[NodeName]], chance: random.Random) -> None:
        self._done.cut |= pairs
        self._cluster.cut(pairs)
        await self._sleep(chance.uniform(0.1, 25))  # some are noticed, some are not
        self._cluster.join(pairs)

    async def _partition(self, chance: random.Random) -> None:
        names = self._some(chance)
        middle = chance.randrange(1, len(names))
        await self._cut({frozenset((a, b)) for a in names[:middle] for b in names[middle:]}, chance)

    async def _pair(self, chance: random.Random) -> None:
        await self._cut({frozenset(self._some(chance)[:2])}, chance)

    async def _alone(self, chance: random.Random) -> None:
        await self._cut(self._with_all(self._some(chance)[0]), chance)

    def _with_all(self, name: NodeName) -> set[frozenset[NodeName]]:
        return {frozenset((name, other)) for other in self._cluster.names if other != name}

    async def _restart(self, chance: random.Random) -> None:
        """It says goodbye, and comes back."""
        member = self._free(chance)
        await member.end()
        await self._sleep(chance.uniform(0, 3))
        await self._cluster.start(member.name)

    async def _vanish(self, chance: random.Random) -> None:
        """Nothing more is heard of it, until it comes back as another incarnation."""
        member = self._free(chance)
        pairs = self._with_all(member.name)
        self._cluster.cut(pairs)
        await member.end()
        await self._sleep(chance.uniform(0, 25))
        self._cluster.join(pairs)
        await self._cluster.start(member.name)

    def _free(self, chance: random.Random) -> Member:
        """A member that is not restarted yet in this episode."""
        name = next(each for each in self._some(chance) if each not in self._done.restarted)
        self._done.restarted.add(name)
        return self._cluster.members[name]

    async def _stand_still(self, chance: random.Random) -> None:
        """The process that holds them all is stopped, and goes on."""
        for _ in range(chance.randrange(1, 4)):
            await self._sleep(chance.uniform(0.1, 5))
            self._clock.jump(chance.uniform(1, 60) * self._cluster.pace)

    async def _strategies(self, chance: random.Random) -> None:
        """Discovery fails at half of the nodes, or tells half of it, or hangs, or crashes."""
        names = self._some(chance)
        members = [self._cluster.members[name] for name in names[: len(names) // 2]]
        half = self._cluster.names[::2]
        troubles: list[Answer] = [OSError("away"), HANG, KeyError("a bug")]
        troubles.append(DiscoveryError("half", partial=half))
        for member in members:
            member.strategy.answer = chance.choice(troubles)
        await self._sleep(chance.uniform(1, 40))
        for member in members:
            member.strategy.answer = self._cluster.names


# -- the judge -----------------------------------------------------------------------------------


def check(cluster: Cluster, done: Done) -> Counter[str]:
    """Hold what everybody was told against what was done. Gives how many ups and downs there were.

    Raises:
      AssertionError: what the head of this module says does not hold.
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
        memory = resident()  # collects garbage first
        tasks = trio.lowlevel.current_statistics().tasks_living
        return cls(tasks, ends, len(gc.get_objects()), memory)


def check_flat(samples: Sequence[Sample]) -> None:
    """Hold what was there after the first quarter against all that came later."""
    first, *later = samples[len(samples) // 4 :]
    for each in later:
        assert (each.tasks, each.ends) == (first.tasks, first.ends)
        assert each.objects <= first.objects * OBJECTS
        assert each.memory <= first.memory + MEMORY


async def sample(cluster: Cluster) -> Sample:
    """What is held while nothing happens."""
    await wait_all_tasks_blocked()
    return Sample.take(cluster.wires)


@dataclass
class Story:
    """What a run amounted to."""

    days: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    samples: list[Sample] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.days:.2f} days, {len(self.samples) - 1} episodes, {self.told['up']} ups, "
            f"{self.told['down']} downs, slowest mesh {self.slowest:.1f} s; {dict(self.faults)}; "
            f"first {self.samples[0]}, last {self.samples[-1]}"
        )


def soak(
    seed: int,
    *,
    days: float,
    size: int = 20,
    pace: float = 60.0,
    tell: Callable[[Story], None] = lambda _story: None,
) -> Story:
    """Run it.

    Raises:
      AssertionError: something did not hold; the message says what, the seed repeats it.
    """
    clock = MockClock(autojump_threshold=0)
    with patient(pace):
        return trio.run(_soak, seed, days, size, pace, clock, tell, clock=clock)


async def _soak(
    seed: int,
    days: float,
    size: int,
    pace: float,
    clock: MockClock,
    tell: Callable[[Story], None],
) -> Story:
    chance = random.Random(seed)
    random.seed(seed)  # the jitter of the nodes
    story = Story()
    async with open_cluster(size, pace) as cluster:
        nemesis = Nemesis(cluster, chance, clock)
        check(cluster, Done())
        story.samples.append(await sample(cluster))
        while trio.current_time() < days * DAY:
            done = await nemesis.episode()
            story.faults.update(done.kinds)
            mended = trio.current_time()
            await cluster.mesh(60 + 20 * pace)
            story.slowest = max(story.slowest, trio.current_time() - mended)
            await trio.sleep(chance.uniform(5, 60) * pace)  # nothing happens any more
            story.told += check(cluster, done)
            story.samples.append(await sample(cluster))
            story.days = trio.current_time() / DAY
            tell(story)
    check_flat(story.samples)
    return story


# -- one node, many times ------------------------------------------------------------------------


async def memory_starts(cycles: int) -> list[Sample]:
    """Nodes in memory that start, meet two others, and stop."""
    network = MemoryNetwork()
    samples: list[Sample] = []
    async with network.open_node("a@soak") as one, network.open_node("b@soak") as other:
        for _ in range(cycles):
            async with network.open_node("c@soak") as node:
                await node.connect(one.name)
                await other.connect(node.name)
            await one.nodes.wait_value(frozenset())
            await other.nodes.wait_value(frozenset())
            await wait_all_tasks_blocked()
            samples.append(
                Sample.take(len(network._accepts) + sum(map(len, network._wires.values())))
            )
    return samples


async def memory_cuts(cycles: int) -> list[Sample]:
    """Four nodes in memory, two of which are cut off from two, and join again."""
    samples: list[Sample] = []
    async with open_cluster(4, 1.0) as cluster:
        one, other = cluster.names[:2], cluster.names[2:]
        pairs = {frozenset((a, b)) for a in one for b in other}
        done = Done(cut=pairs)
        for _ in range(cycles):
            cluster.cut(pairs)
            for name, member in cluster.members.items():
                assert member.barnacle is not None
                mine = one if name in one else other
                await member.barnacle.nodes.wait_value(frozenset(mine) - {name})
            cluster.join(pairs)
            await cluster.mesh(30)
            await trio.sleep(31)  # for as long failures are remembered
            assert check(cluster, done)["down"] == 8
            samples.append(await sample(cluster))
    return samples


async def real_starts(cycles: int) -> list[Sample]:
    """Nodes on sockets, with a port mapper, that start, meet another and stop."""
    samples: list[Sample] = []
    async with open_node("soak_hub@127.0.0.1", cookie=COOKIE) as hub:
        for _ in range(cycles):
            async with open_node("soak_guest@127.0.0.1", cookie=COOKIE) as node:
                await node.connect(hub.name)
                assert await node.ping(hub.name)
            await hub.nodes.wait_value(frozenset())
            while set(await names("127.0.0.1")) != {"soak_hub"}:  # noqa: ASYNC110 - it is told here
                await trio.sleep(0.01)
            await _calm()
            samples.append(Sample.take(descriptors()))
    return samples


async def real_cuts(cycles: int) -> list[Sample]:
    """Two nodes on sockets, between which nothing gets through, and then all does.

    To be run where the whole loopback may be cut: in a network namespace of its own.
    """
    here = [NodeName("soak_a@127.0.0.1"), NodeName("soak_b@127.0.0.1")]
    samples: list[Sample] = []
    await _run("ip", "link", "set", "lo", "up")
    await _run("nft", "add table inet soak")
    await _run("nft", "add chain inet soak in { type filter hook input priority 0; }")
    async with AsyncExitStack() as stack:
        barnacles: list[Barnacle] = []
        for name in here:
            node = await stack.enter_async_context(
                open_node(name, cookie=COOKIE, failure_timeout=0.5)
            )
            opening = open_barnacle(ScriptedStrategy(here), node, poll_interval=0.5)
            barnacles.append(await stack.enter_async_context(opening))
        for _ in range(cycles):
            for barnacle in barnacles:
                await barnacle.wait_for_nodes(1)
            await _calm()
            samples.append(Sample.take(descriptors()))
            await _run("nft", "add rule inet soak in drop")
            for barnacle in barnacles:
                await barnacle.nodes.wait_value(frozenset())
            await _run("nft", "flush chain inet soak in")
    return samples


async def _calm() -> None:
    """Wait until what is over has ended; as real things do, that takes some moments."""
    before = -1
    while (now := trio.lowlevel.current_statistics().tasks_living + descriptors()) != before:
        before = now
        await trio.sleep(0.02)


async def _run(*command: str) -> None:
    await trio.run_process(command)


CYCLES = {
    "memory_starts": memory_starts,
    "memory_cuts": memory_cuts,
    "real_starts": real_starts,
    "real_cuts": real_cuts,
}


def cycle(kind: str, cycles: int) -> list[Sample]:
    """Run one of `CYCLES`, and check that it left nothing behind.

    Raises:
      AssertionError: it did.
    """
    clock = MockClock(autojump_threshold=0) if kind.startswith("memory") else None
    samples = trio.run(CYCLES[kind], cycles, clock=clock)
    check_flat(samples)
    return samples


# -- the command ---------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.soak", description="See the module's head.")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--days", type=float, default=14.0, help="of virtual time")
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--pace", type=float, default=60.0)
    parser.add_argument("--cycles", type=int, help="this instead, so many of each kind")
    parser.add_argument("--kind", choices=CYCLES, help="of cycles; all if none is named")
    options = parser.parse_args()
    logging.disable()  # every fault is told, by every node
    began = time.monotonic()
    if options.cycles is None:
        print(f"seed {options.seed}")
        print(soak(options.seed, days=options.days, size=options.nodes, pace=options.pace))
    elif options.kind is None:
        for kind in CYCLES:
            print(kind, *run_apart(kind, options.cycles).splitlines()[:1], flush=True)
    else:
        samples = cycle(options.kind, options.cycles)
        print(f"{len(samples)} cycles: {samples[len(samples) // 4]}, in the end {samples[-1]}")
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)


def run_apart(kind: str, cycles: int) -> str:
    """Run cycles in a process of their own, and where they cut, on a host of their own. Needs root.

    Raises:
      subprocess.CalledProcessError: they left something behind, or there is no such host.
    """
    command = [sys.executable, "-m", "tests.soak", "--kind", kind, "--cycles", str(cycles)]
    with patch.dict(os.environ, ERL_EPMD_PORT=str(free_port())):
        return subprocess.run(
            ["unshare", "--net", *command] if kind == "real_cuts" else command,
            cwd=Path(__file__).parent.parent,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout


if __name__ == "__main__":
    main()
