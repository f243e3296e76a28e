"""Two nodes that dial each other at the same time, over lines of every slowness: one connection."""

from __future__ import annotations

from functools import partial
from random import Random

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio import Node, NodeName
from barnacle_trio._transport import PeerChange, PeerDown
from barnacle_trio.distribution._challenges import ChallengeBook
from barnacle_trio.distribution._flags import PLAIN
from barnacle_trio.distribution._handshake import Acceptor, Identity, NameReceived, Send
from barnacle_trio.epmd import open_registration
from tests.beam import COOKIE, unique
from tests.intruder import CREATION, open_intruder, reachable_node
from tests.slow_network import open_slow_network

A, B = NodeName("a@memory"), NodeName("b@memory")
Delays = tuple[tuple[float, float], tuple[float, float]]


async def dial_each_other(delays: Delays, late: float) -> dict[NodeName, list[str]]:
    """What both nodes tell of each other. ``late``: seconds by which the second one dials later."""
    told: dict[NodeName, list[str]] = {A: [], B: []}

    def tell(node: NodeName, change: PeerChange) -> None:
        told[node].append(change.reason if isinstance(change, PeerDown) else "up")

    async def dial(node: Node, peer: NodeName, after: float) -> None:
        await trio.sleep(after)
        await node.connect(peer)

    async with (
        open_slow_network(dict(zip((A, B), delays, strict=True))) as network,
        network.open_node(A, connect_timeout=30) as a,
        network.open_node(B, connect_timeout=30) as b,
    ):
        for node in (a, b):
            node.subscribe(partial(tell, node.name))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial, a, B, max(0, -late))
            nursery.start_soon(dial, b, A, max(0, late))
        await trio.sleep(10)
        assert await a.ping(B)
        assert await b.ping(A)
        return {node: list(changes) for node, changes in told.items()}


@pytest.mark.parametrize(
    ("delays", "late"),
    [
        # A's proof and B's are both on their way when each of them says yes to the other.
        (((0, 0.3), (0.05, 0.001)), 0.01),
        # The same, and the two handshakes end more than a second apart.
        (((1.2, 1.2), (0, 0.7)), 2),
        (((1.6, 0.3), (0, 1.2)), 2),
        (((0.7, 1.2), (0.05, 0.7)), 1),
        # Neither comes in the other's way.
        (((0, 0), (0, 0)), 0),
        (((1, 1), (1, 1)), 0),
    ],
)
async def test_crossing_dials_make_one_connection(
    delays: Delays, late: float, autojump_clock: MockClock
) -> None:
    assert await dial_each_other(delays, late) == {A: ["up"], B: ["up"]}


@pytest.mark.parametrize("seed", range(100))
async def test_crossing_dials_of_any_slowness_make_one_connection(
    seed: int, autojump_clock: MockClock
) -> None:
    random = Random(seed)

    def delay() -> float:
        return random.choice([0, 0.001, 0.05, 0.15, 0.3, 0.7, 1.2])

    delays = ((delay(), delay()), (delay(), delay()))
    late = random.choice([0, 0.01, 0.1, 0.25, 0.5, 1, 2]) * random.choice([-1, 1])
    assert await dial_each_other(delays, late) == {A: ["up"], B: ["up"]}


@pytest.mark.usefixtures("epmd_port")
async def test_who_dials_after_it_asked_whether_we_are_alive_is_let_in() -> None:
    """A BEAM that tears down its old connection meanwhile forgets ours, and dials by itself.

    A peer by hand: the greater name is ours, yet only the peer's attempt ever comes to anything.
    """
    async with reachable_node() as (node, port):
        name = unique("a_peer")
        assert name < node.name
        asked = trio.Event()

        async def ask_and_say_no_more(stream: trio.SocketStream) -> None:
            flags = int(PLAIN)
            machine = Acceptor(Identity(NodeName(name), flags, CREATION), ChallengeBook(lambda: 0))
            while data := await stream.receive_some(1000):
                for event in machine.receive(bytes(data)):
                    if isinstance(event, NameReceived):
                        await stream.send_all(machine.ask_alive(COOKIE.encode()))
                    elif isinstance(event, Send) and not asked.is_set():
                        await stream.send_all(event.data)  # the challenge
                        asked.set()

        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, ask_and_say_no_more, [listener])
            theirs = listener.socket.getsockname()[1]
            async with open_registration(NodeName(name).basename, theirs):
                with trio.fail_after(5):  # the dial alone would take 7 s, and come to nothing
                    nursery.start_soon(node.connect, name)
                    await asked.wait()
                    async with open_intruder(node, port, name) as peer:
                        await node.connect(name)
                        assert await peer.heard_last() == []
                    nursery.cancel_scope.cancel()
