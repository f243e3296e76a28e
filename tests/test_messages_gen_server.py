"""Gen_servers in Python, called from our own nodes, in memory and on a virtual clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio import ConfigurationError, NodeName, RestartPolicy
from barnacle_trio._errors import ProcessDown, ProcessExit
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._inbox import Down
from barnacle_trio.distribution._node import Node
from barnacle_trio.etf import Atom, ImproperList, Pid, Reference
from barnacle_trio.testing import MemoryNetwork
from tests.checkpoints import cancel_at_every_checkpoint

A, B = NodeName("a@memory"), NodeName("b@memory")
NORMAL, KILLED, SHUTDOWN, NOPROC = map(Atom, ("normal", "killed", "shutdown", "noproc"))
GEN_CALL, GEN_CAST, PYTHON_ERROR = map(Atom, ("$gen_call", "$gen_cast", "python_error"))
Pair = tuple[Node, Node]


@asynccontextmanager
async def one_node() -> AsyncIterator[Pair]:
    async with MemoryNetwork().open_node(A) as a:
        yield a, a


@asynccontextmanager
async def two_nodes() -> AsyncIterator[Pair]:
    network = MemoryNetwork()
    async with network.open_node(A) as a, network.open_node(B) as b:
        yield a, b


WHERE: list[Any] = [pytest.param(one_node, id="local"), pytest.param(two_nodes, id="remote")]
Where = Callable[[], AbstractAsyncContextManager[Pair]]


@asynccontextmanager
async def serving(
    node: Node, handler: Any, name: str | None = "server", **options: Any
) -> AsyncIterator[Pid]:
    async with trio.open_nursery() as nursery:
        yield await nursery.start(partial(node.serve_process, name, handler, **options))
        nursery.cancel_scope.cancel()


async def down(node: Node, dest: Any, request: Any) -> Any:
    """The reason for which a call fails."""
    with pytest.raises(ProcessDown) as caught:
        await node.call(dest, request)
    return caught.value.reason


async def exit_signal(node: Node, to: Pid, reason: Any) -> None:
    """``exit(Pid, Reason)``, as a peer says it."""
    peer = next(iter(node.nodes.value), node.name)
    sender = Pid(node=Atom(peer), id=1, serial=0, creation=1)
    node._processes.handle(peer, control.Exit2(sender, to, reason))
    await trio.lowlevel.checkpoint()


async def echo(request: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return request


async def divide(request: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return 60 // request


ZERO_DIVISION = (
    PYTHON_ERROR,
    b"ZeroDivisionError",
    b"integer division or modulo by zero",
)


class Recorder:
    """Keeps what it is sent; answers with all of it."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def call(self, request: Any, sender: Pid) -> Any:
        await trio.lowlevel.checkpoint()
        self.seen.append(("call", request, sender.node.name))
        return [each[:2] for each in self.seen]

    async def cast(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.seen.append(("cast", message))

    async def info(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.seen.append(("info", message))


# -- what is served ---------------------------------------------------------------------------


@pytest.mark.parametrize("where", WHERE)
async def test_a_function_answers_calls_by_name_and_by_pid(
    where: Where, autojump_clock: MockClock
) -> None:
    async with where() as (a, b), serving(b, echo) as pid:
        assert await a.call(("server", b.name), {"text": [1, 2.5, None]}) == {
            b"text": [1, 2.5, None]
        }
        assert await a.call(pid, Atom("by_pid")) is Atom("by_pid")
    async with where() as (a, b), serving(b, echo, None) as pid:
        assert await a.call(pid, "without a name") == b"without a name"


@pytest.mark.parametrize("where", WHERE)
async def test_an_object_gets_calls_casts_and_other_messages_in_order(
    where: Where, autojump_clock: MockClock
) -> None:
    recorder = Recorder()
    async with where() as (a, b), serving(b, recorder) as pid:
        await a.cast(pid, 1)
        await a.send(("server", b.name), 2)
        await a.cast(("server", b.name), 3)
        answer = await a.call(pid, 4)
        assert answer == [(b"cast", 1), (b"info", 2), (b"cast", 3), (b"call", 4)]
        assert recorder.seen[-1] == ("call", 4, a.name)


async def test_lists_and_broken_envelopes_are_plain_messages(autojump_clock: MockClock) -> None:
    recorder = Recorder()
    plain: list[Any] = [
        [GEN_CALL, [1, 2], 3],
        (GEN_CALL, (1, 2), 3),
        (GEN_CALL, 2),
        [GEN_CAST, 1],
        (GEN_CAST, 1, 2),
        (Atom("system"), 1, 2),
        (),
        None,
    ]
    async with two_nodes() as (a, b), serving(b, recorder) as pid:
        for each in plain:
            await a.send(pid, each)
        await a.call(pid, "done")
    assert recorder.seen[:-1] == [("info", each) for each in plain]


async def test_what_has_no_method_is_dropped_and_told_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with two_nodes() as (a, b), serving(b, echo) as pid:
        for _ in range(3):
            await a.cast(pid, "dropped")
            await a.send(pid, "dropped, too")
        assert await a.call(pid, "still here") == b"still here"
    assert [record.getMessage() for record in caplog.records] == [
        "['server'] takes no cast: such messages are dropped",
        "['server'] takes no info: such messages are dropped",
    ]


class OnlyCasts:
    async def cast(self, message: Any) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("handler", "match"),
    [
        pytest.param(Recorder, "call it to make one", id="class"),
        pytest.param(OnlyCasts(), "object with `call`", id="no call"),
        pytest.param(None, "object with `call`", id="none"),
    ],
)
async def test_what_is_no_handler_is_refused(handler: Any, match: str) -> None:
    async with one_node() as (a, _):
        with pytest.raises(ConfigurationError, match=match):
            await a.serve_process("server", handler)


async def test_a_coroutine_is_no_handler() -> None:
    async with one_node() as (a, _):
        with pytest.raises(ConfigurationError, match="uncalled"):
            await a.serve_process("server", echo(1))  # type: ignore[arg-type]
        for option in ("max_concurrent", "max_length"):
            for bad in (0, True, 1.5, None):
                options: Any = {option: bad}
                with pytest.raises(ConfigurationError, match=option):
                    await a.serve_process("server", echo, **options)


async def test_a_taken_name_is_told_plainly(autojump_clock: MockClock) -> None:
    async with one_node() as (a, _), serving(a, echo), trio.open_nursery() as nursery:
        for name in ("server", "net_kernel"):
            with pytest.raises(ConfigurationError, match="already"):
                await nursery.start(a.serve_process, name, echo)
        assert await a.call(("server", A), 1) == 1


async def test_a_node_that_was_left_serves_nothing() -> None:
    async with one_node() as (a, _):
        pass
    with pytest.raises(trio.ClosedResourceError):
        await a.serve_process("server", echo)


# -- how it ends, and starts again --------------------------------------------------------------


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
