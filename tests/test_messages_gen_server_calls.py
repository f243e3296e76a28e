"""Calls of gen_servers in Python: many at once, cancelled ones, callers that lie."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio.distribution._inbox import Down
from barnacle_trio.distribution._node import Node
from barnacle_trio.etf import Atom, ImproperList, Pid, Reference
from tests.checkpoints import cancel_at_every_checkpoint
from tests.gen_server_players import GEN_CALL, NORMAL, ZERO_DIVISION, Recorder, down, echo, serving
from tests.memory_pairs import WHERE, A, B, Where, two_nodes

# -- several calls at once ------------------------------------------------------------------------


class Gate:
    """Calls wait until they are let through; counts how many are inside."""

    def __init__(self) -> None:
        self.inside: list[Any] = []
        self.begun: list[Any] = []
        self.open = trio.Event()

    async def call(self, request: Any, _sender: Pid) -> Any:
        self.begun.append(request)
        self.inside.append(request)
        await self.open.wait()
        self.inside.remove(request)
        return request

    async def cast(self, message: Any) -> None:
        await trio.sleep(1)
        self.begun.append(message)


@pytest.mark.parametrize("limit", [1, 3])
async def test_so_many_calls_run_at_once(limit: int, autojump_clock: MockClock) -> None:
    gate = Gate()
    async with (
        two_nodes() as (a, b),
        serving(b, gate, max_concurrent=limit) as pid,
        trio.open_nursery() as nursery,
    ):
        for number in range(10):
            nursery.start_soon(a.call, pid, number)
            await wait_all_tasks_blocked()
        assert gate.inside == list(range(limit))
        gate.open.set()
        await wait_all_tasks_blocked()
        assert gate.begun == list(range(10))


async def test_what_came_after_a_cast_begins_after_it(autojump_clock: MockClock) -> None:
    gate = Gate()
    gate.open.set()
    async with (
        two_nodes() as (a, b),
        serving(b, gate, max_concurrent=10) as pid,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(a.call, pid, 1)
        await wait_all_tasks_blocked()
        await a.cast(pid, "first")
        await a.cast(pid, "second")
        assert await a.call(pid, 2) == 2
        assert gate.begun == [1, b"first", b"second", 2]


async def test_a_crash_cancels_the_calls_beside_it(autojump_clock: MockClock) -> None:
    async def handle(request: Any) -> Any:
        return 1 // await echo(0) if request == 0 else await trio.sleep_forever()

    async with (
        two_nodes() as (a, b),
        serving(b, handle, max_concurrent=10),
        trio.open_nursery() as nursery,
    ):

        async def call(request: int) -> None:
            assert await down(a, ("server", B), request) == ZERO_DIVISION

        for request in (1, 2, 0):
            nursery.start_soon(call, request)
            await wait_all_tasks_blocked()


@pytest.mark.parametrize("where", WHERE)
async def test_two_hundred_calls_at_once(where: Where, autojump_clock: MockClock) -> None:
    async def slow(request: int) -> int:
        await trio.sleep((request * 7919) % 13)
        return request

    async with where() as (a, b), serving(b, slow, max_concurrent=50) as pid:
        answers: list[int] = []

        async def call(number: int) -> None:
            assert await a.call(pid, number) == number
            answers.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(call, number)
        assert answers != sorted(answers)
        assert sorted(answers) == list(range(200))


# -- callers that come and go -----------------------------------------------------------------


@pytest.mark.parametrize("where", WHERE)
async def test_a_call_cancelled_anywhere_leaves_nothing(
    where: Where, autojump_clock: MockClock
) -> None:
    async with where() as (a, b), serving(b, echo) as pid:

        async def check() -> None:
            await wait_all_tasks_blocked()
            assert not a._processes._aliases
            assert not a._processes.monitors
            assert not b._processes._table.by_pid[pid].watchers

        async def dial_and_call() -> None:
            await a.disconnect(B)
            await a.call(("server", b.name), 1)

        for dest in (pid, ("server", b.name)):
            assert await cancel_at_every_checkpoint(partial(a.call, dest, 1), check) >= 1
        assert await cancel_at_every_checkpoint(dial_and_call, check) >= 2
        await a.call(pid, 1)
        await check()


@pytest.mark.parametrize("where", WHERE)
async def test_the_reply_to_a_caller_that_gave_up_is_dropped(
    where: Where, autojump_clock: MockClock
) -> None:
    answered: list[Any] = []

    async def slow(request: Any) -> Any:
        await trio.sleep(5)
        answered.append(request)
        return request

    async with where() as (a, b), serving(b, slow) as pid:
        with trio.move_on_after(1) as scope:
            await a.call(pid, 1)
        assert scope.cancelled_caught
        assert await a.call(pid, 2) == 2
        assert answered == [1, 2]


async def test_the_reply_to_a_lost_node_is_dropped_and_dials_nobody(
    autojump_clock: MockClock,
) -> None:
    proceed = trio.Event()

    async def slow(request: Any) -> Any:
        await proceed.wait()
        return request

    async with two_nodes() as (a, b), serving(b, slow) as pid, trio.open_nursery() as nursery:

        async def call() -> None:
            assert await down(a, pid, 1) is Atom("noconnection")

        nursery.start_soon(call)
        await wait_all_tasks_blocked()
        await a.disconnect(B)
        await wait_all_tasks_blocked()
        proceed.set()
        await wait_all_tasks_blocked()
        assert b.nodes.value == frozenset()
        assert await b.call(pid, 2) == 2


async def test_callers_that_lie_cost_nothing(autojump_clock: MockClock) -> None:
    """A tag or a pid may name any node, or none."""
    async with two_nodes() as (a, b), serving(b, echo) as pid:
        for node in ("", "nonsense", "a@b@c", "nobody@memory", A, B):
            liar = Pid(node=Atom(node), id=1, serial=0, creation=1)
            ref = Reference(node=Atom(node), creation=1, ids=(1, 2, 3))
            alias = ImproperList((Atom("alias"),), ref)
            tags: list[Any] = [
                ref,
                alias,
                ImproperList((alias,), 1),
                ImproperList((1,), 2),
                [],
                "tag",
            ]
            for tag in tags:
                await a.send(pid, (GEN_CALL, (liar, tag), "request"))
        assert await a.call(pid, "honest") == b"honest"
        assert b.nodes.value == {A}


# -- OTP's "sys" ------------------------------------------------------------------------------


async def manage(node: Node, pid: Pid, request: Any) -> Any:
    """What ``sys`` sends, and the answer."""
    async with node.open_mailbox() as box:
        ref = node._processes.identifiers.make_reference()
        await node.send(pid, (Atom("system"), (box.pid, ref), request))
        tag, answer = await box.receive()
        assert tag == ref
        return answer


async def test_a_look_into_a_process(autojump_clock: MockClock) -> None:
    async with two_nodes() as (a, b), serving(b, Recorder()) as pid:
        await a.call(pid, 1)
        ok, state = await manage(a, pid, Atom("get_state"))
        assert ok is Atom("ok")
        assert state[Atom("handler")] == b"Recorder"
        assert state[Atom("handled")] == 1
        status, same, _, [_, running, *_] = await manage(a, pid, Atom("get_status"))
        assert (status, same, running) == (Atom("status"), pid, Atom("running"))
        error, what = await manage(a, pid, Atom("suspend"))
        assert (error, what) == (Atom("error"), (Atom("unknown_system_msg"), Atom("suspend")))


async def test_who_stops_a_process_has_it_start_again(autojump_clock: MockClock) -> None:
    async with two_nodes() as (a, b), serving(b, echo) as pid, a.open_mailbox() as box:
        ref = box.monitor(pid)
        assert await manage(a, pid, (Atom("terminate"), NORMAL)) is Atom("ok")
        assert await box.receive() == Down(ref, pid, NORMAL)
        await trio.sleep(0.2)
        assert await a.call(("server", B), 1) == 1
