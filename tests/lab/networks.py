"""Scenarios of networks that fail."""

from __future__ import annotations

import itertools
import random
from statistics import median

import trio

from tests.lab.checker import Fault
from tests.lab.cluster import open_cluster
from tests.lab.scenario import POLL, Result, finish, hosts, options, pairs, scenario, share


@scenario
async def forming(seed: int = 0, *, nodes: int = 4, black_holes: int = 3) -> Result:
    """A cluster forms although black holes stand first in everybody's list."""
    result = Result("forming", seed)
    async with open_cluster(hosts(nodes), black_holes=black_holes, **options()) as cluster:
        await cluster.start()
        begun = max(e.at for e in cluster.history.since(0, "start"))
        result.note("forming, s", await cluster.mesh(30) - begun, 1.5)
        return finish(result, cluster, [])


@scenario
async def partition(
    seed: int = 0, *, heals: int = 2, black_holes: int = 3, nodes: int = 3
) -> Result:
    """A symmetric partition, over and over: noticed by both sides, and healed into a mesh."""
    result = Result("partition", seed)
    chance = random.Random(seed)
    faults: list[Fault] = []
    noticed, healed = [], []
    async with open_cluster(hosts(nodes), black_holes=black_holes, **options()) as cluster:
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
            between = pairs(cluster.names(*one), cluster.names(*other))
            faults.append(Fault(begin, end, between))
        result.note("partition noticed by all, worst, s", max(noticed), 12)
        result.note("healed to a mesh, median, s", median(healed), 1.2)
        result.note("healed to a mesh, p95, s", share(healed, 0.95), 2.0)
        return finish(result, cluster, faults)


@scenario
async def one_way(seed: int = 0) -> Result:
    """Packets pass in one direction only: both sides learn of it."""
    result = Result("one_way", seed)
    async with open_cluster(hosts(3), **options()) as cluster:
        await cluster.start()
        await cluster.mesh(30)
        await trio.sleep(4)
        begin = cluster.history.tell("fault", reason="nothing reaches a").at
        fault = cluster.lan.cut(("b", "a"), ("c", "a"))
        cut = [("a", "b"), ("a", "c"), ("b", "a"), ("c", "a")]
        result.note("noticed by both sides, s", await cluster.seen_down(cut, 100) - begin, 20)
        cluster.lan.heal(fault)
        end = cluster.history.tell("heal").at
        result.note("healed to a mesh, s", await cluster.mesh(60) - end, 2.0)
        whole = frozenset(cluster.names("a"))
        return finish(result, cluster, [Fault(begin, end, whole=whole)])


@scenario
async def one_pair(seed: int = 0, *, seconds: float = 25) -> Result:
    """Two nodes cannot see each other: nobody else's connection falls."""
    result = Result("one_pair", seed)
    async with open_cluster(hosts(4), **options()) as cluster:
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
        pair = pairs(cluster.names("a"), cluster.names("b"))
        return finish(result, cluster, [Fault(begin, end, pair)])


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
    async with open_cluster(hosts(3), wire=wire, seed=seed, **options()) as cluster:
        await cluster.start()
        formed = await cluster.mesh(60)
        await trio.sleep(seconds)
        downs = list(cluster.history.since(formed, "down"))
        result.note("false downs", len(downs), 0)
        return finish(result, cluster, [])


@scenario
async def mtu_hole(seed: int = 0, *, size: int = 600) -> Result:
    """Large packets vanish, small ones pass: ticks alone would never tell."""
    result = Result("mtu_hole", seed)
    async with open_cluster(hosts(2), **options(chatter=2000)) as cluster:
        await cluster.start()
        await cluster.mesh(30)
        await trio.sleep(4)
        begin = cluster.history.tell("fault", reason="an MTU hole").at
        fault = cluster.lan.shrink(size, "a", "b")
        both = [("a", "b"), ("b", "a")]
        result.note("noticed by both sides, s", await cluster.seen_down(both, 100) - begin, 20)
        cluster.lan.heal(fault)
        end = cluster.history.tell("heal").at
        result.note("healed to a mesh, s", await cluster.mesh(60) - end, 2.0)
        whole = frozenset(cluster.names())
        return finish(result, cluster, [Fault(begin, end, whole=whole)])


@scenario
async def one_socket(seed: int = 0, *, rounds: int = 3) -> Result:
    """A connection is ended by neither of its programs."""
    result = Result("one_socket", seed)
    faults, back = [], []
    async with open_cluster(hosts(3), **options()) as cluster:
        await cluster.start()
        await cluster.mesh(30)
        for _ in range(rounds):
            begin = cluster.history.tell("fault", reason="sockets of a and b").at
            cluster.lan["a"].kill_sockets(cluster.lan["b"])
            await cluster.told("down", [("a", "b"), ("b", "a")], 30, since=begin)
            back.append(await cluster.mesh(30) - begin)
            faults.append(Fault(begin, begin, pairs(cluster.names("a"), cluster.names("b"))))
            await trio.sleep(1)
        result.note("back, worst, s", max(back), 1.0)
        return finish(result, cluster, faults)
