"""What a review of messaging found: each stays mended."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio import ConfigurationError, Node, NodeName, Process, RestartPolicy
from barnacle_trio._errors import ProcessDown, ProcessExit, RemoteError
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._cookie import Cookies
from barnacle_trio.distribution._inbox import Down, Exit
from barnacle_trio.distribution._node import run_node
from barnacle_trio.etf import Atom, DecodeError, Limits, Pid
from barnacle_trio.testing import MemoryNetwork, open_memory_nodes
from barnacle_trio.testing._memory import _Place

A, B, C = NodeName("a@memory"), NodeName("b@memory"), NodeName("c@memory")


async def test_nobody_takes_the_place_of_anothers_monitor(autojump_clock: MockClock) -> None:
    reasons: list[object] = []
    async with open_memory_nodes(A, B, C) as (a, b, c):
        await a.connect(B)
        await c.connect(B)
        async with b.open_mailbox("box") as box:
            ref = a._processes.identifiers.make_reference()
            # A reference is no secret: C monitors under A's, first.
            c._processes.emit(B, control.Monitor(c._kernel.pid, Atom("box"), ref))
            await wait_all_tasks_blocked()
            a._processes.monitors.add(ref, B, box.pid, a._kernel.pid, reasons.append)
            await wait_all_tasks_blocked()
            # Nor does C's end of its monitor end A's, whatever it says.
            c._processes.emit(B, control.Demonitor(c._kernel.pid, Atom("box"), ref))
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        assert reasons == [Atom("normal")]
        assert not b._processes._held._by_node


async def test_one_process_may_monitor_another_under_several_references(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_nodes(A, B) as (a, b), a.open_mailbox() as watcher:
        async with b.open_mailbox() as box:
            refs = {watcher.monitor(box.pid) for _ in range(3)}
            await wait_all_tasks_blocked()
        assert {(await watcher.receive()).ref for _ in range(3)} == refs


async def test_two_watchers_of_a_lost_node_are_forgotten_both(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with network.open_node(B) as b, b.open_mailbox() as box:
        async with network.open_node(A) as a:
            ref = a._processes.identifiers.make_reference()
            await a.connect(B)
            async with a.open_mailbox() as one, a.open_mailbox() as two:
                for watcher in (one, two):
                    a._processes.emit(B, control.Monitor(watcher.pid, box.pid, ref))
                await wait_all_tasks_blocked()
                entry = b._processes._table.by_pid[box.pid]
                assert len(entry.watchers) == 2
        await wait_all_tasks_blocked()
        assert not entry.watchers


async def test_exposed_calls_leave_the_short_way_of_messages_known(
    autojump_clock: MockClock,
) -> None:
    async def whoami() -> str:
        return "b"

    async with open_memory_nodes(A, B) as (a, b), b.open_mailbox("box") as box:
        await a.send(("box", B), 1)
        assert await box.receive() == 1
        known = dict(b._short_cut._known)
        assert known
        with b.expose({("b", "whoami"): whoami}):
            assert await a.rpc(B, "b", "whoami") == b"b"
        await a.send(("box", B), 2)
        assert await box.receive() == 2
        assert known.items() <= b._short_cut._known.items()


async def test_a_name_leads_to_who_bears_it_now(autojump_clock: MockClock) -> None:
    async with open_memory_nodes(A, B) as (a, b):
        for number in range(3):
            async with b.open_mailbox("box") as box:
                for each in (number, number):
                    await a.send(("box", B), each)
                    assert await box.receive() == each
        await a.send(("box", B), "nobody")
        await a.ping(B)
        async with b.open_mailbox("box") as box:
            assert len(box) == 0


class Once(tuple[Any, ...]):
    """Can be walked once."""

    walked = 0

    def __iter__(self) -> Any:
        self.walked += 1
        return super().__iter__()


async def test_the_value_of_an_exposed_function_is_encoded_once(
    autojump_clock: MockClock,
) -> None:
    values: list[Once] = []

    async def give() -> Once:
        await trio.lowlevel.checkpoint()
        values.append(Once((1, b"2", [3])))
        return values[-1]

    async with open_memory_nodes(A, B) as (a, b):
        with b.expose({("b", "give"): give}):
            assert await a.rpc(B, "b", "give") == (1, b"2", [3])
            assert await b.rpc(B, "b", "give") == (1, b"2", [3])
    assert [value.walked for value in values] == [1, 1]


async def test_who_watches_another_nodes_call_from_here_sees_its_value(
    autojump_clock: MockClock,
) -> None:
    go_on = trio.Event()
    calls: list[Pid] = []

    async def give() -> tuple[int, str]:
        await go_on.wait()
        return (1, "text")

    async with open_memory_nodes(A, B) as (a, b), b.open_mailbox(trap_exits=True) as box:
        with b.expose({("b", "give"): give}):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.rpc, B, "b", "give")
                await wait_all_tasks_blocked()
                calls += [pid for pid in b._processes._table.by_pid if pid != box.pid]
                box.monitor(calls[0])
                box.link(calls[0])
                go_on.set()
        for _ in range(2):
            match await box.receive():
                case Down(reason=reason) | Exit(reason=reason):
                    assert reason[1:] == (Atom("return"), (1, b"text"))


async def test_what_users_hold_of_a_mailbox_is_theirs_to_use(autojump_clock: MockClock) -> None:
    async with open_memory_nodes(A) as (a,), a.open_mailbox("box") as box:
        assert {name for name in dir(box) if not name.startswith("_")} == {
            "demonitor",
            "ended",
            "exit_reason",
            "join_group",
            "leave_group",
            "link",
            "monitor",
            "name",
            "pid",
            "receive",
            "rejected",
            "trap_exits",
            "unlink",
        }
        assert isinstance(box.pid, Pid)
        assert box.name == "box"
        assert repr(box) == "<Mailbox named 'box', 0 messages wait>"


async def test_one_that_fails_on_going_on_leaves_the_others_their_turn(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    went_on: list[str] = []
    async with open_memory_nodes(A, B) as (a, _):
        outbound = a._processes.signals._outbound
        outbound.reach_soon(B, lambda: went_on.append("first"))
        outbound.reach_soon(B, lambda: went_on.append(str(1 // 0)))
        outbound.reach_soon(B, lambda: went_on.append("last"))
        await wait_all_tasks_blocked()
    assert went_on == ["first", "last"]
    [record] = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "what waited for it failed" in record.getMessage()


class Unprintable:
    def __repr__(self) -> str:
        raise AssertionError("nobody asked for a text")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (ProcessDown, "the process is down: 1"),
        (ProcessExit, "the process exits: 1"),
        (lambda reason: RemoteError("error", reason), "error: 1"),
    ],
)
def test_reasons_are_printed_only_for_who_asks(make: Any, text: str) -> None:
    assert isinstance(make(Unprintable()).reason, Unprintable)
    assert str(make(1)) == text


def plain(_request: Any) -> int:
    return 1


class PlainCall:
    def call(self, _request: Any, _sender: Pid) -> int:
        return 1


class PlainStart:
    async def call(self, request: Any, _sender: Pid) -> Any:
        return request

    def started(self, _process: Process) -> None:
        raise AssertionError


@pytest.mark.parametrize("handler", [print, plain, PlainCall(), PlainStart()])
async def test_a_handler_that_would_hold_up_the_node_is_refused(handler: Any) -> None:
    async with open_memory_nodes(A) as (a,):
        with pytest.raises(ConfigurationError, match="is no async function"):
            await a.serve_process("server", handler)


async def test_a_function_in_c_is_not_exposed() -> None:
    async with open_memory_nodes(A) as (a,):
        functions: Any = {("m", "f"): print}
        with pytest.raises(ConfigurationError, match="no async function"), a.expose(functions):
            raise AssertionError


class Watchman:
    """Joins a group and monitors as it starts, and keeps what it is told."""

    def __init__(self, watched: Any) -> None:
        self.watched = watched
        self.seen: list[Any] = []
        self.pids: list[Pid] = []

    async def started(self, process: Process) -> None:
        await trio.lowlevel.checkpoint()
        self.pids.append(process.pid)
        process.join_group("pg", Atom("watchmen"))
        process.monitor(self.watched)

    async def call(self, request: Any, _sender: Pid) -> Any:
        await trio.lowlevel.checkpoint()
        return 1 // request

    async def info(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.seen.append(message)


async def test_a_handler_joins_groups_and_monitors_in_every_life(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_nodes(A, B) as (a, b), trio.open_nursery() as nursery:
        await a.connect(B)
        async with b.open_mailbox("watched"):
            handler = Watchman(("watched", B))
            pid = await nursery.start(a.serve_process, "watchman", handler)
            assert await a.group_members("pg", Atom("watchmen")) == [pid] == handler.pids
            with pytest.raises(ProcessDown):
                await a.call(pid, 0)
            await trio.sleep(5)
            assert len(handler.pids) == 2
            assert await a.group_members("pg", Atom("watchmen")) == handler.pids[1:]
        await trio.sleep(5)
        [down] = handler.seen
        assert isinstance(down, Down)
        assert (down.item, down.reason) == (("watched", B), Atom("normal"))
        nursery.cancel_scope.cancel()


class FailsToStart:
    def __init__(self, *lives: bool) -> None:
        self.lives = list(lives)

    async def started(self, _process: Process) -> None:
        await trio.lowlevel.checkpoint()
        if not self.lives.pop(0):
            raise OSError("no such disk")

    async def call(self, _request: Any, _sender: Pid) -> Any:
        await trio.lowlevel.checkpoint()
        raise OSError("no such file")


async def test_who_fails_at_the_first_start_tells_who_started_it(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_nodes(A) as (a,):
        with pytest.raises(OSError, match="no such disk"):
            await a.serve_process("server", FailsToStart(False))
        assert a._processes.whereis("server") is None


async def test_who_fails_at_a_later_start_is_started_again_within_bounds(
    autojump_clock: MockClock,
) -> None:
    policy = RestartPolicy(max_restarts=2, within=5.0)
    handler = FailsToStart(True, False, False)

    async def serve_and_call(node: Node) -> None:
        serve = partial(node.serve_process, "server", handler, restart_policy=policy)
        async with trio.open_nursery() as nursery:
            pid = await nursery.start(serve)
            with pytest.raises(ProcessDown):
                await node.call(pid, 1)

    async with open_memory_nodes(A) as (a,):
        with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="no such disk")):
            await serve_and_call(a)
    assert handler.lives == []


# A payload that a peer may send by the protocol, and that we do not take: more elements than that.
LIMITS = Limits(max_elements=1000)
TOO_MUCH = list(range(300)) * 4


@asynccontextmanager
async def open_narrow_and_wide() -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes of which only the first one has narrow limits, and the other never learns."""
    network = MemoryNetwork()
    place = _Place(network, A)
    async with (
        run_node(A, place, cookies=Cookies("memory"), limits=LIMITS) as narrow,
        network.open_node(B) as wide,
    ):
        await wide.connect(A)
        yield narrow, wide


