"""Peers by hand: what is sent to a node, before and after it lets one in, byte for byte."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from barnacle_trio.distribution import Node, open_node
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._flags import PLAIN, Flag
from barnacle_trio.distribution._frames import FrameDecoder, frame
from barnacle_trio.epmd import lookup
from barnacle_trio.etf import Atom, Pid, Reference
from tests.beam import COOKIE, unique

CREATION = 7
"""Of every intruder."""


@asynccontextmanager
async def reachable_node(**options: Any) -> AsyncIterator[tuple[Node, int]]:
    """A node of ours, and the port on which it listens."""
    async with open_node(unique("py"), cookie=COOKIE, **options) as node:
        entry = await lookup(node.name.basename, "127.0.0.1")
        assert entry is not None
        yield node, entry.port


def message(body: bytes) -> bytes:
    """A message of the handshake."""
    return struct.pack(">H", len(body)) + body


def name_message(name: bytes, flags: int = int(PLAIN)) -> bytes:
    """The handshake's first message."""
    return message(struct.pack(">cQIH", b"N", flags, CREATION, len(name)) + name)


async def drained(stream: trio.abc.ReceiveStream) -> bytes:
    """All that comes until the other side closes."""
    data = b""
    try:
        async for part in stream:
            data += part
    except trio.BrokenResourceError:
        pass
    return data


async def intrude(
    port: int, name: str, cookie: str = COOKIE, flags: Flag = PLAIN
) -> trio.SocketStream:
    """A peer that knows the cookie, by hand."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await be_let_in(stream, name, cookie, flags)
    return stream


async def be_let_in(stream: trio.abc.Stream, name: str, cookie: str, flags: Flag = PLAIN) -> None:
    """Shake hands by hand."""
    await stream.send_all(name_message(name.encode(), int(flags)))
    data = b""
    while len(data) < 5 or len(data) < 5 + 2 + int.from_bytes(data[5:7]):
        data += await stream.receive_some(1000)
    assert data[2:5] == b"sok", data
    challenge = int.from_bytes(data[7 + 9 : 7 + 13])
    proof = hashlib.md5(cookie.encode() + str(challenge).encode()).digest()  # noqa: S324 - the protocol's
    await stream.send_all(message(b"r" + struct.pack(">I", 4711) + proof))
    ack = b""
    while len(ack) < 19:
        ack += await stream.receive_some(19 - len(ack))
    assert ack[2:3] == b"a"


class Intruder:
    """A peer that was let in, and says and hears control messages."""

    def __init__(self, name: str, stream: trio.abc.Stream, flags: Flag = PLAIN) -> None:
        self.name = name
        self.stream = stream
        self.flags = flags
        self._frames = FrameDecoder()
        self._heard: list[control.Message] = []

    def pid(self, number: int, *, node: str | None = None, creation: int = CREATION) -> Pid:
        """A pid of it, or of another node."""
        return Pid(node=Atom(node or self.name), id=number, serial=0, creation=creation)

    def ref(self, number: int) -> Reference:
        """A reference of it."""
        return Reference(node=Atom(self.name), creation=CREATION, ids=(number, 0, 0))

    async def send(self, *bodies: bytes) -> None:
        """Send bodies of frames."""
        await self.stream.send_all(b"".join(map(frame, bodies)))

    async def hear(self) -> control.Message:
        """The next control message that is no question whether it is alive."""
        while not self._heard:
            data = await self.stream.receive_some(65536)
            assert data, "the node closed the connection"
            bodies = self._frames.feed(bytes(data))
            headed = Flag.FRAGMENTS in self.flags
            heard = [control.parse(body, headed=headed) for body in bodies if body]
            self._heard += [each for each in heard if not _is_probe(each)]
        return self._heard.pop(0)

    async def heard_last(self) -> list[control.Message]:
        """All that was heard until the node has acted on everything that was sent."""
        ref = self.ref(0xFFFF)
        await self.send(control.monitor(self.pid(0xFFFF), Atom("nobody at all"), ref, self.flags))
        heard: list[control.Message] = []
        while True:
            each = await self.hear()
            if isinstance(each, control.MonitorExit) and each.ref == ref:
                return heard
            heard.append(each)


def _is_probe(heard: control.Message) -> bool:
    return isinstance(heard, control.RegSend) and heard.to is Atom("net_kernel")


@asynccontextmanager
async def open_intruder(
    node: Node, port: int, name: str | None = None, *, flags: Flag = PLAIN
) -> AsyncIterator[Intruder]:
    """Have a peer by hand let in by a node."""
    name = name or unique("intruder")
    stream = await intrude(port, name, flags=flags)
    try:
        await node.hidden_nodes.wait_value(lambda there: name in there)
        yield Intruder(name, stream, flags)
    finally:
        await trio.aclose_forcefully(stream)
