"""What is done to clusters, and what is measured. Each scenario checks its own history."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import trio

from tests.erlang import Erlang
from tests.lab.checker import Fault, check, counts
from tests.lab.cluster import Cluster, erlangs, open_cluster

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


def _options(**more: Any) -> dict[str, Any]:
    return {"barnacle": {"poll_interval": POLL}, **more}


def _finish(result: Result, cluster: Cluster, faults: Sequence[Fault]) -> Result:
    breaches = check(cluster.history.events, faults)
    if breaches:
        raise AssertionError("\n".join([*breaches, "", str(cluster.history)]))
    result.history = str(cluster.history)
    return result


def _pairs(one: Sequence[str], other: Sequence[str]) -> frozenset[frozenset[str]]:
    return frozenset(frozenset(pair) for pair in itertools.product(one, other))


def share(values: Sequence[float], part: float) -> float:
    """The value that such a part of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


@scenario
async def forming(seed: int = 0, *, nodes: int = 4, black_holes: int = 3) -> Result:
    """A cluster forms although black holes stand first in everybody's list."""
    result = Result("forming", seed)
    async with open_cluster(hosts(nodes), black_holes=black_holes, **_options()) as cluster:
        await cluster.start()
        begun = max(e.at for e in cluster.history.since(0, "start"))
        result.note("forming, s", await cluster.mesh(30) - begun, 1.5)
        return _finish(result, cluster, [])


@scenario
async def partition(
    seed: int = 0, *, heals: int = 2, black_holes: int = 3, nodes: int = 3
) -> Result:
    """A symmetric partition, over and over: noticed by both sides, and healed into a mesh."""
    result = Result("partition", seed)
    chance = random.Random(seed)
    faults: list[Fault] = []
    noticed, healed = [], []
    async with open_cluster(hosts(nodes), black_holes=black_holes, **_options()) as cluster:
        await cluster.start()
        await cluster.mesh(30)
        for _ in range(heals):
            await trio.sleep(chance.uniform(0, 2))
            names = list(cluster.members)
            chance.shuffle(names)
            cut = chance.randrange(1, len(names))
            one, other = names[:cut], names[cut:]
            begin = cluster.history.tell("fault", reason=f"partition {one} {other}").at
            fault = cluster.lan.partition(one, other)
            both = [*itertools.product(one, other), *itertools.product(other, one)]
            noticed.append(await cluster.seen_down(both, 60) - begin)
            await trio.sleep(chance.uniform(0, 2 * POLL))
            cluster.lan.heal(fault)
            end = cluster.history.tell("heal").at
            healed.append(await cluster.mesh(60) - end)
            between = _pairs(cluster.names(*one), cluster.names(*other))
            faults.append(Fault(begin, end, between))
        result.note("partition noticed by all, worst, s", max(noticed), 12)
        result.note("healed to a mesh, median, s", median(healed), 1.2)
        result.note("healed to a mesh, p95, s", share(healed, 0.95), 2.0)
        return _finish(result, cluster, faults)


@scenario
async def frozen(seed: int = 0, *, rounds: int = 1, kind: Erlang | None = None) -> Result:
    """A node stops where it stands, is noticed, and is back as soon as it goes on."""
    result = Result("frozen", seed)
    chance = random.Random(seed)
    faults: list[Fault] = []
    noticed, back = [], []
    async with open_cluster({**hosts(2), "c": kind}, **_options()) as cluster:
        await cluster.start()
        await cluster.mesh(30)
        for _ in range(rounds):
            await trio.sleep(chance.uniform(4, 6))  # each has answered a probe by then
            begin = cluster.history.now
            cluster.freeze("c")
            noticed.append(await cluster.seen_down([("a", "c"), ("b", "c")], 60) - begin)
            await trio.sleep(chance.uniform(0, POLL))
            end = cluster.history.now
            cluster.thaw("c")
            faults.append(Fault(begin, end, whole=frozenset(cluster.names("c"))))
            await cluster.seen_down([("c", "a"), ("c", "b")], 60)
            back.append(await cluster.mesh(60) - end)
        result.note("frozen peer noticed, worst, s", max(noticed), 12)
        result.note("mesh after it goes on, worst, s", max(back), 1)
        return _finish(result, cluster, faults)