async def test_a_message_beyond_the_limits_is_dropped_alone(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_narrow_and_wide() as (narrow, wide), narrow.open_mailbox("box") as box:
        for dest in (("box", A), box.pid):
            await wide.send(dest, 1)
            for _ in range(3):
                await wide.send(dest, TOO_MUCH)
            await wide.send(dest, 2)
            assert [await box.receive() for _ in range(2)] == [1, 2]
        assert box.rejected == 6
        assert narrow.nodes.value == {B}
    [line] = [each.getMessage() for each in caplog.records if "dropped" in each.getMessage()]
    assert line == (
        "[b@memory] sent <Mailbox named 'box', 0 messages wait> "
        "a term of more than 1000 elements: it was dropped"
    )


async def test_a_large_message_beyond_the_limits_is_dropped_alone(
    autojump_clock: MockClock,
) -> None:
    async with open_narrow_and_wide() as (narrow, wide), narrow.open_mailbox("box") as box:
        await wide.send(box.pid, [bytes(200_000), TOO_MUCH])
        await wide.send(box.pid, 2)
        assert await box.receive() == 2
        assert box.rejected == 1


async def test_nobody_waits_for_an_answer_beyond_the_limits(autojump_clock: MockClock) -> None:
    async def give(*_args: Any) -> list[int]:
        await trio.lowlevel.checkpoint()
        return TOO_MUCH

    async with open_narrow_and_wide() as (narrow, wide), trio.open_nursery() as nursery:
        await nursery.start(wide.serve_process, "server", give)
        with pytest.raises(DecodeError, match="the reply is a term of more than 1000 elements"):
            await narrow.call(("server", B), 1)
        with wide.expose({("m", "give"): give}), pytest.raises(ProcessDown) as down:
            await narrow.rpc(B, "m", "give")
        assert down.value.reason is Atom("system_limit")
        with narrow.expose({("m", "give"): give}), pytest.raises(RemoteError) as refused:
            await wide.rpc(A, "m", "give", TOO_MUCH)
        assert refused.value.reason == (Atom("erpc"), Atom("system_limit"))
        assert narrow.nodes.value == {B}
        nursery.cancel_scope.cancel()


async def test_an_end_whose_reason_is_beyond_the_limits_is_told_all_the_same(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_narrow_and_wide() as (narrow, wide),
        narrow.open_mailbox(trap_exits=True) as box,
    ):
        with suppress(ProcessExit):
            async with wide.open_mailbox() as theirs:
                ref = box.monitor(theirs.pid)
                box.link(theirs.pid)
                await narrow.ping(B)
                raise ProcessExit(TOO_MUCH)
        ends = [await box.receive() for _ in range(2)]
        reason = Atom("system_limit")
        assert ends == [Down(ref, theirs.pid, reason), Exit(theirs.pid, reason)]


async def test_bytes_that_are_no_term_still_close_the_connection(
    autojump_clock: MockClock,
) -> None:
    async with open_narrow_and_wide() as (narrow, wide), narrow.open_mailbox("box") as box:
        connection = wide._peers.get(A)
        assert connection is not None
        head = control.head(control.send_control(wide._kernel.pid, box.pid), connection.agreed)
        # More elements are announced than the limits allow, and than there are.
        connection.send_body(head + b"l" + (2000).to_bytes(4), (None, None))
        await wide.nodes.wait_value(frozenset())
        assert box.rejected == 0
