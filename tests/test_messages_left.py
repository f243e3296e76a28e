"""Processes whose node is left: who waits for messages learns that none will come."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio import Node
from barnacle_trio.testing import MemoryNetwork
from tests.gen_server_players import A, B, echo


async def drain(node: Node) -> None:
    await node.drain(1)


async def go(_node: Node) -> None:
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("leave", [drain, go])
async def test_iteration_ends_with_what_had_come(leave: Any, autojump_clock: MockClock) -> None:
    heard: list[Any] = []
    go_on = trio.Event()

    async def work(node: Node, task_status: trio.TaskStatus[None]) -> None:
        async with node.open_mailbox("work") as box:
            task_status.started()
            async for message in box:
                heard.append(message)
                await go_on.wait()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            async with MemoryNetwork().open_node(A) as node:
                await nursery.start(work, node)
                for number in range(3):
                    await node.send(("work", A), number)
                await wait_all_tasks_blocked()
                await leave(node)
            go_on.set()
    assert heard == [0, 1, 2]


@pytest.mark.parametrize("leave", [drain, go])
async def test_who_waits_is_told(leave: Any, autojump_clock: MockClock) -> None:
    async def wait(node: Node, task_status: trio.TaskStatus[None]) -> None:
        async with node.open_mailbox("picky") as box:
            await node.send(("picky", A), 1)
            task_status.started()
            with pytest.raises(trio.ClosedResourceError, match="node was left"):
                await box.receive(lambda message: message == 2)
            assert len(box) == 1
            with pytest.raises(trio.ClosedResourceError, match="node was left"):
                await box.receive(lambda message: message == 2)
            assert await box.receive() == 1

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery, MemoryNetwork().open_node(A) as node:
            await nursery.start(wait, node)
            await wait_all_tasks_blocked()
            await leave(node)


@pytest.mark.parametrize("leave", [drain, go])
@pytest.mark.parametrize("width", [1, 3])
async def test_a_gen_server_ends_for_good(
    leave: Any, width: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def serve(node: Node, task_status: trio.TaskStatus[Any]) -> None:
        await node.serve_process("server", echo, max_concurrent=width, task_status=task_status)

    network = MemoryNetwork()
    with trio.fail_after(60):
        async with (
            network.open_node(B) as other,
            trio.open_nursery() as nursery,
            network.open_node(A) as node,
        ):
            await nursery.start(serve, node)
            assert await other.call(("server", A), 1) == 1
            await leave(node)
    assert caplog.text == ""
