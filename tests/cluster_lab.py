"""Clusters of real processes: Python nodes that tell what they see, and how long healing takes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import trio

from barnacle_trio import Barnacle, BarnacleError, Node, NodeName, open_node
from barnacle_trio.epmd import names, open_registration
from tests.beam import COOKIE, Beam, open_beam, unique
from tests.erlang import Erlang

PATIENCE = 20.0
"""Seconds that anything here may take on a busy machine; nothing waits for them to pass."""


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = PATIENCE) -> None:
    """Wait for what another process cannot tell us of."""
    with trio.fail_after(seconds):
        while not await condition():  # noqa: ASYNC110 - nobody could set an event
            await trio.sleep(0.005)


# -- Python nodes in processes of their own -------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What a peer told: ``at`` is on the clock of `time.monotonic`, here as there."""

    what: str
    at: float
    node: str = ""
    reason: str = ""


class Peer:
    """A Python node in a process of its own. Made by `open_peer`."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self.process = process
        self.told: list[Told] = []
        self._more = trio.Event()

    def downs(self) -> list[tuple[str, str]]:
        """Each node that went down, with the reason."""
        return [(each.node, each.reason) for each in self.told if each.what == "NodeDown"]

    def ups(self) -> list[str]:
        """Each node that came up."""
        return [each.node for each in self.told if each.what == "NodeUp"]

    @property
    def nodes(self) -> set[str]:
        """The nodes that its barnacle has connected."""
        nodes: set[str] = set()
        for each in self.told:
            if each.what == "NodeUp":
                nodes.add(each.node)
            elif each.what == "NodeDown":
                nodes.discard(each.node)
        return nodes

    async def wait_told(self, condition: Callable[[Peer], bool], seconds: float = PATIENCE) -> None:
        """Wait until what it told is as wanted."""
        with trio.move_on_after(seconds) as scope:
            await trio.lowlevel.checkpoint()
            while not condition(self):
                await self._more.wait()
        assert not scope.cancelled_caught, f"{self.name} told only {self.told}"

    async def wait_nodes(self, *nodes: str) -> None:
        """Wait until it has these connected and no others."""
        await self.wait_told(lambda peer: peer.nodes == set(nodes))

    def freeze(self) -> None:
        """Stop it where it stands, without a word to anybody."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        self.process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """End it without a chance to say anything."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def read_output(self) -> None:
        assert self.process.stdout is not None
        buffer = b""
        async for data in self.process.stdout:
            *lines, buffer = (buffer + data).split(b"\n")
            self.told += [Told(**json.loads(line)) for line in lines]
            self._more.set()
            self._more = trio.Event()


@asynccontextmanager
async def open_peer(
    name: str | None = None,
    *,
    discover: str | Sequence[str] = (),
    poll_interval: float = 5.0,
    failure_timeout: float = 10.0,
    prune_after: float = 60.0,
) -> AsyncIterator[Peer]:
    """Run a Python node with a barnacle in a process of its own until the block ends.

    Args:
      name: of the node.
      discover: ``"local_epmd"``, or the names that its barnacle keeps connected.
      poll_interval: of its barnacle, as ``prune_after`` is.
      failure_timeout: of its node.
      prune_after: see ``poll_interval``.
    """
    spec: dict[str, Any] = {
        "name": name or unique("peer"),
        "cookie": COOKIE,
        "discover": discover if isinstance(discover, str) else list(discover),
        "poll_interval": poll_interval,
        "failure_timeout": failure_timeout,
        "prune_after": prune_after,
    }
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.cluster_program", json.dumps(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    try:
        peer = Peer(spec["name"], process)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.read_output)
            await peer.wait_told(lambda peer: any(each.what == "Ready" for each in peer.told))
            yield peer
            nursery.cancel_scope.cancel("the block ended")
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                await trio.aclose_forcefully(pipe)


# -- many nodes in this process, and peers that stall ---------------------------------------------


@asynccontextmanager
async def open_nodes(number: int) -> AsyncIterator[list[Node]]:
    """Open so many nodes in this process, which do not know each other."""
    async with AsyncExitStack() as stack:
        nodes = [open_node(unique("many"), cookie=COOKIE) for _ in range(number)]
        yield [await stack.enter_async_context(node) for node in nodes]


Stall = Literal["mute", "black_hole"]
"""A ``mute`` peer takes connections and says nothing; a ``black_hole`` does not even take them."""


@asynccontextmanager
async def open_stalled(number: int, how: Stall) -> AsyncIterator[list[str]]:
    """Register so many names, with a port mapper that runs, at ports where nobody will answer."""
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel, "the block ended")
        stalled = []
        for _ in range(number):
            if how == "mute":
                listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
                await nursery.start(trio.serve_listeners, _stay_mute, listeners)
                port = listeners[0].socket.getsockname()[1]
            else:
                port = stack.enter_context(_black_hole())
            name = NodeName(unique("a_stalled"))
            await stack.enter_async_context(open_registration(name.basename, port))
            stalled.append(name)
        yield [*stalled]


