"""What of the list of hostile inputs is shown nowhere else, by the numbers that it has there."""

from __future__ import annotations

import os
from pathlib import Path

import dns.message
import pytest
import trio

from barnacle_trio._errors import RemoteProtocolError
from barnacle_trio._names import NodeName
from barnacle_trio._strategy import discover
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution import open_node
from barnacle_trio.distribution._flags import OUR_FLAGS
from barnacle_trio.distribution._fragments import Reassembly
from barnacle_trio.etf import Atom, DecodeError, Limits, Pid, decode, encode
from barnacle_trio.etf._decode import decode_bare
from barnacle_trio.strategies import dns as by_dns
from tests.beam import COOKIE, unique
from tests.dns_server import reply, resolver_for

LIMITS = Limits()
ONE, TWO = (Pid(Atom(f"{name}@127.0.0.1"), 1, 0, 7) for name in "ab")

# -- 62: atoms of a cache that no peer was offered -----------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 255])
def test_62_a_header_that_names_atoms_is_refused_whatever_it_names(count: int) -> None:
    message = control.send(ONE, TWO, b"x", OUR_FLAGS)
    flags = bytes((count + 2) // 2)
    for entries in (
        bytes(count),  # of segment 0, none of them new, so never defined
        bytes([0x80, 1, 97]) * count,  # new ones
        b"\xff" * 300,  # segments beyond the last, and lengths beyond the end
        b"",
    ):
        body = b"\x83D" + bytes([count]) + flags + entries + message[3:]
        with pytest.raises(RemoteProtocolError, match="not agreed on"):
            control.parse(body, LIMITS, headed=True)
        piece = b"\x83E" + (1).to_bytes(8) + (2).to_bytes(8) + body[2:]
        with pytest.raises(RemoteProtocolError, match="an atom cache that was not agreed on"):
            Reassembly(LIMITS).feed(piece)


@pytest.mark.parametrize("index", [0, 1, 7, 8, 254, 255])
def test_62_a_term_that_refers_to_atoms_of_no_header_is_refused(index: int) -> None:
    atom = bytes([82, index])
    numbers = bytes(12)
    for term in (
        atom,
        b"h\1" + atom,
        b"X" + atom + numbers,
        b"Z\0\1" + atom + numbers,
        b"x" + atom + numbers,
        b"q" + atom + atom + b"a\1",
    ):
        complaint = rf"atom {index} of a header that names"
        with pytest.raises(DecodeError, match=complaint):
            decode(b"\x83" + term)
        with pytest.raises(DecodeError, match=complaint):
            decode_bare(term, refs=(Atom("ok"),) * index)
        with pytest.raises(RemoteProtocolError, match=complaint):
            control.parse(b"\x83D\0h\3a\2w\0" + TWO.wire + term, LIMITS, headed=True)


# -- 79: what a peer says must not become an error of another kind -------------------------------


@pytest.mark.parametrize("levels", [1, 50, 200])
def test_79_keys_of_any_depth_are_a_term_or_refused(levels: int) -> None:
    data = b"a\1"
    for _ in range(levels):
        data = b"t\0\0\0\1" + data + b"j"
    try:
        term = decode(b"\x83" + data)
    except DecodeError:
        return
    assert decode(encode(term)) == term


# -- 86: an answer from where nobody was asked ---------------------------------------------------


async def test_86_an_answer_from_another_port_is_passed_over() -> None:
    a = "app.test 60 IN A 10.0.0.1"
    forged = "app.test 60 IN A 10.6.6.6"
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as asked:
        await asked.bind(("127.0.0.1", 0))
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as other:
            await other.bind(("127.0.0.1", 0))

            async def serve() -> None:
                while True:
                    data, address = await asked.recvfrom(65_535)
                    query = dns.message.from_wire(data)
                    assert isinstance(query, dns.message.QueryMessage)
                    await other.sendto(reply(query, forged).to_wire(), address)
                    await asked.sendto(reply(query, a).to_wire(), address)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                resolver = resolver_for(asked.getsockname()[1])
                strategy = by_dns("app.test", records=("A",), resolver=resolver)
                answer = await discover(strategy, NodeName("my_app@10.0.0.9"))
                nursery.cancel_scope.cancel("answered")
    assert answer.kind == "complete"
    assert {name.host for name in answer.nodes} == {"10.0.0.1"}


# -- 90: where a node listens unless it is told ---------------------------------------------------


async def test_90_a_node_that_is_named_by_loopback_listens_nowhere_else(epmd_port: int) -> None:
    before = listening()
    async with open_node(unique("py"), cookie=COOKIE):
        opened = listening() - before
    assert len(opened) >= 2, "the node, and its port mapper"
    assert {address for address, _port in opened} <= {"0100007F", f"{'0' * 24}01000000"}


def listening() -> set[tuple[str, str]]:
    """The addresses and ports, as the kernel writes them, on which this process listens."""
    inodes: set[str] = set()
    for descriptor in os.listdir("/proc/self/fd"):  # noqa: PTH208 - they come and go
        try:
            link = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
        except FileNotFoundError:
            continue
        if link.startswith("socket:["):
            inodes.add(link[8:-1])
    found: set[tuple[str, str]] = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, _, port = fields[1].partition(":")
                found.add((address, port))
    return found
