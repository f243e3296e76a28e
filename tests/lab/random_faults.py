"""Whatever may go wrong, at random, many things at once; a seed says which."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable

import trio

from tests.lab.checker import Fault
from tests.lab.cluster import Cluster, erlangs, open_cluster
from tests.lab.scenario import Result, finish, hosts, options, pairs, scenario


class Nemesis:
    """Does one thing after another to a cluster, and notes what."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self._cluster = cluster
        self._chance = chance
        self.faults: list[Fault] = []
        self._busy: set[str] = set()  # hosts whose process something is done to

    async def rage(self, seconds: float, *, at_once: int = 2) -> None:
        """Go on for so long; afterwards all is well again."""
        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(self._rage, self._cluster.history.now + seconds)
        self._cluster.lan.heal()

    async def _rage(self, until: float) -> None:
        kinds: list[Callable[[], Awaitable[None]]] = [
            self._partition,
            self._ring,
            self._pair,
            self._one_way,
            self._restart,
            self._freeze,
            self._sockets,
            self._lose,
        ]
        while self._cluster.history.now < until:
            await self._chance.choice(kinds)()
            await trio.sleep(self._chance.uniform(0, 3))

    def _hosts(self) -> list[str]:
        names = list(self._cluster.members)
        self._chance.shuffle(names)
        return names

    async def _partition(self) -> None:
        names = self._hosts()
        cut = self._chance.randrange(1, len(names))
        one, other = names[:cut], names[cut:]
        fault = self._cluster.lan.partition(one, other)
        await self._last(fault, f"partition {one} {other}", one, other)

    async def _ring(self) -> None:
        """Each sees its two neighbours and nobody else."""
        names = self._hosts()
        ring = {frozenset(pair) for pair in zip(names, [*names[1:], names[0]], strict=True)}
        apart = [p for p in itertools.permutations(names, 2) if frozenset(p) not in ring]
        fault = self._cluster.lan.cut(*apart)
        between = frozenset(frozenset(self._cluster.names(*pair)) for pair in apart)
        await self._last_between(fault, f"ring {names}", between)

    async def _pair(self) -> None:
        one, other, *_ = self._hosts()
        fault = self._cluster.lan.partition([one], [other])
        await self._last(fault, f"partition {one} {other}", [one], [other])

    async def _one_way(self) -> None:
        one, *others = self._hosts()
        fault = self._cluster.lan.cut(*((other, one) for other in others))
        await self._last(fault, f"nothing reaches {one}", [one], others)

    async def _lose(self) -> None:
        one, *others = self._hosts()
        fault = self._cluster.lan.lose(30, one)
        await self._last(fault, f"{one} hears two of three packets", [one], others)

    async def _last(self, fault: str, what: str, one: list[str], other: list[str]) -> None:
        between = pairs(self._cluster.names(*one), self._cluster.names(*other))
        await self._last_between(fault, what, between)

    async def _last_between(
        self, fault: str, what: str, between: frozenset[frozenset[str]]
    ) -> None:
        begin = self._cluster.history.tell("fault", reason=what).at
        await trio.sleep(self._chance.uniform(0.5, 18))
        self._cluster.lan.heal(fault)
        end = self._cluster.history.tell("heal", reason=what).at
        self.faults.append(Fault(begin, end, between))

    async def _sockets(self) -> None:
        one, other, *_ = self._hosts()
        begin = self._cluster.history.tell("fault", reason=f"sockets of {one} and {other}").at
        self._cluster.lan[one].kill_sockets(self._cluster.lan[other])
        between = pairs(self._cluster.names(one), self._cluster.names(other))
        self.faults.append(Fault(begin, begin, between))

    async def _restart(self) -> None:
        await self._do_to_one(self._kill_and_start)

    async def _freeze(self) -> None:
        await self._do_to_one(self._freeze_and_thaw)

    async def _do_to_one(self, what: Callable[[str], Awaitable[None]]) -> None:
        free = [each for each in self._hosts() if each not in self._busy]
        if not free:
            return
        host = free[0]
        self._busy.add(host)
        begin = self._cluster.history.now
        try:
            await what(host)
        finally:
            self._busy.discard(host)
        whole = frozenset(self._cluster.names(host))
        self.faults.append(Fault(begin, self._cluster.history.now, whole=whole))

    async def _kill_and_start(self, host: str) -> None:
        await self._cluster.kill(host)
        await trio.sleep(self._chance.uniform(0, 6))
        await self._cluster.start(host)

    async def _freeze_and_thaw(self, host: str) -> None:
        self._cluster.freeze(host)
        await trio.sleep(self._chance.uniform(0.5, 18))
        self._cluster.thaw(host)


@scenario
async def at_random(
    seed: int = 0, *, seconds: float = 40, nodes: int = 4, at_once: int = 2, mixed: int = 0
) -> Result:
    """Faults at random, and then a full mesh; nothing falls for which nothing was done."""
    result = Result("at_random", seed)
    kinds = hosts(nodes)
    if mixed:
        kinds |= {f"erl{each.version}": each for each in erlangs()}
    async with open_cluster(kinds, black_holes=2, **options()) as cluster:
        await cluster.start()
        await cluster.mesh(30)
        nemesis = Nemesis(cluster, random.Random(seed))
        await nemesis.rage(seconds, at_once=at_once)
        end = cluster.history.now
        # A node that was unheard for long may still have to find out that it is.
        result.note("full mesh afterwards, s", max(0.0, await cluster.mesh(60) - end), 15.0)
        result.note("faults", float(len(nemesis.faults)), float("inf"))
        return finish(result, cluster, nemesis.faults)
