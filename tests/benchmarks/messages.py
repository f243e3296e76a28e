"""Messages: how far from the floor? Everything is interleaved in one run; only ratios count.

    python -m tests.benchmarks messages

The floor is what bare Trio sockets do with frames of the same size, without a term in them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from statistics import median, quantiles
from time import perf_counter

import trio

from barnacle_trio import Node, open_node
from barnacle_trio.etf import Atom, Pid, decode, encode
from tests.beam import open_beam, unique
from tests.benchmarks.messages_peer import COOKIE
from tests.erlang import ERLANGS

ROUNDS = 5
TRIPS = 2_000
FLOOD = 50_000


@asynccontextmanager
async def peer(kind: str) -> AsyncIterator[int]:
    """The other process; gives its port, 0 for a node."""
    command = [sys.executable, "-m", "tests.benchmarks.messages_peer", kind]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            line += await process.stdout.receive_some(100)
        yield int(line.split()[1])
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def timed(work: Callable[[], Awaitable[object]], times: int) -> list[float]:
    """Microseconds of each of so many calls."""
    taken = []
    for _ in range(times):
        started = perf_counter()
        await work()
        taken.append((perf_counter() - started) * 1e6)
    return taken


class Floor:
    """The same traffic on a bare Trio socket, with a reader task that wakes the caller."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._send, self._receive = trio.open_memory_channel[int](1000)

    async def read(self) -> None:
        """Cut frames, and wake who waits for the last one read."""
        buffer = bytearray()
        async for data in self.stream:
            buffer += data
            at = count = 0
            while len(buffer) - at >= 4:
                size = int.from_bytes(buffer[at : at + 4])
                if len(buffer) - at < 4 + size:
                    break
                at += 4 + size
                count += 1
            del buffer[:at]
            if count:
                self._send.send_nowait(count)

    async def trip(self, payload: bytes) -> None:
        """There and back."""
        await self.stream.send_all(payload)
        await self._receive.receive()

    async def take(self, count: int) -> None:
        """Wait for so many frames."""
        while count > 0:
            count -= await self._receive.receive()


def rate(count: int, seconds: float) -> str:
    """Thousands a second."""
    return f"{count / seconds / 1000:.0f} k/s"


async def round_trips(node: Node, floor: Floor, echo: str, sizes: tuple[int, ...]) -> None:
    """Round trips of small messages, in turn with the floor's."""
    async with node.open_mailbox() as box:
        for size in sizes:
            payload = bytes(size)
            term = (box.pid, payload)
            framed = (len(encode(term)) + 60).to_bytes(4) + b"e" + bytes(len(encode(term)) + 59)

            async def trip(term: tuple[Pid, bytes] = term) -> None:
                await node.send(("echo", echo), term)
                await box.receive()

            ours: list[float] = []
            theirs: list[float] = []
            for _ in range(ROUNDS):
                ours += await timed(trip, TRIPS // ROUNDS)
                theirs += await timed(partial(floor.trip, framed), TRIPS // ROUNDS)
            for label, index in (("p50", 49), ("p99", 98)):
                mine, base = quantiles(ours, n=100)[index], quantiles(theirs, n=100)[index]
                print(
                    f"round trip {size} B {label}: {mine:.0f} us, floor {base:.0f} us, "
                    f"ratio {mine / base:.2f}"
                )


async def one_way(node: Node, floor: Floor, other: str) -> None:
    """Small messages out and in, decoded into a mailbox."""
    term = (Atom("event"), 17, {Atom("kind"): Atom("up"), Atom("value"): 42})
    async with node.open_mailbox(max_length=10_000_000) as box:
        sink, flood = ("sink", other), ("flood", other)
        for _ in range(ROUNDS):
            started = perf_counter()
            for _ in range(FLOOD):
                await node.send(sink, term)
            out = perf_counter() - started
            await node.send(sink, (Atom("total"), box.pid))
            assert (await box.receive())[1] == FLOOD
            done = perf_counter() - started
            started = perf_counter()
            await node.send(flood, (box.pid, FLOOD, term))
            for _ in range(FLOOD):
                await box.receive()
            into = perf_counter() - started
            size = len(encode(term)) + 80
            started = perf_counter()
            await floor.stream.send_all(
                (9).to_bytes(4) + b"f" + FLOOD.to_bytes(4) + size.to_bytes(4)
            )
            await floor.take(FLOOD)
            base = perf_counter() - started
            print(
                f"one way: out {rate(FLOOD, out)} (received {rate(FLOOD, done)}), "
                f"in {rate(FLOOD, into)}; floor in {rate(FLOOD, base)}"
            )


async def large(node: Node, floor: Floor, echo: str) -> None:
    """A 32 MiB binary there and back."""
    payload = bytes(32 * 1024 * 1024)
    async with node.open_mailbox() as box:
        for _ in range(3):
            started = perf_counter()
            await node.send(("echo", echo), (box.pid, payload))
            await box.receive()
            ours = perf_counter() - started
            started = perf_counter()
            await floor.trip(len(payload).to_bytes(4) + b"e" + payload[1:])
            base = perf_counter() - started
            print(f"32 MiB there and back: {64 / ours:.0f} MiB/s, floor {64 / base:.0f} MiB/s")


def codec() -> None:
    """The codec alone."""
    maps = [
        {Atom("id"): i, Atom("name"): f"n{i}", Atom("on"): True, Atom("x"): 1.5}
        for i in range(1000)
    ]
    small = (Atom("event"), 17, {Atom("kind"): Atom("up"), Atom("value"): 42})
    for what, term, times in (
        ("small", small, 20_000),
        ("1000 maps", maps, 20),
        ("1 MiB", bytes(1 << 20), 200),
    ):
        data = encode(term)
        for label, work in (
            ("encode", partial(encode, term)),
            ("decode", partial(decode, data)),
        ):
            best = min(_spent(work, times) for _ in range(5))
            print(f"{label} {what}: {best * 1e6:.1f} us")


def _spent(work: Callable[[], object], times: int) -> float:
    started = perf_counter()
    for _ in range(times):
        work()
    return (perf_counter() - started) / times


async def beam_trips(node: Node) -> None:
    """Round trips with an echo process on real BEAM nodes."""
    for erlang in ERLANGS:
        async with open_beam(erlang, cookie=COOKIE) as beam, node.open_mailbox() as box:
            await beam.eval(
                "register(echo, spawn(fun() -> F = fun F() -> receive {P, _} = M -> P ! M end,"
                " F() end, F() end))"
            )
            await node.connect(beam.name)

            async def trip() -> None:
                await node.send(("echo", beam.name), (box.pid, b"x" * 64))
                await box.receive()

            taken = await timed(trip, TRIPS)
            print(f"round trip 64 B with OTP {erlang.version}: p50 {median(taken):.0f} us")


async def main() -> None:
    """Run them all."""
    codec()
    name = unique("bench")
    async with open_node(unique("bench"), cookie=COOKIE) as node, peer(name), peer("raw") as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        floor = Floor(stream)
        await node.connect(name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(floor.read)
            await round_trips(node, floor, name, (64, 1024))
            await one_way(node, floor, name)
            await large(node, floor, name)
            nursery.cancel_scope.cancel()
        await beam_trips(node)
