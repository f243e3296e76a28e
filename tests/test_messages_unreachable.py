"""Messages to what is no node: a `ConnectError` for each, and no harm to the others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from barnacle_trio import FixedPort, Node, NodeName, PeerUnreachable, RemoteProtocolError, open_node
from barnacle_trio.epmd import Epmd, PortMapper
from tests.ports import free_port

COOKIE = "c" * 20
US, GOOD, JUNK = NodeName("a@127.0.0.1"), NodeName("b@127.0.0.2"), NodeName("junk@127.0.0.3")
HTTP = b"HTTP/1.1 400 Bad Request\r\n\r\n"


@asynccontextmanager
async def open_junk(host: str, port: int, answer: bytes = HTTP) -> AsyncIterator[None]:
    """Something listens there, and is neither a node nor a port mapper."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(1000)
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_tcp, serve, port, host=host))
        yield
        nursery.cancel_scope.cancel()


def open_one(name: NodeName, mapper: PortMapper, port: int = 0) -> Any:
    return open_node(name, cookie=COOKIE, epmd=mapper, listen=(name.host, port))


async def test_a_broadcast_reaches_the_others_where_one_is_no_node() -> None:
    port = free_port()
    with trio.fail_after(10):
        async with (
            open_junk(JUNK.host, port),
            open_one(US, FixedPort(port), port) as node,
            open_one(GOOD, FixedPort(port), port) as good,
            good.open_mailbox("box") as box,
        ):
            errors = await node.broadcast("box", 1, [JUNK, GOOD])
            assert await box.receive() == 1
    assert list(errors) == [JUNK]
    assert isinstance(errors[JUNK], PeerUnreachable)
    assert isinstance(errors[JUNK].__cause__, RemoteProtocolError)


async def test_a_broadcast_reports_a_port_mapper_that_is_none() -> None:
    port = free_port()
    with trio.fail_after(10):
        async with open_one(US, Epmd(port=port)) as node, open_junk(JUNK.host, port):
            errors = await node.broadcast("box", 1, [JUNK])
    assert isinstance(errors[JUNK].__cause__, RemoteProtocolError)


TALK: dict[str, Callable[[Node], Awaitable[Any]]] = {
    "send": lambda node: node.send(("box", JUNK), 1),
    "cast": lambda node: node.cast(("box", JUNK), 1),
    "call": lambda node: node.call(("box", JUNK), 1),
    "rpc": lambda node: node.rpc(JUNK, "erlang", "node"),
}


@pytest.mark.parametrize("talk", TALK.values(), ids=TALK)
async def test_who_talks_to_no_node_is_told_that_it_cannot_be_connected(
    talk: Callable[[Node], Awaitable[Any]],
) -> None:
    port = free_port()
    with trio.fail_after(10):
        async with open_junk(JUNK.host, port), open_one(US, FixedPort(port), port) as node:
            with pytest.raises(PeerUnreachable, match=JUNK) as caught:
                await talk(node)
            with pytest.raises(RemoteProtocolError):  # as it says; only messages translate it
                await node.connect(JUNK)
    assert isinstance(caught.value.__cause__, RemoteProtocolError)
