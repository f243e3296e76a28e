"""Scenarios that need no network of their own: races, and a port mapper that keeps dying."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from statistics import median

import trio

from barnacle_trio import BarnacleError, Node, NodeName, open_node
from barnacle_trio._transport import PeerChange
from barnacle_trio.epmd import Epmd, names
from tests.beam import COOKIE, open_beam, unique
from tests.cluster_lab import open_peer
from tests.lab.cluster import erlangs
from tests.lab.scenario import Result, scenario
from tests.ports import free_port


@contextmanager
def own_port_mapper() -> Iterator[None]:
    """Have nodes of this process and its children meet at a port of their own."""
    before = os.environ.get("ERL_EPMD_PORT")
    os.environ["ERL_EPMD_PORT"] = str(free_port())
    try:
        yield
    finally:
        if before is None:
            del os.environ["ERL_EPMD_PORT"]
        else:
            os.environ["ERL_EPMD_PORT"] = before


@scenario
async def crossing(seed: int = 0, *, rounds: int = 40, otp: int = 0) -> Result:
    """Two nodes dial each other at the same moment: one connection, and each is told of one.

    The other one is a Python node, or a BEAM of an OTP release.
    """
    result = Result("crossing", seed)
    kind = next((each for each in erlangs() if each.version == str(otp)), None)
    assert kind is not None or not otp, f"there is no erl of OTP {otp}"
    took: list[float] = []
    with own_port_mapper():
        async with AsyncExitStack() as stack:
            here = await stack.enter_async_context(open_node(unique("m"), cookie=COOKIE))
            # One that sorts before it and one that sorts after it, as that decides who wins.
            for basename in ("a", "z"):
                name = unique(basename)
                if kind is None:
                    there = await stack.enter_async_context(open_node(name, cookie=COOKIE))
                    dial = [here.connect, there.connect]
                    targets = [name, here.name]
                    for _ in range(rounds // 2):
                        took.append(await _cross(here, name, list(zip(dial, targets, strict=True))))
                else:
                    beam = await stack.enter_async_context(open_beam(kind, name))
                    code = f"net_kernel:connect_node('{here.name}')"
                    for _ in range(rounds // 2):
                        took.append(
                            await _cross(here, name, [(here.connect, name), (beam.eval, code)])
                        )
    result.note("rounds", len(took), float("inf"))
    result.note("connected, median, s", median(took), 0.1)
    result.note("connected, worst, s", max(took), 2.0)
    return result


async def _cross(here: Node, name: str, dials: Sequence[tuple[object, str]]) -> float:
    changes: list[PeerChange] = []
    unsubscribe = here.subscribe(changes.append)
    began = trio.current_time()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for dial, target in dials:
                nursery.start_soon(dial, target)  # type: ignore[arg-type]
    took = trio.current_time() - began
    with trio.fail_after(10):
        await here.nodes.wait_value(lambda nodes: NodeName(name) in nodes)
        # What would fall afterwards falls before an answer that is asked for now.
        assert await here.ping(name)
        unsubscribe()
        assert len(changes) == 1, changes
        await here.disconnect(name)
        await here.nodes.wait_value(lambda nodes: NodeName(name) not in nodes)
    return took


@scenario
async def port_mapper(seed: int = 0, *, kills: int = 4) -> Result:
    """Whoever serves the port mapper is killed, again and again: connections stay, names return."""
    result = Result("port_mapper", seed)
    back: list[float] = []
    with own_port_mapper():
        async with AsyncExitStack() as stack:
            serving = await stack.enter_async_context(open_peer(discover=[]))
            # These two never serve it, so that there is somebody to kill.
            mapper = Epmd(embed=False)
            a, b = [
                await stack.enter_async_context(
                    open_node(unique("stays"), cookie=COOKIE, epmd=mapper)
                )
                for _ in range(2)
            ]
            await a.connect(b.name)
            await b.nodes.wait_value(lambda nodes: a.name in nodes)
            changes: list[PeerChange] = []
            for node in (a, b):
                node.subscribe(changes.append)
            for _ in range(kills):
                heir = await stack.enter_async_context(open_peer(discover=[]))
                await serving.kill()
                began = trio.current_time()
                await _listed(a.name, b.name, heir.name)
                back.append(trio.current_time() - began)
                serving = heir
            result.note("connections lost or made", len(changes), 0)
    result.note("names back, median, s", median(back), 1.0)
    result.note("names back, worst, s", max(back), 1.0)
    return result


async def _listed(*nodes: str) -> None:
    wanted = {NodeName(node).basename for node in nodes}
    found: set[str] = set()
    with trio.fail_after(30):
        while not wanted <= found:
            try:
                found = set(await names("127.0.0.1"))
            except BarnacleError:
                found = set()
            await trio.sleep(0.01)
