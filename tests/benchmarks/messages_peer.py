"""The other end of the message benchmarks, in a process of its own: a node, or raw sockets.

Prints ``ready`` and a port (0 for a node), serves until its standard input ends.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from barnacle_trio import open_node
from barnacle_trio.distribution._control import send as send_body
from barnacle_trio.distribution._frames import frame
from barnacle_trio.etf import Atom

COOKIE = "a_cookie_for_benchmarks"


@asynccontextmanager
async def open_other(command: Sequence[str]) -> AsyncIterator[tuple[trio.Process, int]]:
    """Another process, once it is ready; with it the port that it says."""
    process = await trio.lowlevel.open_process(
        list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = b""
        while not line.endswith(b"\n"):
            data = await process.stdout.receive_some(100)
            assert data, f"{command[0]} ended before it was ready"
            line += data
        yield process, int(line.split()[1])
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                await trio.aclose_forcefully(pipe)


@asynccontextmanager
async def open_peer(kind: str) -> AsyncIterator[int]:
    """The other process: a node of the name ``kind``, or sockets (``raw``); gives its port."""
    async with open_other([sys.executable, "-m", "tests.benchmarks.messages_peer", kind]) as other:
        yield other[1]


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
            connection = node._peers.get(to.node.name)
            one = frame(send_body(box.pid, to, payload, connection.agreed))
            batch = one * 500
            for _ in range(count // 500):
                await connection.wait_writable(len(batch), (None, None))
                connection.send(batch)


async def _bulk(node: Any) -> None:
    """Take a large binary, or give one of that many bytes."""
    async with node.open_mailbox("bulk") as box:
        async for to, what in box:
            await node.send(to, bytes(what) if isinstance(what, int) else Atom("got"))


async def serve_node(name: str) -> None:
    """A node with the four processes above."""
    async with open_node(name, cookie=COOKIE) as node, trio.open_nursery() as nursery:
        for task in (_echo, _count, _flood, _bulk):
            nursery.start_soon(task, node)
        await trio.testing.wait_all_tasks_blocked()
        print("ready 0", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


async def _answer(stream: trio.SocketStream, request: bytes) -> None:
    kind = request[:1]
    if kind == b"e":
        await stream.send_all(len(request).to_bytes(4) + request)
    elif kind == b"f":
        count, size = struct.unpack_from(">II", request, 1)
        batch = (size.to_bytes(4) + bytes(size)) * 500
        for _ in range(count // 500):
            await stream.send_all(batch)
    elif kind == b"b":
        await stream.send_all((1).to_bytes(4) + b"g")
    elif kind == b"g":
        (size,) = struct.unpack_from(">I", request, 1)
        await stream.send_all(size.to_bytes(4) + bytes(size))


async def serve_raw() -> None:
    """The floor: Trio sockets, frames of the same size, no terms.

    The first byte of a frame says what to do with it: ``e`` echo, ``s`` swallow, ``b`` say so once
    it is there, ``g`` give so many bytes, ``f`` flood, of which the next words are count and size.
    Who reads hands over to another task, as whoever reads for several must.
    """

    async def handle(stream: trio.SocketStream) -> None:
        hand_over, requests = trio.open_memory_channel[bytes](100_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_all, stream, requests)
            async with hand_over:
                await read_all(stream, hand_over)

    async def answer_all(
        stream: trio.SocketStream, requests: trio.MemoryReceiveChannel[bytes]
    ) -> None:
        async for request in requests:
            await _answer(stream, request)

    async def read_all(stream: trio.SocketStream, hand_over: trio.MemorySendChannel[bytes]) -> None:
        buffer = bytearray()
        size = 64 * 1024
        while data := await stream.receive_some(size):
            buffer += data
            at = missing = 0
            while len(buffer) - at >= 4:
                length = int.from_bytes(buffer[at : at + 4])
                if len(buffer) - at < 4 + length:
                    missing = 4 + length - (len(buffer) - at)
                    break
                if buffer[at + 4] != ord("s"):
                    hand_over.send_nowait(bytes(buffer[at + 4 : at + 4 + length]))
                at += 4 + length
            del buffer[:at]
            size = min(max(missing, 64 * 1024), 1024 * 1024)

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
