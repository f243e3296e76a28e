"""The port mapper dies under a cluster: nobody loses a connection, and names come back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from barnacle_trio import BarnacleError, NodeName, local_epmd, open_barnacle, open_node
from barnacle_trio.epmd import names
from tests.beam import COOKIE, Beam, open_beam, unique
from tests.cluster_lab import PATIENCE, Peer, downs, open_peer, sees, until, watch_nodes
from tests.epmd_lab import real_epmd
from tests.erlang import require_erlangs

LISTED = 6.0
"""Seconds; 2 on a machine of one's own."""


async def are_listed(nodes: Sequence[str]) -> bool:
    wanted = {NodeName(node).basename for node in nodes}
    try:
        return wanted <= (await names("127.0.0.1")).keys()
    except BarnacleError:
        return False


@asynccontextmanager
async def open_four() -> AsyncIterator[tuple[list[Peer], list[Beam]]]:
    """Two Python nodes, the first of which serves the port if nobody else does, and two BEAMs."""
    erlangs = require_erlangs()
    async with AsyncExitStack() as stack:
        peers = [
            await stack.enter_async_context(open_peer(discover="local_epmd", poll_interval=0.5))
            for _ in range(2)
        ]
        beams = [
            await stack.enter_async_context(open_beam(erlang))
            for erlang in (erlangs[0], erlangs[-1])
        ]
        await beams[0].eval(f"net_kernel:connect_node('{beams[1].name}')")
        everybody = [*(peer.name for peer in peers), *(beam.name for beam in beams)]
        for peer in peers:
            await peer.wait_nodes(*(name for name in everybody if name != peer.name))
        for beam in beams:
            await sees(beam, *(name for name in everybody if name != beam.name))
            await watch_nodes(beam)
        yield peers, beams


async def joins(*others: str) -> None:
    """A new node finds all others."""
    async with (
        open_node(unique("joins"), cookie=COOKIE) as node,
        open_barnacle(local_epmd(), node, poll_interval=0.5) as barnacle,
    ):
        with trio.fail_after(PATIENCE):
            await barnacle.nodes.wait_value(lambda nodes: nodes == set(others))


async def test_the_python_process_that_serves_it_is_killed(epmd_port: int) -> None:
    async with open_four() as ([serving, peer], beams):
        await serving.kill()
        await until(lambda: are_listed([peer.name]), LISTED)
        # OTP registers a node again every other second or so.
        await until(lambda: are_listed([peer.name, *(beam.name for beam in beams)]))
        await peer.wait_nodes(*(beam.name for beam in beams))
        assert peer.downs() == [(serving.name, "lost")]
        for beam in beams:
            assert await downs(beam) == [serving.name]
        await joins(peer.name, *(beam.name for beam in beams))
        # None but the dead one was ever lost, and the one that came and went.
        assert {node for node, _reason in peer.downs()}.isdisjoint({beam.name for beam in beams})
        for beam in beams:
            assert set(await downs(beam)).isdisjoint({peer.name, *(beam.name for beam in beams)})


async def test_a_daemon_is_killed(epmd_port: int) -> None:
    async with real_epmd(epmd_port) as daemon, open_four() as (peers, beams):
        everybody = [*(peer.name for peer in peers), *(beam.name for beam in beams)]
        daemon.kill()
        await daemon.wait()
        await until(lambda: are_listed([peer.name for peer in peers]), LISTED)
        await until(lambda: are_listed(everybody))
        await joins(*everybody)
        for peer in peers:
            assert {node for node, _reason in peer.downs()}.isdisjoint(everybody)
            assert peer.nodes >= set(everybody) - {peer.name}
        for beam in beams:
            assert set(await downs(beam)).isdisjoint(everybody)
