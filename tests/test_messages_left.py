"""Processes whose node is left: who waits for messages learns that none will come."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio import Node, ProcessDown
from barnacle_trio.etf import Pid
from barnacle_trio.testing import MemoryNetwork
from tests.gen_server_players import echo
from tests.memory_pairs import A, B


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
                await nursery.start(work, node)  # noqa: ASYNC111 - it outlives the node
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
            await nursery.start(wait, node)  # noqa: ASYNC111 - it outlives the node
            await wait_all_tasks_blocked()
            await leave(node)


@pytest.mark.parametrize("leave", [drain, go])
@pytest.mark.parametrize("width", [1, 3])
async def test_a_gen_server_ends_for_good(
    leave: Any, width: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    network = MemoryNetwork()
    with trio.fail_after(60):
        async with (
            network.open_node(B) as other,
            trio.open_nursery() as nursery,
            network.open_node(A) as node,
        ):
            serve = partial(node.serve_process, "server", echo, max_concurrent=width)
            await nursery.start(serve)
            assert await other.call(("server", A), 1) == 1
            await leave(node)
    assert caplog.text == ""


@pytest.mark.parametrize("leave", [drain, go])
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("crash", [False, True])
async def test_a_gen_server_ends_after_what_it_is_at(
    leave: Any, width: int, crash: bool, autojump_clock: MockClock
) -> None:
    done: list[Any] = []

    async def work(request: Any) -> Any:
        await trio.sleep(30)
        if crash:
            raise ValueError("a bug")
        done.append(request)
        return request

    async def ask(node: Node) -> None:
        with suppress(ProcessDown):
            await node.call(("server", A), 1)

    network = MemoryNetwork()
    with trio.fail_after(60):
        async with (
            network.open_node(B) as other,
            trio.open_nursery() as nursery,
            network.open_node(A) as node,
        ):
            serve = partial(node.serve_process, "server", work, max_concurrent=width)
            await nursery.start(serve)
            nursery.start_soon(ask, other)
            await trio.sleep(1)
            await leave(node)
    assert done == ([] if crash else [1])


@pytest.mark.parametrize("width", [1, 5])
async def test_what_waited_is_handled_though_the_handler_meets_something_closed(
    width: int, autojump_clock: MockClock
) -> None:
    handled: list[Any] = []
    go_on = trio.Event()

    class Handler:
        async def call(self, request: Any, _sender: Pid) -> Any:
            await trio.lowlevel.checkpoint()
            handled.append(request)
            return request

        async def cast(self, message: Any) -> None:
            await go_on.wait()
            handled.append(message)

    async def ask(node: Node, number: int) -> None:
        assert await node.call(("server", A), number) == number

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            async with MemoryNetwork().open_node(A) as node:
                serve = partial(node.serve_process, "server", Handler(), max_concurrent=width)
                await nursery.start(serve)
                await node.cast(("server", A), 0)
                for number in range(1, 4):
                    nursery.start_soon(ask, node, number)  # noqa: ASYNC111 - it outlives the node
                await wait_all_tasks_blocked()
            go_on.set()
    assert handled[0] == 0
    assert sorted(handled) == [0, 1, 2, 3]


async def test_a_fault_after_the_node_was_left_is_told_and_starts_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = trio.Event()

    class Handler:
        async def call(self, request: Any, _sender: Pid) -> Any:
            await trio.lowlevel.checkpoint()
            return request

        async def cast(self, _message: Any) -> None:
            await go_on.wait()
            raise trio.ClosedResourceError("my own database")

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            async with MemoryNetwork().open_node(A) as node:
                await nursery.start(node.serve_process, "server", Handler())  # noqa: ASYNC111 - it outlives the node
                await node.cast(("server", A), 0)
                await wait_all_tasks_blocked()
            go_on.set()
    assert "my own database" in caplog.text
    assert "its node was left" in caplog.text


async def test_a_mailbox_that_is_entered_after_the_node_was_left_is_an_empty_one(
    autojump_clock: MockClock,
) -> None:
    async with MemoryNetwork().open_node(A) as node:
        opening = node.open_mailbox()
    async with opening as box:
        with pytest.raises(trio.ClosedResourceError, match="node was left"):
            await box.receive()
