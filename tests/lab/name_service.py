"""A scenario of a DNS server that lets its cluster down, in every way that there is."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from tests.erlang import Erlang
from tests.lab.checker import Fault
from tests.lab.cluster import Cluster, open_cluster
from tests.lab.name_server import KINDS, QUERY, NameServer, open_name_server
from tests.lab.scenario import Result, finish, hosts, options, pairs, scenario

SERVER = "dns"


@asynccontextmanager
async def open_named_cluster(
    kinds: Mapping[str, Erlang | None], *, strangers: int = 2, **more: Any
) -> AsyncIterator[tuple[Cluster, NameServer]]:
    """As `open_cluster`; its Python nodes discover by a DNS server on one more host."""
    async with open_cluster({**kinds, SERVER: None}, **more) as cluster:
        host = cluster.lan[SERVER]
        del cluster.members[SERVER]
        for member in cluster.members.values():
            member.options = {**member.options, "resolver": host.address, "query": QUERY}
            member.peers.remove(f"{member.name.partition('@')[0]}@{host.address}")
        addresses = [member.host.address for member in cluster.members.values()]
        holes = cluster.lan.dig_black_holes(strangers)
        async with open_name_server(host, addresses, holes) as server:
            yield cluster, server


@scenario
async def name_service(seed: int = 0, *, seconds: float = 6, poll: float = 1) -> Result:
    """A DNS server fails in one way after another: nobody falls, and who falls is back at once."""
    result = Result("name_service", seed)
    chance = random.Random(seed)
    faults: list[Fault] = []
    back = []
    settings = options() | {"barnacle": {"poll_interval": poll}}
    async with open_named_cluster(hosts(3), **settings) as (cluster, server):
        await cluster.start()
        await cluster.mesh(30)
        for kind in KINDS:
            cluster.history.tell("fault", reason=f"dns: {kind}")
            async with server.failing(kind):
                await trio.sleep(seconds / 2)
                one, other = chance.sample(list(cluster.members), 2)
                begin = cluster.history.tell("fault", reason=f"sockets of {one} and {other}").at
                cluster.lan[one].kill_sockets(cluster.lan[other])
                both = [(one, other), (other, one)]
                await cluster.told("down", both, 30, since=begin)
                back.append(await cluster.mesh(30) - begin)
                faults.append(Fault(begin, begin, pairs(cluster.names(one), cluster.names(other))))
                await trio.sleep(seconds / 2)
            cluster.history.tell("heal", reason=f"dns: {kind}")
    result.note("who fell is back, worst, s", max(back), 1.0)
    return finish(result, cluster, faults)