async def _stay_mute(_stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


@contextmanager
def _black_hole() -> Iterator[int]:
    """A port whose queue of connections is full, as that of a stopped process is in the end."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        for _ in range(4):  # more than fit: the kernel leaves the last ones unanswered
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect(address)
        yield address[1]


# -- what BEAM nodes see --------------------------------------------------------------------------


async def sees(beam: Beam, *nodes: str) -> None:
    """Wait until a BEAM node has these connected and no others, hidden or visible."""
    expected = "[" + ",".join(f'"{name}"' for name in sorted(nodes)) + "]"

    async def same() -> bool:
        return expected == await beam.eval("[atom_to_list(N) || N <- lists:sort(nodes(connected))]")

    await until(same)


async def watch_nodes(beam: Beam) -> None:
    """Have a BEAM node keep account of the ups and downs from now on."""
    assert await beam.eval("net_kernel:monitor_nodes(true)") == "ok"


async def downs(beam: Beam) -> list[str]:
    """The nodes that a BEAM node saw going down since `watch_nodes`, or since the last call."""
    answer = await beam.eval(
        "(fun F(L) -> receive {nodedown, N} -> F([atom_to_list(N)|L]); {nodeup, _} -> F(L)"
        " after 0 -> lists:reverse(L) end end)([])"
    )
    found: list[str] = json.loads(answer)
    return found


# -- healing --------------------------------------------------------------------------------------


class Killable(Protocol):
    """A node in another process."""

    async def kill(self) -> None:
        """End it without a chance to say anything."""


def start_beam(erlang: Erlang, name: str) -> Callable[[], AbstractAsyncContextManager[Beam]]:
    """What starts a BEAM node, as often as it is called."""
    return lambda: open_beam(erlang, name)


def start_peer(name: str) -> Callable[[], AbstractAsyncContextManager[Peer]]:
    """What starts a Python node that dials nobody, as often as it is called."""
    return lambda: open_peer(name)


async def is_listed(name: str) -> bool:
    """Whether the port mapper gives a port for a node. Nodes listen before they register."""
    checked = NodeName(name)
    try:
        return checked.basename in await names(checked.host)
    except BarnacleError:
        return False


class Observer(Protocol):
    """Somebody who connects a node, and tells whether it is connected."""

    async def meet(self, name: str) -> None:
        """Connect it for the first time; it can be reached."""

    async def wait(self, name: str, *, up: bool) -> None:
        """Wait until it is, or is not."""


@dataclass(frozen=True)
class Kept:
    """The nodes that a barnacle keeps connected, as an `Observer`."""

    barnacle: Barnacle

    async def meet(self, name: str) -> None:
        """See `Observer`."""
        await self.barnacle.refresh()
        await self.wait(name, up=True)

    async def wait(self, name: str, *, up: bool) -> None:
        """See `Observer`."""
        await self.barnacle.nodes.wait_value(lambda nodes: (name in nodes) is up)


async def heal(
    start: Callable[[], AbstractAsyncContextManager[Killable]],
    name: str,
    observers: Sequence[Observer],
    *,
    rounds: int = 1,
    absent: Callable[[], float] = lambda: 0.0,
) -> list[list[float]]:
    """Kill a node and start it again, so many times.

    Args:
      start: starts the node.
      name: of the node.
      observers: who connects it, or watches over who does.
      rounds: how often.
      absent: seconds between the two, beside those that starting takes.

    Returns: for each round and observer the seconds from when the node could be reached to when it
    was connected.
    """
    times: list[list[float]] = []
    async with start() as node:
        with trio.fail_after(60):
            await trio.lowlevel.checkpoint()
            for observer in observers:
                await observer.meet(name)
        await node.kill()
    for _ in range(rounds):
        await _all_see(observers, name, up=False)
        await until(lambda: _is_gone(name))
        await trio.sleep(absent())
        async with trio.open_nursery() as nursery:
            measured = _Measured(name, observers)
            nursery.start_soon(measured.run)
            async with start() as node:
                times.append(await measured.times())
                await node.kill()
    return times


class _Measured:
    """How long after it could be reached a node was connected."""

    def __init__(self, name: str, observers: Sequence[Observer]) -> None:
        self._name = name
        self._moments = dict.fromkeys(observers, 0.0)
        self._listed = 0.0
        self._over = trio.Event()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for observer in self._moments:
                nursery.start_soon(self._note, observer)
            await until(lambda: is_listed(self._name))
            self._listed = trio.current_time()
        self._over.set()

    async def _note(self, observer: Observer) -> None:
        await _all_see([observer], self._name, up=True)
        self._moments[observer] = trio.current_time()

    async def times(self) -> list[float]:
        await self._over.wait()
        # Who dials all the time may be there before we have read the list.
        return [max(0.0, moment - self._listed) for moment in self._moments.values()]


async def _is_gone(name: str) -> bool:
    return not await is_listed(name)


async def _all_see(observers: Sequence[Observer], name: str, *, up: bool) -> None:
    with trio.fail_after(60):
        await trio.lowlevel.checkpoint()
        for observer in observers:
            await observer.wait(name, up=up)


def open_sockets() -> int:
    """How many sockets this process has open."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found += str(entry.readlink()).startswith("socket:")
        except FileNotFoundError:  # the directory's own
            continue
    return found
