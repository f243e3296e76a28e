"""What one connection costs: a dial with its handshake, beside a bare TCP connect.

The handshake takes two round trips after the connect ("Distribution Protocol"), so the floor is a
bare Trio socket that connects to another process and goes there and back twice. The two take turns.
Ports are remembered, so no port mapper is asked.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from time import perf_counter

import trio

from barnacle_trio import Node, open_node
from tests.beam import COOKIE, open_beam, unique
from tests.benchmarks.tables import median, percentile, print_table
from tests.cluster_lab import open_peer
from tests.erlang import require_erlangs

DIALS = 200
PAUSE = 0.01
"""Seconds in which the peer notes that the connection before is closed."""
SIZE = 40
"""Bytes of one message, about, as in a handshake."""

_ECHO = """
import functools, trio

async def echo(stream):
    async for data in stream:
        await stream.send_all(data)

async def main():
    async with trio.open_nursery() as nursery:
        serve = functools.partial(trio.serve_tcp, echo, 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        print(listeners[0].socket.getsockname()[1], flush=True)

trio.run(main)
"""


@asynccontextmanager
async def open_echo() -> AsyncIterator[int]:
    """Another process that sends back what it is sent; gives its port."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", _ECHO], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield int(await process.stdout.receive_some())
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        await trio.aclose_forcefully(process.stdout)


async def floor(port: int) -> None:
    """Connect, and go there and back twice."""
    with trio.socket.socket() as sock:
        await sock.connect(("127.0.0.1", port))
        stream = trio.SocketStream(sock)
        for _ in range(2):
            await stream.send_all(bytes(SIZE))
            received = 0
            while received < SIZE:
                received += len(await stream.receive_some(4096))


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds."""
    began = perf_counter()
    await work()
    return (perf_counter() - began) * 1000


async def dials(node: Node, peer: str, port: int) -> tuple[list[float], list[float]]:
    """The milliseconds of our dials and of the floor's."""
    ours, theirs = [], []
    await node.connect(peer)
    for _ in range(DIALS):
        await node.disconnect(peer)
        await trio.sleep(PAUSE)
        ours.append(await timed(lambda: node.connect(peer)))
        theirs.append(await timed(lambda: floor(port)))
    return ours, theirs


async def main() -> None:
    """Print the table."""
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(open_node(unique("py"), cookie=COOKIE))
        port = await stack.enter_async_context(open_echo())
        peers = {"Python": (await stack.enter_async_context(open_peer())).name}
        for erlang in require_erlangs():
            beam = await stack.enter_async_context(open_beam(erlang))
            peers[f"BEAM, OTP {erlang.version}"] = beam.name
        rows: list[tuple[object, ...]] = []
        for what, peer in peers.items():
            ours, theirs = await dials(node, peer, port)
            bare = median(theirs)
            rows.append((what, median(ours), percentile(ours, 0.95), bare, median(ours) / bare))
    print_table(
        f"dial: milliseconds for connect and handshake, {DIALS} each",
        ("peer", "p50", "p95", "floor p50", "p50/floor"),
        rows,
    )
    print("  floor: a bare TCP connect and two round trips")
