"""Requests to a port mapper of ours, byte by byte."""

from __future__ import annotations

import trio

from tests.epmd_lab import PATIENCE, ask, connect, framed


async def register(port: int, body: bytes) -> tuple[trio.SocketStream, bytes]:
    stream = await connect(port)
    await stream.send_all(framed(body))
    with trio.fail_after(PATIENCE):
        return stream, await stream.receive_some()


async def until_free(port: int, name: bytes) -> None:
    with trio.fail_after(PATIENCE):
        while await ask(port, framed(b"z" + name)) != b"w\x01":
            await trio.lowlevel.checkpoint()
