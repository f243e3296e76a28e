"""What a review of messaging found: each stays mended."""

from __future__ import annotations

from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio import NodeName
from barnacle_trio.distribution import _control as control
from barnacle_trio.etf import Atom, Pid
from barnacle_trio.testing import MemoryNetwork, open_memory_nodes

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
