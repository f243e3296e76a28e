"""How soon silence on a connection condemns a peer that was there before, on a virtual clock."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio._transport import PeerChange, PeerUp
from barnacle_trio.distribution import _caretaker
from barnacle_trio.distribution._node import Node
from barnacle_trio.testing import MemoryNetwork
from tests.memory_pairs import A, B


async def silence_after_connecting(network: MemoryNetwork, a: Node) -> float:
    """Have nothing pass from the moment that B is up; seconds until that is noticed."""

    def cut(change: PeerChange) -> None:
        if isinstance(change, PeerUp):
            network.cut(A, B)

    unsubscribe = a.subscribe(cut)
    await a.connect(B)
    unsubscribe()
    begun = trio.current_time()
    await a.nodes.wait_value(frozenset())
    network.heal(A, B)
    return trio.current_time() - begun


async def test_who_never_answered_a_probe_is_judged_by_ticks(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with network.open_node(A) as a, network.open_node(B):
        assert 45 <= await silence_after_connecting(network, a) <= 75


async def test_who_answered_on_an_earlier_connection_is_known_to_answer(
    autojump_clock: MockClock,
) -> None:
    """As where handshakes pass and large messages do not: each new connection hangs at once."""
    network = MemoryNetwork()
    async with network.open_node(A) as a:
        async with network.open_node(B):
            await a.connect(B)
            await trio.sleep(1)
            await a.disconnect(B)
            for _ in range(3):
                assert await silence_after_connecting(network, a) <= 13
        async with network.open_node(B):  # another incarnation, of which nothing is known
            assert 45 <= await silence_after_connecting(network, a) <= 75


async def test_what_is_known_of_peers_is_bounded(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_caretaker, "MAX_REMEMBERED", 1)
    network = MemoryNetwork()
    async with network.open_node(A) as a, network.open_node(B), network.open_node("c@memory"):
        for name in (B, "c@memory"):
            await a.connect(name)
            await trio.sleep(1)
            await a.disconnect(name)
        assert 45 <= await silence_after_connecting(network, a) <= 75
