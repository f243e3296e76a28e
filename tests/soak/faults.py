"""What is done to a cluster: one to three faults at once, then all is mended."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio
from trio.testing import MockClock

from barnacle_trio._errors import DiscoveryError
from barnacle_trio._names import NodeName
from barnacle_trio.testing import HANG
from barnacle_trio.testing._scripted import Answer
from tests.soak.cluster import Cluster, Member


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
