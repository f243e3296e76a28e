"""Scenarios of processes that end, stop, and come back."""

from __future__ import annotations

import itertools
import random

import trio

from tests.erlang import Erlang
from tests.lab.checker import Fault, counts
from tests.lab.clock import FakedClock, open_faked_clock
from tests.lab.cluster import erlangs, open_cluster
from tests.lab.history import Happened
from tests.lab.scenario import POLL, Result, finish, hosts, options, scenario


@scenario
async def frozen(seed: int = 0, *, rounds: int = 1, kind: Erlang | None = None) -> Result:
    """A node stops where it stands, is noticed, and is back as soon as it goes on."""
    result = Result("frozen", seed)
    chance = random.Random(seed)
    faults: list[Fault] = []
    noticed, back = [], []
    async with open_cluster({**hosts(2), "c": kind}, **options()) as cluster:
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
            await cluster.told("down", [("c", "a"), ("c", "b")], 60, since=end)
            back.append(await cluster.mesh(60) - end)
        result.note("frozen peer noticed, worst, s", max(noticed), 12)
        result.note("mesh after it goes on, worst, s", max(back), 1)
        return finish(result, cluster, faults)


@scenario
async def rolling_restart(
    seed: int = 0, *, rounds: int = 2, mixed: bool = True, gap: float = 0.3
) -> Result:
    """One node after the other is killed and started anew: one down and one up for each peer."""
    result = Result("rolling_restart", seed)
    kinds = {**hosts(3), **{f"erl{each.version}": each for each in erlangs() if mixed}}
    faults: list[Fault] = []
    times = []
    async with open_cluster(kinds, **options()) as cluster:
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
        return finish(result, cluster, faults)


@scenario
async def crash(seed: int = 0, *, rounds: int = 2) -> Result:
    """A killed process is noticed at once, and is back at once."""
    result = Result("crash", seed)
    faults: list[Fault] = []
    noticed, back = [], []
    async with open_cluster(hosts(3), **options()) as cluster:
        await cluster.start()
        await cluster.mesh(30)
        for _ in range(rounds):
            begin = cluster.history.now
            await cluster.kill("c")
            await cluster.seen_down([("a", "c"), ("b", "c")], 30)
            downs = [e.at for e in cluster.history.since(begin, "down")]
            noticed.append(max(downs) - begin)
            await cluster.start("c")
            started = cluster.history.now
            back.append(await cluster.mesh(30) - started)
            faults.append(Fault(begin, cluster.history.now, whole=frozenset(cluster.names("c"))))
        result.note("crash noticed, worst, s", max(noticed), 0.1)
        result.note("mesh after the start, worst, s", max(back), 0.5)
        return finish(result, cluster, faults)


@scenario
async def vanished(seed: int = 0) -> Result:
    """A host loses power and is back before anybody noticed: the new node replaces the old one."""
    result = Result("vanished", seed)
    async with open_cluster(hosts(3), **options()) as cluster:
        await cluster.start()
        await cluster.mesh(30)
        await trio.sleep(4)
        begin = cluster.history.now
        cluster.vanish("c")
        await cluster["c"].ended.wait()
        cluster.lan.heal()
        await cluster.start("c")
        started = cluster.history.now
        observers = cluster.names("a", "b")
        name = cluster["c"].name

        def replaced() -> bool:
            return all(cluster.history.first(begin, "up", each, name) for each in observers)

        at = await cluster.history.until(replaced, 30, "the new node is up everywhere")
        result.note("new node up everywhere, s", at - started, 1.0)
        await trio.sleep(POLL)  # what comes late is counted, too
        for what in ("down", "up"):
            told = counts(cluster.history.events, what, since=begin)
            wrong = {each: told[each, name] for each in observers if told[each, name] != 1}
            assert not wrong, f"not one {what} each: {wrong}\n{cluster.history}"
        whole = frozenset([name])
        return finish(result, cluster, [Fault(begin, cluster.history.now, whole=whole)])


@scenario
async def leaving(seed: int = 0, *, seconds: float = 8) -> Result:
    """A drained node is gone for one reason, once, and nobody dials it for a while."""
    result = Result("leaving", seed)
    kinds = {**hosts(3), **{f"erl{each.version}": each for each in erlangs()}}
    async with open_cluster(kinds, **options()) as cluster:
        await cluster.start()
        await cluster.mesh(30)
        begin = cluster.history.now
        await cluster.leave("a")
        ended = cluster.history.now
        result.note("drained, s", ended - begin, 6.0)
        await trio.sleep(seconds)
        name = cluster["a"].name
        downs = [e for e in cluster.history.since(begin, "down") if e.peer == name]
        observers = {each.name for each in cluster.running}
        assert sorted(e.node for e in downs) == sorted(observers), str(cluster.history)
        reasons = {e.reason for e in downs if e.node in cluster.names("b", "c")}
        assert reasons == {"left"}, f"{reasons}\n{cluster.history}"
        whole = frozenset([name])
        return finish(result, cluster, [Fault(begin, cluster.history.now, whole=whole)])


@scenario
async def wall_clock(seed: int = 0, *, seconds: float = 4) -> Result:
    """Clocks on the wall that jump by a day, either way, change nothing."""
    result = Result("wall_clock", seed)
    with open_faked_clock() as clock:
        return await _watch_the_clock(result, clock, seconds)


async def _watch_the_clock(result: Result, clock: FakedClock, seconds: float) -> Result:
    async with open_cluster(hosts(2), **options(env=clock.environment)) as cluster:
        await cluster.start()
        formed = await cluster.mesh(30)
        for offset in ("+1d", "-1d", "+0"):
            clock.jump(offset)
            await trio.sleep(seconds)
        events: list[Happened] = list(cluster.history.since(formed + 0.001))
        result.note("events", len(events), 0)
        return finish(result, cluster, [])
