"""Whatever happens, it converges: random faults in virtual time, and real nodes in memory."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from barnacle_trio._barnacle import Barnacle
from barnacle_trio._errors import BarnacleError, CookieRejected, DiscoveryError
from barnacle_trio._events import Missed, NodeDown, NodeUp, ShutDown
from barnacle_trio._names import NodeName
from barnacle_trio._running import open_barnacle
from barnacle_trio.testing import (
    HANG,
    EventRecorder,
    FakeTransport,
    MemoryNetwork,
    ScriptedStrategy,
)

NAMES = [NodeName(f"{letter}@h") for letter in "abcde"]

NAME = st.sampled_from(NAMES)
STEP = st.one_of(
    st.tuples(
        st.sampled_from(["lose", "silent", "gone", "back", "dial_in", "hang", "refuse"]), NAME
    ),
    st.tuples(st.just("answer"), st.frozensets(NAME)),
    st.tuples(st.just("partial"), st.frozensets(NAME)),
    st.tuples(st.sampled_from(["fail", "bug", "hang_strategy", "break", "mend"]), st.none()),
    st.tuples(st.sampled_from(["pause", "resume", "refresh", "cancelled_refresh"]), st.none()),
)


class Nemesis:
    """A world in which a schedule of faults is played."""

    def __init__(self, strategy: ScriptedStrategy, transport: FakeTransport) -> None:
        self.strategy = strategy
        self.transport = transport

    async def play(self, barnacle: Barnacle, what: str, with_: object) -> None:
        if isinstance(with_, NodeName):
            self._to_peer(what, with_)
        elif isinstance(with_, frozenset):
            answer = sorted(with_)
            self.strategy.answer = (
                answer if what == "answer" else DiscoveryError("half", partial=answer)
            )
        elif what in ("break", "mend"):
            self.transport.on_list = OSError("broken") if what == "break" else None
        elif what in ("fail", "bug", "hang_strategy"):
            answers: dict[str, Any] = {
                "fail": OSError("away"),
                "bug": KeyError("bug"),
                "hang_strategy": HANG,
            }
            self.strategy.answer = answers[what]
        elif what == "pause":
            await barnacle.pause()
        elif what == "resume":
            await barnacle.resume()
        else:
            with trio.move_on_after(0.5 if what == "cancelled_refresh" else 30):
                await trio.lowlevel.checkpoint()
                with suppress(BarnacleError):
                    await barnacle.refresh()

    def _to_peer(self, what: str, name: NodeName) -> None:
        transport, peer = self.transport, self.transport.peer(name)
        if what == "lose":
            transport.lose(name)
        elif what == "silent":
            transport.lose(name, "silent", gone=True)
        elif what == "gone":
            transport.lose(name, "left", gone=True)
        elif what == "back":
            peer.on_connect = None
            transport.come_back(name)
        elif what == "dial_in":
            transport.dial_in(name)
        elif what == "hang":
            peer.on_connect = HANG
        else:
            peer.on_connect = CookieRejected("no")

    def mend(self) -> None:
        self.strategy.answer = NAMES
        self.transport.on_list = None
        self.transport.come_back(*NAMES)
        for name in NAMES:
            self.transport.peer(name).on_connect = None


def check_story(recorder: EventRecorder, nodes: frozenset[NodeName]) -> None:
    """Ups and downs alternate for each node, and add up to what is there in the end."""
    up: set[NodeName] = set()
    assert not recorder.of(Missed)
    for event in recorder.events:
        if isinstance(event, NodeUp):
            assert event.node not in up
            up.add(event.node)
        elif isinstance(event, NodeDown):
            assert event.node in up
            up.remove(event.node)
    assert up == nodes


@settings(max_examples=150, deadline=None)
@given(
    schedule=st.lists(st.tuples(STEP, st.floats(0, 20)), max_size=25),
    tells=st.booleans(),
)
def test_after_any_faults_everybody_is_connected_again(
    schedule: list[tuple[tuple[str, object], float]], tells: bool
) -> None:
    async def main() -> None:
        abilities = ("subscribe", "list_visible", "locate") if tells else ()
        strategy = ScriptedStrategy(NAMES)
        transport = FakeTransport(reachable=NAMES, abilities=abilities)
        nemesis, recorder = Nemesis(strategy, transport), EventRecorder()
        async with open_barnacle(
            strategy, transport, listener=recorder.send, prune_after=10, poll_interval=3
        ) as barnacle:
            for (what, with_), pause in schedule:
                await nemesis.play(barnacle, what, with_)
                await trio.sleep(pause)
                assert transport._dialling <= len(NAMES)
            nemesis.mend()
            # a dial that hangs may have to run into its deadline first
            await trio.sleep(15)
            result = await barnacle.refresh()
            assert result.nodes == transport.connected == set(NAMES)
            assert barnacle.nodes.value == set(NAMES)
            check_story(recorder, barnacle.nodes.value)
        assert isinstance(recorder.events[-1], ShutDown)
        assert transport._callbacks == []
        recorder.close()

    trio.run(main, clock=MockClock(autojump_threshold=0))


# -- real nodes in memory --------------------------------------------------------------------------


async def is_mesh(barnacles: dict[str, Barnacle]) -> None:
    """Wait until everybody is connected with everybody else."""
    for name, barnacle in barnacles.items():
        await barnacle.nodes.wait_value(frozenset(map(NodeName, barnacles.keys() - {name})))


async def open_cluster(
    stack: AsyncExitStack, network: MemoryNetwork, *names: str
) -> dict[str, Barnacle]:
    barnacles = {}
    for name in names:
        node = await stack.enter_async_context(network.open_node(name))
        barnacles[name] = await stack.enter_async_context(
            open_barnacle(ScriptedStrategy(names), node, poll_interval=5)
        )
    return barnacles


async def test_real_nodes_form_a_mesh_at_once(autojump_clock: MockClock) -> None:
    names = [f"n{n}@h" for n in range(5)]
    async with AsyncExitStack() as stack:
        barnacles = await open_cluster(stack, MemoryNetwork(), *names)
        await is_mesh(barnacles)
        assert trio.current_time() < 1


async def test_a_partition_of_real_nodes_heals_within_two_seconds(
    autojump_clock: MockClock,
) -> None:
    """F5, F7: who is not cut off notices nothing."""
    names = ["a@h", "b@h", "c@h", "d@h"]
    async with AsyncExitStack() as stack:
        network = MemoryNetwork()
        barnacles = await open_cluster(stack, network, *names)
        await is_mesh(barnacles)
        await trio.sleep(100)
        events = {
            name: stack.enter_context(barnacle.open_listener(1000))
            for name, barnacle in barnacles.items()
        }
        network.cut("a@h", "b@h")
        await barnacles["a@h"].nodes.wait_value(frozenset(map(NodeName, ["c@h", "d@h"])))
        await trio.sleep(20)
        network.heal("a@h", "b@h")
        healed = trio.current_time()
        await is_mesh(barnacles)
        assert trio.current_time() - healed <= 2
        for name in ("c@h", "d@h"):
            kinds = [type(event) for event in _drained(events[name])]
            assert NodeDown not in kinds


async def test_a_real_node_that_is_restarted_is_back_in_a_moment(
    autojump_clock: MockClock,
) -> None:
    network = MemoryNetwork()
    async with (
        network.open_node("a@h") as node,
        open_barnacle(ScriptedStrategy(["b@h"]), node, poll_interval=60) as barnacle,
    ):
        for _ in range(3):
            async with network.open_node("b@h"):
                began = trio.current_time()
                await barnacle.wait_for_nodes(1)
                assert trio.current_time() - began <= 5, "it said goodbye, and does not dial"
                await trio.sleep(31)
            await barnacle.nodes.wait_value(frozenset())
            await trio.sleep(2)


def _drained(events: trio.MemoryReceiveChannel[object]) -> list[object]:
    drained = []
    while True:
        try:
            drained.append(events.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return drained
