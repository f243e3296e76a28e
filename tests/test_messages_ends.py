"""The ends of processes whose reasons meet the limits of their node, or of others."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio import Node, NodeName
from barnacle_trio._errors import ProcessDown, ProcessExit
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._cookie import Cookies
from barnacle_trio.distribution._flags import PLAIN, Flag
from barnacle_trio.distribution._inbox import Down, Exit
from barnacle_trio.distribution._node import run_node
from barnacle_trio.distribution._open import AROUND
from barnacle_trio.etf import Atom, EncodeError, Limits
from barnacle_trio.testing import MemoryNetwork
from barnacle_trio.testing._memory import _Place
from tests.intruder import open_intruder, reachable_node

A, B, C = NodeName("a@memory"), NodeName("b@memory"), NodeName("c@memory")
SYSTEM_LIMIT = Atom("system_limit")
OLD = PLAIN & ~(Flag.EXIT_PAYLOAD | Flag.UNLINK_ID | Flag.SEND_SENDER)

WIDE = Limits(max_bignum_bytes=5000)
BEYOND_DEFAULT = 1 << 20_000
NARROW = Limits(max_bytes=100_000)
BEYOND_NARROW = bytes(300_000)


@asynccontextmanager
async def open_nodes(**limits: Limits) -> AsyncIterator[list[Node]]:
    """Nodes with limits of their own, each connected to all others."""
    network = MemoryNetwork()
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        for short, own in limits.items():
            name = NodeName(f"{short}@memory")
            place = _Place(network, name)
            node = await stack.enter_async_context(
                run_node(name, place, cookies=Cookies("memory"), limits=own)
            )
            for other in nodes:
                await node.connect(other.name)
            nodes.append(node)
        yield nodes


async def test_a_reason_within_the_nodes_limits_is_told_to_everybody(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_nodes(a=WIDE, b=WIDE, c=WIDE) as (a, b, c),
        a.open_mailbox() as box,
        a.open_mailbox(trap_exits=True) as here,
        c.open_mailbox(trap_exits=True) as there,
    ):
        refs = [each.monitor(box.pid) for each in (here, there)]
        for each in (here, there):
            each.link(box.pid)
        await wait_all_tasks_blocked()
        b._processes.emit(A, control.Exit2(b._kernel.pid, box.pid, BEYOND_DEFAULT))
        for each, ref in zip((here, there), refs, strict=True):
            ends = [await each.receive() for _ in range(2)]
            assert ends == [
                Down(ref, box.pid, BEYOND_DEFAULT),
                Exit(box.pid, BEYOND_DEFAULT),
            ]
        assert a.nodes.value == {B, C}


async def test_what_a_function_returned_within_the_nodes_limits_is_told_here_too(
    autojump_clock: MockClock,
) -> None:
    async with open_nodes(a=WIDE, b=WIDE) as (a, b), a.open_mailbox() as box:

        async def large() -> int:
            [call] = a._exposed._calls[B]
            box.monitor(call.pid)
            await trio.lowlevel.checkpoint()
            return BEYOND_DEFAULT

        with a.expose({("m", "large"): large}):
            assert await b.rpc(A, "m", "large") == BEYOND_DEFAULT
        assert (await box.receive()).reason[1:] == (Atom("return"), BEYOND_DEFAULT)


async def test_a_reason_that_no_peer_would_take_does_not_cost_the_connection(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        open_nodes(a=NARROW, b=NARROW) as (a, b),
        a.open_mailbox(trap_exits=True) as here,
        b.open_mailbox(trap_exits=True) as one,
        b.open_mailbox(trap_exits=True) as other,
    ):
        watchers = (here, one, other)
        with suppress(ProcessExit):
            async with a.open_mailbox() as box:
                for each in watchers:
                    each.monitor(box.pid)
                    each.link(box.pid)
                await wait_all_tasks_blocked()
                raise ProcessExit(BEYOND_NARROW)
        reasons = [[(await each.receive()).reason for _ in range(2)] for each in watchers]
        assert reasons == [[BEYOND_NARROW] * 2, [SYSTEM_LIMIT] * 2, [SYSTEM_LIMIT] * 2]
        assert a.nodes.value == {B}
    [line] = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "why a process ended" in line.getMessage()
    assert len(line.getMessage()) < 300


async def test_a_handlers_reason_that_no_peer_would_take_does_not_cost_the_connection(
    autojump_clock: MockClock,
) -> None:
    async def handler(_request: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise ProcessExit(BEYOND_NARROW)

    async with open_nodes(a=NARROW, b=NARROW) as (a, b), trio.open_nursery() as nursery:
        await nursery.start(a.serve_process, "server", handler)
        with pytest.raises(ProcessDown) as down:
            await b.call(("server", A), 1)
        assert down.value.reason is SYSTEM_LIMIT
        assert a.nodes.value == {B}
        nursery.cancel_scope.cancel()


async def test_to_ask_for_an_exit_beyond_the_limits_fails_who_asks(
    autojump_clock: MockClock,
) -> None:
    async with open_nodes(a=NARROW, b=NARROW) as (a, b), b.open_mailbox() as box:
        with pytest.raises(EncodeError):
            a._processes.emit(B, control.Exit2(a._kernel.pid, box.pid, BEYOND_NARROW))
        assert await a.ping(B)
        assert not box.ended


@pytest.mark.usefixtures("epmd_port")
async def test_who_cannot_be_told_the_reason_is_told_of_the_end_and_others_are_told_both() -> None:
    """To an older peer it goes among the rest of a signal, and there is less room for it."""
    most = bytes(100_000 + AROUND - 6)
    async with (
        reachable_node(max_message=100_000) as (node, port),
        open_intruder(node, port, flags=OLD) as old,
        open_intruder(node, port) as new,
    ):
        with suppress(ProcessExit):
            async with node.open_mailbox() as box:
                for peer in (old, new):
                    one = peer.pid(1)
                    await peer.send(
                        control.monitor(one, box.pid, peer.ref(1)), control.link(one, box.pid)
                    )
                    await peer.heard_last()
                raise ProcessExit(most)
        for peer, reason in ((old, SYSTEM_LIMIT), (new, most)):
            one = peer.pid(1)
            assert await peer.hear() == control.MonitorExit(box.pid, one, peer.ref(1), reason)
            assert await peer.hear() == control.Exit(box.pid, one, reason)
            assert await peer.heard_last() == []
