"""Peers that call strangely, and how a node of ours takes it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._node import Node
from barnacle_trio.etf import Atom, ImproperList, Pid, Reference
from tests.test_messages_rpc_memory import A, B, echo, two_nodes


def ask(
    node: Node,
    *,
    function: tuple[str, str] = ("erpc", "execute_call"),
    arguments: list[Any],
    options: list[Any] | None = None,
    sender: Pid | None = None,
    ref: Reference | None = None,
) -> Reference:
    """Send a spawn request by hand."""
    ref = ref or node._identifiers.make_reference()
    pid = sender or node._kernel.pid
    request = control.SpawnRequest(
        ref, pid, pid, Atom(function[0]), Atom(function[1]), arguments, options or []
    )
    assert node._processes.emit(B, request)
    return ref


@asynccontextmanager
async def strange_peer() -> AsyncIterator[tuple[Node, Node, list[control.SpawnReply]]]:
    """A node that shows how its spawn requests are replied to, and a node that exposes `echo`."""
    replies: list[control.SpawnReply] = []
    async with two_nodes() as (a, b):
        a._processes.act_on(control.SpawnReply, lambda _peer, reply: replies.append(reply))
        await a.connect(B)
        with b.expose({("m", "echo"): echo}):
            yield a, b, replies
            await wait_all_tasks_blocked()
            assert b.nodes.value == {A}
            assert await a.ping(B)


ECHO = (Atom("m"), Atom("echo"))
STRANGE: dict[str, tuple[dict[str, Any], str]] = {
    "names that are numbers": ({"arguments": [1, 2, 3, []]}, "notsup"),
    "names that are lists": ({"arguments": [1, [Atom("m")], [Atom("echo")], []]}, "notsup"),
    "names that are binaries": ({"arguments": [1, b"m", b"echo", []]}, "notsup"),
    "names that are maps": ({"arguments": [1, {1: 2}, {}, []]}, "notsup"),
    "no arguments": ({"arguments": []}, "notsup"),
    "too few arguments": ({"arguments": [1, *ECHO]}, "notsup"),
    "too many arguments": ({"arguments": [1, *ECHO, [], 1]}, "notsup"),
    "no list": ({"arguments": [1, *ECHO, Atom("x")]}, "badarg"),
    "an improper list": ({"arguments": [1, *ECHO, ImproperList((1,), 2)]}, "badarg"),
    "an unknown option": ({"arguments": [1, *ECHO, []], "options": [Atom("x")]}, "badopt"),
    "an option of numbers": ({"arguments": [1, *ECHO, []], "options": [(1, 2)]}, "badopt"),
    "options in options": ({"arguments": [1, *ECHO, []], "options": [[]]}, "badopt"),
    "apply": ({"function": ("erlang", "apply"), "arguments": [*ECHO, []]}, "notsup"),
    "a long name": ({"function": ("m" * 255, "\u00fc" * 255), "arguments": []}, "notsup"),
    "one's own name": ({"function": ("m", "__globals__"), "arguments": []}, "notsup"),
}


@pytest.mark.parametrize("what", STRANGE)
async def test_a_strange_request_is_refused(what: str, autojump_clock: MockClock) -> None:
    request, why = STRANGE[what]
    async with strange_peer() as (a, _, replies):
        ref = ask(a, **request)
        await wait_all_tasks_blocked()
        assert replies == [control.SpawnReply(ref, a._kernel.pid, 0, Atom(why))]


async def test_options_of_a_beam_are_taken(autojump_clock: MockClock) -> None:
    async with strange_peer() as (a, _, replies), a.open_mailbox(trap_exits=True) as box:
        options = [
            (Atom("priority"), Atom("high")),
            (Atom("min_heap_size"), 1000),
            *(Atom("link"), Atom("monitor"), Atom("link")),
        ]
        ask(a, function=("m", "echo"), arguments=[], options=options, sender=box.pid)
        await wait_all_tasks_blocked()
        assert [reply.flags for reply in replies] == [3]
        assert isinstance(replies[0].result, Pid)


async def test_a_result_tag_of_any_kind_is_given_back(autojump_clock: MockClock) -> None:
    async with strange_peer() as (a, _, _replies):
        downs: list[Any] = []
        for tag in (None, {1: [2]}, ImproperList((1,), 2), b"x" * 100_000):
            ref = a._identifiers.make_reference()
            a._processes.monitors.expect(ref, B, a._kernel.pid, downs.append)
            ask(a, arguments=[tag, *ECHO, [7]], options=[Atom("monitor")], ref=ref)
            await wait_all_tasks_blocked()
            assert downs.pop() == (tag, Atom("return"), (7,))


async def test_a_request_for_another_nodes_process_is_ignored(autojump_clock: MockClock) -> None:
    async with strange_peer() as (a, b, replies):
        stranger = Pid(node=Atom("c@memory"), id=1, serial=0, creation=1)
        ask(a, arguments=[1, *ECHO, []], sender=stranger)
        await wait_all_tasks_blocked()
        assert not replies
        assert len(b._exposed) == 0


async def test_replies_and_ends_that_nobody_asked_for_are_dropped(
    autojump_clock: MockClock,
) -> None:
    async with two_nodes() as (a, b):
        await a.connect(B)
        pid, ref = b._kernel.pid, b._identifiers.make_reference()
        for result in (pid, Atom("notsup")):
            b._processes.emit(A, control.SpawnReply(ref, a._kernel.pid, 2, result))
        b._processes.emit(A, control.MonitorExit(pid, a._kernel.pid, ref, 1))
        await wait_all_tasks_blocked()
        assert await a.ping(B)


async def test_an_unheard_failure_never_ends_the_node(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash() -> None:  # noqa: ASYNC124
        raise ValueError("broken")

    async with two_nodes() as (a, b):
        with b.expose({("m", "crash"): crash, ("m", "echo"): echo}):
            for _ in range(5):
                await a.rpc(B, "m", "echo")
                ask(a, function=("m", "crash"), arguments=[])
            await wait_all_tasks_blocked()
            assert await a.rpc(B, "m", "echo") == ()
        assert caplog.text.count("called m:crash/0") == 1  # and the rest is counted
        assert "ValueError: broken" in caplog.text
