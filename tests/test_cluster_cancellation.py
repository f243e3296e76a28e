"""Real nodes, cancelled at each checkpoint in turn: nothing is left behind, and all works again."""

from __future__ import annotations

import pytest
import trio

from barnacle_trio import (
    NodeName,
    PeerUnreachable,
    epmd,
    local_epmd,
    open_barnacle,
    open_node,
)
from barnacle_trio.epmd import names
from tests.beam import COOKIE, DIALS_WHEN_TOLD, open_beam, unique
from tests.checkpoints import cancel_at_every_checkpoint
from tests.cluster_lab import open_nodes, open_sockets, sees, until
from tests.erlang import Erlang

pytestmark = pytest.mark.usefixtures("epmd_port")


class Leftovers:
    """The sockets and tasks beyond those that there were."""

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> tuple[int, int]:
        return open_sockets(), trio.lowlevel.current_statistics().tasks_living

    async def none(self) -> None:
        """Wait until there are none: the other end of a connection sees its end a moment later."""

        async def same() -> bool:
            await trio.testing.wait_all_tasks_blocked()
            return self._now() == self._before

        try:
            await until(same, 5)
        except trio.TooSlowError:
            raise AssertionError(f"there were {self._before}, now {self._now()}") from None


async def nobody_serves_names() -> None:
    with pytest.raises(PeerUnreachable):
        await names("127.0.0.1")


async def test_opening_and_leaving_a_node_alone() -> None:
    name = unique("py")
    leftovers = Leftovers()

    async def open_and_leave() -> None:
        async with open_node(name, cookie=COOKIE):
            await trio.lowlevel.checkpoint()

    async def check() -> None:
        await leftovers.none()
        await nobody_serves_names()

    assert await cancel_at_every_checkpoint(open_and_leave, check) >= 3
    await open_and_leave()
    await check()


async def test_opening_using_and_leaving_a_node_among_others() -> None:
    name = unique("py")
    async with open_nodes(2) as others:
        peers = {other.name for other in others}
        leftovers = Leftovers()

        async def join_and_leave() -> None:
            async with (
                open_node(name, cookie=COOKIE) as node,
                open_barnacle(local_epmd(), node) as barnacle,
            ):
                assert await barnacle.wait_for_nodes(2) == peers
                await node.connect(others[0].name)
                await barnacle.refresh()

        async def check() -> None:
            for other in others:
                await other.nodes.wait_value(frozenset())
            await leftovers.none()
            assert NodeName(name).basename not in await names("127.0.0.1")

        assert await cancel_at_every_checkpoint(join_and_leave, check) >= 6
        await join_and_leave()
        await check()


async def test_connecting_a_peer() -> None:
    async with open_nodes(2) as (node, peer):
        leftovers = Leftovers()

        async def check() -> None:
            await node.disconnect(peer.name)
            await peer.nodes.wait_value(frozenset())
            await leftovers.none()

        async def connect() -> None:
            await node.connect(peer.name)

        assert await cancel_at_every_checkpoint(connect, check) >= 4
        await node.connect(peer.name)
        assert node.nodes.value == {peer.name}


async def test_connecting_a_beam_node(erlang: Erlang) -> None:
    async with open_nodes(1) as [node], open_beam(erlang, flags=DIALS_WHEN_TOLD) as beam:
        leftovers = Leftovers()

        async def check() -> None:
            await node.disconnect(beam.name)
            await sees(beam)
            await leftovers.none()

        async def connect() -> None:
            await node.connect(beam.name)

        assert await cancel_at_every_checkpoint(connect, check) >= 4
        await node.connect(beam.name)
        await sees(beam, node.name)


async def test_a_refresh() -> None:
    async with (
        open_nodes(3) as (node, *peers),
        open_barnacle(epmd([peer.name for peer in peers]), node, poll_interval=3600) as barnacle,
    ):

        async def apart() -> None:
            for peer in peers:
                await node.disconnect(peer.name)
                await peer.nodes.wait_value(frozenset())

        await barnacle.refresh()
        await apart()
        await trio.testing.wait_all_tasks_blocked(0.1)
        leftovers = Leftovers()

        async def check() -> None:
            # One that was cancelled goes on; this one begins after it.
            assert (await barnacle.refresh()).nodes == {peer.name for peer in peers}
            await apart()
            await leftovers.none()

        assert await cancel_at_every_checkpoint(barnacle.refresh, check) >= 1