@scenario
async def one_way(seed: int = 0) -> Result:
    """Packets pass in one direction only: both sides learn of it."""
    result = Result("one_way", seed)
    async with open_cluster(hosts(3), **_options()) as cluster:
        await cluster.start()
        await cluster.mesh(30)
        await trio.sleep(4)
        begin = cluster.history.tell("fault", reason="nothing reaches a").at
        fault = cluster.lan.cut(("b", "a"), ("c", "a"))
        pairs = [("a", "b"), ("a", "c"), ("b", "a"), ("c", "a")]
        result.note("noticed by both sides, s", await cluster.seen_down(pairs, 100) - begin, 20)
        cluster.lan.heal(fault)
        end = cluster.history.tell("heal").at
        result.note("healed to a mesh, s", await cluster.mesh(60) - end, 2.0)
        whole = frozenset(cluster.names("a"))
        return _finish(result, cluster, [Fault(begin, end, whole=whole)])


@scenario
async def one_pair(seed: int = 0, *, seconds: float = 25) -> Result:
    """Two nodes cannot see each other: nobody else's connection falls."""
    result = Result("one_pair", seed)
    async with open_cluster(hosts(4), **_options()) as cluster:
        await cluster.start()
        await cluster.mesh(30)
        begin = cluster.history.tell("fault", reason="partition a b").at
        fault = cluster.lan.partition(["a"], ["b"])
        await cluster.seen_down([("a", "b"), ("b", "a")], 60)
        await trio.sleep(max(0.0, begin + seconds - cluster.history.now))
        a_and_b = set(cluster.names("a", "b"))
        others = [e for e in cluster.history.since(begin, "down") if {e.node, e.peer} != a_and_b]
        result.note("downs on other connections", len(others), 0)
        cluster.lan.heal(fault)
        end = cluster.history.tell("heal").at
        result.note("healed to a mesh, s", await cluster.mesh(60) - end, 2.0)
        pair = _pairs(cluster.names("a"), cluster.names("b"))
        return _finish(result, cluster, [Fault(begin, end, pair)])


@scenario
async def lossy(
    seed: int = 0,
    *,
    seconds: float = 25,
    loss: float = 5,
    delay: float = 50,
    jitter: float = 40,
) -> Result:
    """A bad network, which loses, delays and reorders, is no reason to give anybody up."""
    result = Result("lossy", seed)
    wire = {"loss": loss, "delay": delay, "jitter": jitter}
    async with open_cluster(hosts(3), wire=wire, seed=seed, **_options()) as cluster:
        await cluster.start()
        formed = await cluster.mesh(60)
        await trio.sleep(seconds)
        downs = list(cluster.history.since(formed, "down"))
        result.note("false downs", len(downs), 0)
        return _finish(result, cluster, [])


@scenario
async def rolling_restart(
    seed: int = 0, *, rounds: int = 2, mixed: bool = True, gap: float = 0.3
) -> Result:
    """One node after the other is killed and started anew: one down and one up for each peer."""
    result = Result("rolling_restart", seed)
    kinds = {**hosts(3), **{f"erl{each.version}": each for each in erlangs() if mixed}}
    faults: list[Fault] = []
    times = []
    async with open_cluster(kinds, **_options()) as cluster:
        await cluster.start()
        await cluster.mesh(30)
        for host in itertools.islice(itertools.cycle(kinds), rounds * len(kinds)):
            begin = cluster.history.now
            await cluster.kill(host)
            await trio.sleep(gap)
            await cluster.start(host)
            started = cluster.history.now
            times.append(await cluster.mesh(60) - started)
            faults.append(Fault(begin, cluster.history.now, whole=frozenset(cluster.names(host))))
            # What comes late is counted, too.
            await trio.sleep(gap)
            for what in ("down", "up"):
                told = counts(cluster.history.events, what, since=begin)
                for member in cluster.running:
                    if member.is_python and member is not cluster[host]:
                        number = told[member.name, cluster[host].name]
                        if number != 1:
                            raise AssertionError(
                                f"{member.name} told {number} times that {host} was {what}\n"
                                f"{cluster.history}"
                            )
        result.note("mesh after a restart, worst, s", max(times), 6.0)
        return _finish(result, cluster, faults)
