"""Real nodes, joined by memory streams: no socket, no port mapper, any clock."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Hashable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import trio
from trio.testing import (
    MemoryReceiveStream,
    MemorySendStream,
    memory_stream_one_way_pair,
    memory_stream_pump,
)

from barnacle_trio._errors import NameTakenError, PeerUnreachable
from barnacle_trio._names import Match, NodeName, matcher
from barnacle_trio.distribution._cookie import Cookies
from barnacle_trio.distribution._detector import Patience
from barnacle_trio.distribution._network import Accept
from barnacle_trio.distribution._node import Node, run_node


class _Wire:
    """One direction between two nodes; while it is cut, what is sent waits, as TCP's would."""

    def __init__(self) -> None:
        self.cut = False
        self._ended = False
        self.send, self.receive = memory_stream_one_way_pair()
        self.send.send_all_hook = self._sent
        self.send.close_hook = self._closed

    async def _sent(self) -> None:
        await trio.lowlevel.checkpoint()
        self.pump()

    def _closed(self) -> None:
        self._ended = True
        self.pump()

    def pump(self) -> None:
        if not self.cut and memory_stream_pump(self.send, self.receive) and self._ended:
            memory_stream_pump(self.send, self.receive)  # the end comes after the last data


_Stream = trio.StapledStream[MemorySendStream, MemoryReceiveStream]


class MemoryNetwork:
    """A network in memory, in which nodes are opened and pairs of them are cut apart.

    Everything runs on Trio's clock alone, so with `trio.testing.MockClock` (pytest-trio's
    ``autojump_clock``) a test of many minutes takes no time.
    """

    def __init__(self) -> None:
        self._accepts: dict[NodeName, Accept] = {}
        self._nurseries: dict[NodeName, trio.Nursery] = {}
        self._creations = itertools.count(1)
        self._incarnations: dict[NodeName, int] = {}
        self._cut: set[frozenset[NodeName]] = set()
        self._wires: dict[frozenset[NodeName], list[_Wire]] = {}
        self._healed = trio.Event()

    @asynccontextmanager
    async def open_node(
        self,
        name: str,
        *,
        cookie: str = "memory",
        hidden: bool = False,
        net_ticktime: float = 60.0,
        failure_timeout: float = 10.0,
        connect_timeout: float = 7.0,
        allow: Match | None = None,
    ) -> AsyncIterator[Node]:
        """Open a node in this network; the arguments are those of `barnacle_trio.open_node`.

        Raises:
          NameTakenError: a node of that name is open here.
        """
        checked = NodeName(name)
        async with run_node(
            checked,
            _Place(self, checked),
            cookies=Cookies(cookie),
            hidden=hidden,
            patience=Patience(failure_timeout=failure_timeout, net_ticktime=net_ticktime),
            connect_timeout=connect_timeout,
            allowed=matcher(allow),
        ) as node:
            yield node

    def cut(self, one: str, other: str) -> None:
        """Cut two nodes apart: what they send waits, and dials are not answered."""
        pair = frozenset((NodeName(one), NodeName(other)))
        self._cut.add(pair)
        for wire in self._wires.get(pair, ()):
            wire.cut = True

    def heal(self, one: str, other: str) -> None:
        """Join two nodes again: what was sent arrives, waiting dials go on."""
        pair = frozenset((NodeName(one), NodeName(other)))
        self._cut.discard(pair)
        for wire in self._wires.get(pair, ()):
            wire.cut = False
            with suppress(trio.BrokenResourceError):
                wire.pump()
        self._healed.set()
        self._healed = trio.Event()

    async def _serve(
        self, name: NodeName, accept: Accept, task_status: trio.TaskStatus[int]
    ) -> None:
        if name in self._accepts:
            raise NameTakenError(f"{name} is open in this network already")
        async with trio.open_nursery() as nursery:
            self._accepts[name] = accept
            self._nurseries[name] = nursery
            self._incarnations[name] = next(self._creations)
            try:
                task_status.started(self._incarnations[name])
                await trio.sleep_forever()
            finally:
                if self._nurseries.get(name) is nursery:
                    self._withdraw(name)

    def _withdraw(self, name: NodeName) -> None:
        self._accepts.pop(name, None)
        self._nurseries.pop(name, None)
        self._incarnations.pop(name, None)

    async def _dial(self, caller: NodeName, name: NodeName) -> tuple[_Stream, Hashable]:
        pair = frozenset((caller, name))
        while pair in self._cut:
            await self._healed.wait()
        await trio.lowlevel.checkpoint()
        nursery = self._nurseries.get(name)
        if nursery is None:
            raise PeerUnreachable(f"{name} is not open in this network")
        there, back = _Wire(), _Wire()
        self._wires.setdefault(pair, []).extend((there, back))
        ours = trio.StapledStream(there.send, back.receive)
        theirs = trio.StapledStream(back.send, there.receive)
        nursery.start_soon(self._run_accepted, pair, (there, back), self._accepts[name], theirs)
        return ours, self._incarnations[name]

    async def _run_accepted(
        self, pair: frozenset[NodeName], wires: tuple[_Wire, _Wire], accept: Accept, stream: _Stream
    ) -> None:
        try:
            await accept(stream)
        finally:
            for wire in wires:
                self._wires[pair].remove(wire)
            await trio.aclose_forcefully(stream)


class _Place:
    """A node's place in a `MemoryNetwork`."""

    def __init__(self, hub: MemoryNetwork, name: NodeName) -> None:
        self._hub = hub
        self._name = name
        self._withdrawn = False

    async def serve(self, accept: Accept, *, task_status: trio.TaskStatus[int]) -> None:  # noqa: ASYNC128 - passed on
        await self._hub._serve(self._name, accept, task_status)

    async def withdraw(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self._withdrawn:  # later, another node may bear the name
            self._withdrawn = True
            self._hub._withdraw(self._name)

    async def dial(self, name: NodeName) -> tuple[trio.abc.Stream, Hashable]:
        return await self._hub._dial(self._name, name)

    def forget(self, name: NodeName) -> None:
        pass  # nothing is remembered here

    async def locate(self, name: NodeName) -> Hashable:
        await trio.lowlevel.checkpoint()
        return self._hub._incarnations.get(name)

    def acknowledged(self, _stream: trio.abc.Stream) -> int | None:
        return None

    def unheard(self, _stream: trio.abc.Stream) -> float | None:
        return None


@asynccontextmanager
async def open_memory_nodes(*names: str, cookie: str = "memory") -> AsyncIterator[tuple[Node, ...]]:
    """Open real nodes that reach each other through memory; they are not connected yet.

    For more control (nodes that come and go, cuts) use `MemoryNetwork`.

    Raises:
      NameTakenError: a name is given twice.
    """
    network = MemoryNetwork()
    async with AsyncExitStack() as stack:
        yield tuple(
            [await stack.enter_async_context(network.open_node(n, cookie=cookie)) for n in names]
        )
