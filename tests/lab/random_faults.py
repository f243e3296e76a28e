"""Whatever may go wrong, at random, many things at once; a seed says which."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack

import trio

from tests.lab.checker import Fault
from tests.lab.cluster import Cluster, erlangs, open_cluster
from tests.lab.name_server import KINDS, NameServer
from tests.lab.name_service import SERVER, open_named_cluster
from tests.lab.scenario import Result, finish, hosts, options, pairs, scenario

WITNESS = "a"
"""The one host whose process is never ended, so that it can be seen to hold no more and more."""
LONG = 600.0
"""Seconds from which on a run is one that memory is looked at in earnest."""


class Nemesis:
    """Does one thing after another to a cluster, and notes what."""

    def __init__(
        self, cluster: Cluster, chance: random.Random, server: NameServer | None = None
    ) -> None:
        self._cluster = cluster
        self._chance = chance
        self._server = server
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
            self._port_mapper,
        ]
        if self._server is not None:
            kinds.append(self._name_server)
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

    async def _name_server(self) -> None:
        """Nobody falls for that."""
        if SERVER in self._busy:
            return
        self._busy.add(SERVER)
        await self.fail_names(self._chance.choice(KINDS), self._chance.uniform(0.5, 18))
        self._busy.discard(SERVER)

    async def fail_names(self, kind: str, seconds: float) -> None:
        """Have the DNS server let them down in one way for so long."""
        assert self._server is not None
        self._cluster.history.tell("fault", reason=f"dns: {kind}")
        async with self._server.failing(kind):
            await trio.sleep(seconds)
        self._cluster.history.tell("heal", reason=f"dns: {kind}")

    async def _port_mapper(self) -> None:
        """A daemon's end; nobody falls for that. An embedded one ends with its node."""
        free = [each for each in self._hosts() if each not in self._busy]
        host = next((each for each in free if not self._cluster[each].is_python), None)
        if host is None:
            return
        self._busy.add(host)
        await self._cluster.kill_port_mapper(host)
        await trio.sleep(self._chance.uniform(0, 6))
        await self._cluster.start_port_mapper(host)
        self._busy.discard(host)

    async def _restart(self) -> None:
        await self._do_to_one(self._kill_and_start, spared=(WITNESS,))

    async def _freeze(self) -> None:
        await self._do_to_one(self._freeze_and_thaw)

    async def _do_to_one(
        self, what: Callable[[str], Awaitable[None]], spared: Collection[str] = ()
    ) -> None:
        free = [each for each in self._hosts() if each not in self._busy and each not in spared]
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
    seed: int = 0,
    *,
    seconds: float = 40,
    nodes: int = 4,
    at_once: int = 2,
    mixed: int = 0,
    dns: int = 0,
) -> Result:
    """Faults at random, and then a full mesh; nothing falls for which nothing was done.

    ``mixed``: BEAM nodes among them. ``dns``: a DNS server that fails, too, tells who there is.
    One lives through it all, and holds in the end what it did when all was warm.
    """
    result = Result("at_random", seed)
    kinds = hosts(nodes)
    if mixed:
        kinds |= {f"erl{each.version}": each for each in erlangs()}
    async with AsyncExitStack() as stack:
        server = None
        if dns:
            cluster, server = await stack.enter_async_context(
                open_named_cluster(kinds, **options())
            )
        else:
            cluster = await stack.enter_async_context(
                open_cluster(kinds, black_holes=2, **options())
            )
        await cluster.start()
        await cluster.mesh(30)
        nemesis = Nemesis(cluster, random.Random(seed), server)
        warm = min(60.0, seconds / 10)
        if server is not None and seconds >= LONG:
            await nemesis.fail_names("huge", 60)  # the most names that anybody will ever hold
        await nemesis.rage(warm, at_once=at_once)
        # A node that was unheard for long may still have to find out that it is.
        await cluster.mesh(60)
        before = await cluster.count(WITNESS)
        await nemesis.rage(seconds - warm, at_once=at_once)
        end = cluster.history.now
        result.note("full mesh afterwards, s", max(0.0, await cluster.mesh(60) - end), 15.0)
        after = await cluster.count(WITNESS)
        result.note("faults", float(len(nemesis.faults)), float("inf"))
        result.note("tasks more than before", after.tasks - before.tasks, 10)
        result.note("descriptors more than before", after.descriptors - before.descriptors, 10)
        result.note("MiB more than before", (after.memory - before.memory) / 2**20, 16)
        return finish(result, cluster, nemesis.faults)
