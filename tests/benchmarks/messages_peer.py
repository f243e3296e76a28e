"""The other end of the message benchmarks, in a process of its own: a node, or raw sockets.

Prints ``ready`` and a port (0 for a node), serves until its standard input ends.
"""

from __future__ import annotations

import struct
import sys
from typing import Any

import trio
import trio.testing

from barnacle_trio import open_node
from barnacle_trio.distribution._control import send as send_body
from barnacle_trio.distribution._frames import frame
from barnacle_trio.etf import Atom

COOKIE = "a_cookie_for_benchmarks"


async def _echo(node: Any) -> None:
    """Send every message back to the pid that stands in it."""
    async with node.open_mailbox("echo") as box:
        async for message in box:
            await node.send(message[0], message)


async def _count(node: Any) -> None:
    """Take messages; tell who asks how many there were."""
    async with node.open_mailbox("sink", max_length=10_000_000) as box:
        count = 0
        async for message in box:
            if type(message) is tuple and message[0] is Atom("total"):
                await node.send(message[1], (Atom("total"), count))
                count = 0
            else:
                count += 1


async def _flood(node: Any) -> None:
    """Send as many messages as asked for, as fast as a raw sender of ready frames can."""
    async with node.open_mailbox("flood") as box:
        async for to, count, payload in box:
            one = frame(send_body(box.pid, to, payload))
            batch = one * 500
            connection = node._peers.get(to.node.name)
            for _ in range(count // 500):
                await connection.wait_writable()
                connection.send(batch)


async def serve_node(name: str) -> None:
    """A node with the three processes above."""
    async with open_node(name, cookie=COOKIE) as node, trio.open_nursery() as nursery:
        for task in (_echo, _count, _flood):
            nursery.start_soon(task, node)
        await trio.testing.wait_all_tasks_blocked()
        print("ready 0", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


async def serve_raw() -> None:
    """The floor: Trio sockets, frames of the same size, no terms.

    The first byte of a frame says what to do with it: ``e`` echo, ``s`` swallow, ``f`` flood, of
    which the next words are a count and a size.
    """

    async def handle(stream: trio.SocketStream) -> None:
        buffer = bytearray()
        async for data in stream:
            buffer += data
            at = 0
            while len(buffer) - at >= 4:
                size = int.from_bytes(buffer[at : at + 4])
                if len(buffer) - at < 4 + size:
                    break
                kind = buffer[at + 4]
                if kind == 101:
                    await stream.send_all(bytes(buffer[at : at + 4 + size]))
                elif kind == 102:
                    count, length = struct.unpack_from(">II", buffer, at + 5)
                    batch = (length.to_bytes(4) + bytes(length)) * 500
                    for _ in range(count // 500):
                        await stream.send_all(batch)
                at += 4 + size
            del buffer[:at]

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, handle, 0)
        print("ready", listeners[0].socket.getsockname()[1], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    if sys.argv[1] == "raw":
        trio.run(serve_raw)
    else:
        trio.run(serve_node, sys.argv[1])
