"""Meshes of Python and BEAM nodes that several barnacles keep up, each from its own process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Generic, TypeVar

import pytest
import trio

from barnacle_trio import (
    Barnacle,
    NodeDown,
    NodeUp,
    local_epmd,
    open_barnacle,
    open_node,
)
from barnacle_trio.testing import EventRecorder, ScriptedStrategy
from tests.beam import COOKIE, open_beam, unique
from tests.cluster_lab import PATIENCE, Killable, open_peer, sees, start_beam, until
from tests.erlang import require_erlangs

N = TypeVar("N", bound=Killable)

pytestmark = pytest.mark.usefixtures("epmd_port")


async def has(barnacle: Barnacle, *nodes: str) -> None:
    wanted = set(nodes)
    with trio.fail_after(PATIENCE):
        await barnacle.nodes.wait_value(lambda nodes: nodes == wanted)


async def test_barnacles_on_one_node_do_not_undo_each_other() -> None:
    first, both, second = (unique(each) for each in ("first", "both", "second"))
    opened = partial(open_barnacle, poll_interval=0.1, prune_after=0.5, max_prune=1.0)
    one, two = ScriptedStrategy([first, both]), ScriptedStrategy([both, second])
    async with AsyncExitStack() as stack:
        for name in (first, both, second):
            await stack.enter_async_context(open_node(name, cookie=COOKIE))
        node = await stack.enter_async_context(open_node(unique("py"), cookie=COOKIE))
        a = await stack.enter_async_context(opened(one, node, name="a"))
        b = await stack.enter_async_context(opened(two, node, name="b", prune="all"))
        await has(a, first, both)
        await has(b, both, second)
        one.answer = [first]
        enough = one.count + 15  # thrice as long as it takes to prune

        async def asked_enough() -> bool:
            await trio.lowlevel.checkpoint()
            return one.count >= enough

        await until(asked_enough)
        assert node.nodes.value == {first, both, second}
        two.answer = [second]
        with trio.fail_after(PATIENCE):
            await node.nodes.wait_value(lambda nodes: nodes == {first, second})
        await has(a, first)
        await has(b, second)


async def test_five_python_processes_and_two_beam_nodes_form_a_mesh_with_us() -> None:
    erlangs = require_erlangs()
    ours = unique("py")
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(open_node(ours, cookie=COOKIE))
        barnacle = await stack.enter_async_context(
            open_barnacle(local_epmd(), node, poll_interval=0.5)
        )
        beams = [
            await stack.enter_async_context(open_beam(erlang))
            for erlang in (erlangs[0], erlangs[-1])
        ]
        began = trio.current_time()
        peers = [
            await stack.enter_async_context(open_peer(discover="local_epmd", poll_interval=0.5))
            for _ in range(5)
        ]
        everybody = {ours, *(peer.name for peer in peers), *(beam.name for beam in beams)}
        await has(barnacle, *(everybody - {ours}))
        for peer in peers:
            await peer.wait_nodes(*(everybody - {peer.name}))
        print(f"five more processes, one after the other: {trio.current_time() - began:.2f} s")
        for beam in beams:
            await sees(beam, *(name for name in everybody if not name.startswith("beam_")))
        for peer in peers:
            assert peer.downs() == []
            assert sorted(peer.ups()) == sorted(everybody - {peer.name})


class Slot(Generic[N]):
    """A node under one name, in a task of its own, that is killed and started again."""

    def __init__(self, start: Callable[[], AbstractAsyncContextManager[N]]) -> None:
        self._start = start
        self._again = trio.Event()
        self._started = trio.Event()
        self._node: N | None = None

    @property
    def node(self) -> N:
        assert self._node is not None
        return self._node

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        while True:
            async with self._start() as self._node:
                self._started.set()
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                await self._again.wait()
                await self._node.kill()

    async def restart(self) -> None:
        again, self._again, self._started = self._again, trio.Event(), trio.Event()
        again.set()
        await self._started.wait()


async def test_a_rolling_restart_is_one_down_and_one_up_for_each_node() -> None:
    """Three BEAM and two Python nodes; each survivor tells of each restart exactly once."""
    ours, recorder = unique("py"), EventRecorder()
    beams = {
        name: Slot(start_beam(require_erlangs()[each], name))
        for each, name in ((0, unique("beam")), (-1, unique("beam")), (0, unique("beam")))
    }
    peers = {
        name: Slot(partial(open_peer, name, discover="local_epmd", poll_interval=1))
        for name in (unique("peer"), unique("peer"))
    }
    everybody = {ours, *beams, *peers}
    async with (
        open_node(ours, cookie=COOKIE) as node,
        open_barnacle(local_epmd(), node, poll_interval=1, listener=recorder.send) as barnacle,
        trio.open_nursery() as nursery,
    ):
        for beam in beams.values():
            await nursery.start(beam.run)
        for peer in peers.values():
            await nursery.start(peer.run)

        async def meshed() -> None:
            await has(barnacle, *(everybody - {ours}))
            for name, slot in peers.items():
                await slot.node.wait_nodes(*(everybody - {name}))

        await meshed()
        expected: dict[str, list[str]] = {name: [] for name in (ours, *peers)}
        for name in (*beams, *peers):
            await (beams.get(name) or peers[name]).restart()
            for survivor in expected:
                expected[survivor].append(name)
            if name in peers:
                expected[name].clear()
            await meshed()
        with trio.fail_after(PATIENCE):
            await barnacle.wait_for_nodes(5, held_for=1)
        told = [(down.node, down.reason) for down in recorder.of(NodeDown)]
        assert told == [(name, "lost") for name in (*beams, *peers)]
        ups = Counter(up.node for up in recorder.of(NodeUp))
        assert ups == dict.fromkeys(everybody - {ours}, 2)
        for name, slot in peers.items():
            assert slot.node.downs() == [(each, "lost") for each in expected[name]]
            assert len(slot.node.ups()) == 5 + len(expected[name])
        nursery.cancel_scope.cancel("the test is over")
