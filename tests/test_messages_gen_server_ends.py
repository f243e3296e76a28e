"""How gen_servers in Python crash, start again, and end."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio import RestartPolicy
from barnacle_trio._errors import ProcessExit
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._inbox import Down
from barnacle_trio.distribution._node import Node
from barnacle_trio.etf import Atom, Pid
from tests.gen_server_players import (
    KILLED,
    NOPROC,
    NORMAL,
    PYTHON_ERROR,
    SHUTDOWN,
    ZERO_DIVISION,
    down,
    echo,
    serving,
)
from tests.memory_pairs import WHERE, A, B, Where, one_node, two_nodes


async def exit_signal(node: Node, to: Pid, reason: Any) -> None:
    """``exit(Pid, Reason)``, as a peer says it."""
    peer = next(iter(node.nodes.value), node.name)
    sender = Pid(node=Atom(peer), id=1, serial=0, creation=1)
    node._processes.handle(peer, control.Exit2(sender, to, reason))
    await trio.lowlevel.checkpoint()


async def divide(request: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return 60 // request


@pytest.mark.parametrize("where", WHERE)
async def test_a_crash_is_everybodys_reason_and_it_starts_again(
    where: Where, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        where() as (a, b),
        serving(b, divide) as pid,
        a.open_mailbox() as watcher,
        a.open_mailbox() as linked,
    ):
        ref = watcher.monitor(("server", b.name))
        linked.link(pid)
        await wait_all_tasks_blocked()
        assert await down(a, pid, 0) == ZERO_DIVISION
        assert await watcher.receive() == Down(ref, ("server", b.name), ZERO_DIVISION)
        with pytest.raises(ProcessExit) as caught:
            await linked.receive()
        assert caught.value.reason == ZERO_DIVISION
        assert await down(a, pid, 1) is NOPROC
        await trio.sleep(0.2)
        assert await a.call(("server", b.name), 6) == 10
        assert await down(a, pid, 1) is NOPROC, "the next life has another pid"
        assert await down(a, ("server", b.name), 0) == ZERO_DIVISION
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert len(tracebacks) == 1, "of one kind"


async def test_a_crash_takes_the_calls_that_wait_along(autojump_clock: MockClock) -> None:
    proceed = trio.Event()

    async def fail(_request: Any) -> Any:
        await proceed.wait()
        return 1 // 0

    async with two_nodes() as (a, b), serving(b, fail) as pid, trio.open_nursery() as nursery:

        async def call(request: int) -> None:
            assert await down(a, pid, request) == ZERO_DIVISION

        for request in range(3):
            nursery.start_soon(call, request)
        await wait_all_tasks_blocked()
        proceed.set()


async def test_beyond_the_policy_the_exception_leaves_plain(autojump_clock: MockClock) -> None:
    async with one_node() as (a, _), trio.open_nursery() as nursery:
        policy = RestartPolicy(max_restarts=2, within=5.0)
        caught: list[Exception] = []

        async def serve(*, task_status: trio.TaskStatus[Any]) -> None:  # noqa: ASYNC128 - passed on
            with pytest.raises(ZeroDivisionError) as error:
                await a.serve_process(
                    "server", divide, restart_policy=policy, task_status=task_status
                )
            caught.append(error.value)

        await nursery.start(serve)
        began = trio.current_time()
        for _ in range(3):
            assert await down(a, ("server", A), 0) == ZERO_DIVISION
            await wait_all_tasks_blocked()
        assert trio.current_time() == began, "with a bound there is no pause"
        assert len(caught) == 1
        assert await down(a, ("server", A), 1) is NOPROC


async def test_crashes_far_apart_are_borne(autojump_clock: MockClock) -> None:
    policy = RestartPolicy(max_restarts=1, within=5.0)
    async with one_node() as (a, _), serving(a, divide, restart_policy=policy):
        for _ in range(5):
            assert await down(a, ("server", A), 0) == ZERO_DIVISION
            await trio.sleep(6)
        assert await a.call(("server", A), 1) == 60


async def test_pauses_double_and_are_forgotten(autojump_clock: MockClock) -> None:
    async with one_node() as (a, _), serving(a, divide):

        async def pause() -> float:
            assert await down(a, ("server", A), 0) == ZERO_DIVISION
            began = trio.current_time()
            while a._processes.whereis("server") is None:  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.01)
            return round(trio.current_time() - began, 1)

        assert [await pause() for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
        assert await a.call(("server", A), 1) == 60
        assert await pause() == 0.1
        await pause()
        await trio.sleep(6)
        assert await pause() == 0.1


async def test_a_name_that_others_took_meanwhile_is_waited_for(autojump_clock: MockClock) -> None:
    async with one_node() as (a, _), serving(a, divide):
        assert await down(a, ("server", A), 0) == ZERO_DIVISION
        async with a.open_mailbox("server"):
            await trio.sleep(10)
        await trio.sleep(2)
        assert await a.call(("server", A), 1) == 60


@pytest.mark.parametrize("where", WHERE)
async def test_a_handler_ends_its_process_for_a_reason(
    where: Where, autojump_clock: MockClock
) -> None:
    async def leave(request: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise ProcessExit((Atom("because"), request))

    async with where() as (a, b), serving(b, leave):
        for number in range(2):
            reason = await down(a, ("server", b.name), number)
            assert reason == (Atom("because"), number)
            await trio.sleep(0.5)


async def test_a_normal_exit_is_for_good(autojump_clock: MockClock) -> None:
    async def leave(_request: Any) -> Any:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_leave)
            await trio.sleep_forever()

    async def _leave() -> None:
        await trio.lowlevel.checkpoint()
        raise ProcessExit(NORMAL)

    async with one_node() as (a, _), trio.open_nursery() as nursery:
        await nursery.start(a.serve_process, "server", leave)
        assert await down(a, ("server", A), 1) is NORMAL
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert await down(a, ("server", A), 1) is NOPROC


@pytest.mark.parametrize(
    ("signal", "reason"), [(Atom("kill"), KILLED), (SHUTDOWN, SHUTDOWN), (b"text", b"text")]
)
async def test_an_exit_signal_ends_it_in_the_middle_of_a_call(
    signal: Any, reason: Any, autojump_clock: MockClock
) -> None:
    cancelled: list[Any] = []

    async def hang(request: Any) -> Any:
        if request == 1:
            return request
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(request)

    async with two_nodes() as (a, b):
        await a.connect(B)
        for concurrent in (1, 5):
            async with serving(b, hang, max_concurrent=concurrent) as pid:
                async with trio.open_nursery() as nursery:

                    async def call(to: Pid) -> None:
                        assert await down(a, to, "hang") == reason

                    nursery.start_soon(call, pid)
                    nursery.start_soon(call, pid)
                    await wait_all_tasks_blocked()
                    await exit_signal(b, pid, NORMAL)  # which does nothing
                    await wait_all_tasks_blocked()
                    assert not cancelled
                    await exit_signal(b, pid, signal)
                assert cancelled == [b"hang"] * min(concurrent, 2)
                await trio.sleep(0.2)
                assert await a.call(("server", B), 1) == 1
            cancelled.clear()


async def test_an_exit_signal_ends_it_while_nothing_happens(autojump_clock: MockClock) -> None:
    async with two_nodes() as (a, b), serving(b, echo) as pid, a.open_mailbox() as box:
        ref = box.monitor(pid)
        await wait_all_tasks_blocked()
        await exit_signal(b, pid, SHUTDOWN)
        assert await box.receive() == Down(ref, pid, SHUTDOWN)
        await trio.sleep(0.2)
        assert await a.call(("server", B), 1) == 1


async def test_exit_signals_beyond_the_policy_leave_as_one(autojump_clock: MockClock) -> None:
    async with one_node() as (a, _), trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[Any]) -> None:  # noqa: ASYNC128 - passed on
            with pytest.raises(ProcessExit) as caught:
                await a.serve_process(
                    "server",
                    echo,
                    restart_policy=RestartPolicy(max_restarts=0),
                    task_status=task_status,
                )
            assert caught.value.reason is KILLED

        pid = await nursery.start(serve)
        await exit_signal(a, pid, Atom("kill"))


async def test_a_link_ends_it(autojump_clock: MockClock) -> None:
    async with two_nodes() as (a, b), serving(b, echo) as pid:
        with suppress(KeyError):
            async with a.open_mailbox() as box:
                box.link(pid)
                await wait_all_tasks_blocked()
                raise KeyError("broken")
        await wait_all_tasks_blocked()
        assert await down(a, pid, 1) is NOPROC
        await trio.sleep(0.2)
        assert await a.call(("server", B), 1) == 1


async def test_a_cancelled_process_shuts_down(autojump_clock: MockClock) -> None:
    async with two_nodes() as (a, b), a.open_mailbox() as box:
        async with serving(b, echo) as pid:
            ref = box.monitor(pid)
            await wait_all_tasks_blocked()
        assert await box.receive() == Down(ref, pid, SHUTDOWN)
        assert await down(a, ("server", B), 1) is NOPROC


async def test_a_fault_while_it_ends_is_told_and_changes_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def stubborn(_request: Any) -> Any:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("too late")

    async with two_nodes() as (a, b), serving(b, stubborn) as pid, trio.open_nursery() as nursery:

        async def call() -> None:
            assert await down(a, pid, "hang") is KILLED

        nursery.start_soon(call)
        await wait_all_tasks_blocked()
        await exit_signal(b, pid, Atom("kill"))
    assert "crashed while it ended" in caplog.text


async def test_a_reply_without_encoding_fails_that_call_alone(autojump_clock: MockClock) -> None:
    async def odd(request: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return object() if request == 0 else request

    for where in (one_node, two_nodes):
        async with where() as (a, b), serving(b, odd):
            kind, name, _ = await down(a, ("server", b.name), 0)
            assert (kind, name.rpartition(b".")[2]) == (PYTHON_ERROR, b"EncodeError")
            await trio.sleep(0.2)
            assert await a.call(("server", b.name), 1) == 1
            assert a.nodes.value == ({B} if b is not a else frozenset())


async def test_a_reason_without_encoding_is_told_as_such(autojump_clock: MockClock) -> None:
    async def leave(_request: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise ProcessExit(object())

    async with two_nodes() as (a, b), serving(b, leave):
        kind, name, _ = await down(a, ("server", B), 0)
        assert (kind, name.rpartition(b".")[2]) == (PYTHON_ERROR, b"EncodeError")
