"""Nodes on uneven ground: odd orders of events, odd hosts, odd moments to leave."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from barnacle_trio._errors import PeerUnreachable, RemoteProtocolError
from barnacle_trio._names import NodeName
from barnacle_trio._transport import PeerChange, PeerDown, PeerUp
from barnacle_trio.distribution import _connection as connection_module
from barnacle_trio.distribution import _tcp as tcp_module
from barnacle_trio.distribution import open_node
from barnacle_trio.distribution._connection import Connection
from barnacle_trio.distribution._cookie import Cookies
from barnacle_trio.distribution._detector import Patience
from barnacle_trio.distribution._flags import OUR_FLAGS
from barnacle_trio.distribution._handshake import Identity
from barnacle_trio.distribution._inbox import Down
from barnacle_trio.distribution._node import Node, run_node
from barnacle_trio.epmd import FixedPort
from barnacle_trio.etf import Atom, Limits, Pid
from barnacle_trio.testing._memory import MemoryNetwork, open_memory_nodes
from tests.ports import free_port

A, B = NodeName("a@memory"), NodeName("b@memory")


def record(node: Node) -> list[PeerChange]:
    changes: list[PeerChange] = []
    node.subscribe(changes.append)
    return changes


def told(changes: list[PeerChange]) -> list[str]:
    return [change.reason if isinstance(change, PeerDown) else "up" for change in changes]


async def test_a_cancelled_node_says_goodbye_too(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with network.open_node(A) as a:
        theirs = record(a)
        with trio.CancelScope() as scope:
            async with network.open_node(B) as b:
                ours = record(b)
                await b.connect(A)
                await a.nodes.wait_value(frozenset({B}))
                scope.cancel()
                await trio.sleep_forever()
        await a.nodes.wait_value(frozenset())
        assert told(ours) == ["up", "closed_by_us"]
        assert told(theirs) == ["up", "left"]


async def test_a_connection_that_falls_while_it_is_told_is_up_first_for_everybody(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_nodes(A, B) as (a, _b):

        def lose(change: PeerChange) -> None:
            connection = a._peers.get(change.node)
            if isinstance(change, PeerUp) and connection is not None:
                connection.close("lost")  # as a write does that fails

        a.subscribe(lose)
        changes = record(a)
        await a.connect(B)
        assert told(changes) == ["up", "lost"]


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
async def test_a_host_that_no_resolver_takes_is_unreachable(host: str) -> None:
    stranger = Pid(node=Atom(f"b@{host}"), id=1, serial=0, creation=1)
    async with open_node("a@127.0.0.1", cookie="c" * 20, epmd=FixedPort(free_port())) as node:
        with pytest.raises(PeerUnreachable):
            await node.connect(f"b@{host}")
        async with node.open_mailbox() as box:
            ref = box.monitor(stranger)
            with trio.fail_after(5):
                assert await box.receive() == Down(ref, stranger, Atom("noconnection"))


async def test_a_link_to_no_node_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    nowhere = Pid(node=Atom("nowhere"), id=1, serial=0, creation=1)
    async with open_memory_nodes(A) as (a,), a.open_mailbox() as box, a.open_mailbox() as other:
        ref = other.monitor(box.pid)
        with pytest.raises(ValueError, match="nowhere"):
            box.link(nowhere)
        a._processes.close(box._inbox)
        assert await other.receive() == Down(ref, box.pid, Atom("normal"))


@pytest.mark.parametrize("before", [True, False])
async def test_one_large_message_among_small_ones_is_no_silence(
    before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "MAX_OUTBOX", 10_000)
    ours, theirs = memory_stream_pair()
    connection = Connection(
        ours,
        Identity(B, int(OUR_FLAGS), 1),
        agreed=OUR_FLAGS,
        hidden=False,
        dialled=True,
        patience=Patience(),
        limits=Limits(max_bytes=1000),
    )
    sizes = [10, 10, 20_000] if before else [20_000, 10, 10, 10]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run, b"", lambda *_: None)
        for size in sizes:
            connection.send(bytes(size))
        got = 0
        while got < sum(sizes):
            data = await theirs.receive_some()
            assert data, connection.reason
            got += len(data)
        assert connection.reason is None
        for _ in range(3000):
            connection.send(bytes(10))
        assert connection.reason == "silent"


async def test_who_dials_when_the_node_is_left_is_told_so(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with network.open_node(B), trio.open_nursery() as nursery:
        async with network.open_node(A) as a:
            network.cut(A, B)

            async def dial() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await a.connect(B)

            nursery.start_soon(dial)
            await trio.sleep(1)
        network.heal(A, B)


class _Moved:
    """A network whose peer has gone from where it was; somebody else answers there."""

    def __init__(self, answer: Callable[[trio.abc.Stream], Any]) -> None:
        self._answer = answer
        self.forgotten: list[NodeName] = []

    async def serve(self, _accept: Any, *, task_status: trio.TaskStatus[int]) -> None:
        async with trio.open_nursery() as self._nursery:
            task_status.started(1)
            await trio.sleep_forever()

    async def dial(self, _name: NodeName) -> tuple[trio.abc.Stream, Hashable]:
        await trio.lowlevel.checkpoint()
        ours, theirs = memory_stream_pair()
        self._nursery.start_soon(self._answer, theirs)
        return ours, 1

    def forget(self, name: NodeName) -> None:
        self.forgotten.append(name)

    async def withdraw(self) -> None:
        await trio.lowlevel.checkpoint()

    async def locate(self, _name: NodeName) -> Hashable:
        await trio.lowlevel.checkpoint()
        return None

    def acknowledged(self, _stream: trio.abc.Stream) -> int | None:
        return None

    def unheard(self, _stream: trio.abc.Stream) -> float | None:
        return None


async def _speak_http(stream: trio.abc.Stream) -> None:
    await stream.receive_some(1000)
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def _say_nothing(_stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("answer", [_speak_http, _say_nothing])
async def test_where_no_node_answers_is_not_remembered(
    answer: Callable[[trio.abc.Stream], Any], autojump_clock: MockClock
) -> None:
    network = _Moved(answer)
    async with run_node(A, network, cookies=Cookies("memory")) as a:
        with pytest.raises((RemoteProtocolError, PeerUnreachable)):
            await a.connect(B)
        assert network.forgotten == [B]


async def _close(stream: trio.abc.Stream) -> None:
    await stream.receive_some(1000)
    await stream.aclose()


async def _dial_back_for_ever(stream: trio.abc.Stream) -> None:
    await stream.receive_some(1000)
    await stream.send_all(b"\0\4snok")
    await stream.aclose()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(_close, "closed without answering"), (_dial_back_for_ever, "is dialling this node itself")],
)
async def test_who_turns_every_dial_away_is_unreachable_in_time(
    answer: Callable[[trio.abc.Stream], Any], reason: str, autojump_clock: MockClock
) -> None:
    async with run_node(A, _Moved(answer), cookies=Cookies("memory"), connect_timeout=2) as a:
        started = trio.current_time()
        with pytest.raises(PeerUnreachable, match=f"{reason}; no connection came within 2 s"):
            await a.connect(B)
        assert trio.current_time() - started == pytest.approx(2)


async def test_a_connection_that_is_reset_at_once_is_unreachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def reset(stream: trio.SocketStream) -> None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(stream)

    connect = tcp_module._connect

    async def late(*args: Any, **options: Any) -> trio.SocketStream:
        stream = await connect(*args, **options)
        await trio.lowlevel.wait_readable(stream.socket)  # the reset has come
        return stream

    monkeypatch.setattr(tcp_module, "_connect", late)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, reset, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with open_node(
            "a@127.0.0.2",
            cookie="c" * 20,
            epmd=FixedPort(port),
            listen=("127.0.0.2", 0),
            connect_timeout=0.3,
        ) as node:
            with pytest.raises(PeerUnreachable, match="closed without answering"):
                await node.connect("b@127.0.0.1")
        nursery.cancel_scope.cancel()
