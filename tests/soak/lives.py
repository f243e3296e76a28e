"""One node, or a pair, that comes and goes or is cut off and joined, many times."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from unittest.mock import patch

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio._barnacle import Barnacle
from barnacle_trio._names import NodeName
from barnacle_trio._running import open_barnacle
from barnacle_trio.distribution import open_node
from barnacle_trio.epmd import names
from barnacle_trio.testing import MemoryNetwork, ScriptedStrategy
from tests.beam import COOKIE
from tests.ports import free_port
from tests.scale import descriptors
from tests.soak.cluster import open_cluster
from tests.soak.faults import Done
from tests.soak.judge import Sample, check, check_flat, sample

WARM = 2
"""Cycles after which all is held that will be."""


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
            await _calm(samples)
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
            await _calm(samples)
            samples.append(Sample.take(descriptors()))
            await _run("nft", "add rule inet soak in drop")
            for barnacle in barnacles:
                await barnacle.nodes.wait_value(frozenset())
            await _run("nft", "flush chain inet soak in")
    return samples


async def _calm(samples: list[Sample]) -> None:
    """Wait until what is over has ended; as real things do, that takes some moments.

    That is when as many tasks and descriptors are there as the last time, or, the first times, as
    many for half a second. What never ends is left for the judge to find.
    """
    usual = (samples[-1].tasks, samples[-1].ends) if len(samples) > WARM else None
    with trio.move_on_after(10):
        since, before = trio.current_time(), _held()
        while before != usual and (usual is not None or trio.current_time() - since < 0.5):
            await trio.sleep(0.02)
            if _held() != before:
                since, before = trio.current_time(), _held()


def _held() -> tuple[int, int]:
    return trio.lowlevel.current_statistics().tasks_living, descriptors()


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


def run_apart(kind: str, cycles: int) -> str:
    """Run cycles in a process of their own, and where they cut, on a host of their own. Needs root.

    Raises:
      subprocess.CalledProcessError: they left something behind, or there is no such host.
    """
    command = [sys.executable, "-m", "tests.soak", "--kind", kind, "--cycles", str(cycles)]
    with patch.dict(os.environ, ERL_EPMD_PORT=str(free_port())):
        return subprocess.run(
            ["unshare", "--net", *command] if kind == "real_cuts" else command,
            cwd=Path(__file__).parent.parent.parent,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
