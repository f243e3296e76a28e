"""How soon a cluster is complete: with dead peers in its list, in one process, and in several."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import combinations
from time import perf_counter

import trio

from barnacle_trio import epmd, open_barnacle, open_node
from tests.beam import COOKIE, open_beam, unique
from tests.benchmarks.dial import floor, timed
from tests.benchmarks.tables import median, print_table
from tests.cluster_lab import Peer, Stall, open_nodes, open_peer, open_stalled
from tests.erlang import require_erlangs

GOOD = 10
STALLED = 20
RUNS = 5
DIALS = 64
"""As many as a barnacle has under way at once."""


async def connected_among(how: Stall | None) -> float:
    """Seconds until all good peers are connected that are listed among stalled ones."""
    async with AsyncExitStack() as stack:
        good = [peer.name for peer in await stack.enter_async_context(open_nodes(GOOD))]
        stalled: list[str] = []
        if how is not None:
            stalled = await stack.enter_async_context(open_stalled(STALLED, how))
        node = await stack.enter_async_context(open_node(unique("py"), cookie=COOKIE))
        began = perf_counter()
        barnacle = await stack.enter_async_context(open_barnacle(epmd([*stalled, *good]), node))
        await barnacle.wait_for_nodes(GOOD)
        return perf_counter() - began


async def connected_one_by_one(stalled_first: int) -> float:
    """Seconds that a BEAM node takes, dialling one after the other as its cluster libraries do."""
    async with (
        open_nodes(GOOD) as good,
        open_stalled(stalled_first, "mute") as stalled,
        open_beam(require_erlangs()[-1]) as beam,
    ):
        names = ",".join(f"'{name}'" for name in (*stalled, *(peer.name for peer in good)))
        began = perf_counter()
        answer = await beam.eval(f"[net_kernel:connect_node(N) || N <- [{names}]]")
        assert answer.count("true") == GOOD
        return perf_counter() - began


async def stalled_table() -> None:
    """Good peers among stalled ones."""
    rows: list[tuple[object, ...]] = []
    cases: list[tuple[str, Stall | None]] = [
        ("barnacle, none stalled", None),
        (f"barnacle, {STALLED} that take connections and stay mute", "mute"),
        (f"barnacle, {STALLED} black holes", "black_hole"),
    ]
    for what, how in cases:
        times = [await connected_among(how) for _ in range(RUNS)]
        rows.append((what, median(times), max(times)))
    for number in (0, 1, 2):
        took = await connected_one_by_one(number)
        rows.append((f"BEAM, one after the other, {number} mute ones first", took, took))
    print_table(
        f"mesh: seconds until {GOOD} good peers are connected, {RUNS} runs each (BEAM: one)",
        ("who dials, and who is stalled", "median", "max"),
        rows,
    )


async def meshed(number: int) -> float:
    """Seconds until so many nodes of this process are a full mesh, each with a barnacle."""
    async with open_nodes(number) as nodes, AsyncExitStack() as stack:
        names = [node.name for node in nodes]
        began = perf_counter()
        barnacles = [
            await stack.enter_async_context(open_barnacle(epmd(names), node)) for node in nodes
        ]
        for barnacle in barnacles:
            await barnacle.wait_for_nodes(number - 1)
        return perf_counter() - began


async def bare(connections: int) -> float:
    """Seconds for so many bare TCP connects with two round trips, both ends in this process."""

    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async def one(port: int, limit: trio.CapacityLimiter) -> None:
        async with limit:
            await floor(port)

    async with trio.open_nursery() as serving:
        serve = partial(trio.serve_tcp, echo, 0, host="127.0.0.1")
        listeners: list[trio.SocketListener] = await serving.start(serve)
        port = listeners[0].socket.getsockname()[1]

        async def all_of_them() -> None:
            limit = trio.CapacityLimiter(DIALS)
            async with trio.open_nursery() as nursery:
                for _ in range(connections):
                    nursery.start_soon(one, port, limit)

        took = await timed(all_of_them) / 1000
        serving.cancel_scope.cancel("all are done")
    return took


async def one_process_table() -> None:
    """Meshes in one process."""
    rows: list[tuple[object, ...]] = []
    for number in (10, 50):
        connections = len(list(combinations(range(number), 2)))
        ours, theirs = [], []
        for _ in range(3):
            ours.append(await meshed(number))
            theirs.append(await bare(connections))
        took, least = median(ours), median(theirs)
        each = took / connections * 1000
        rows.append((f"{number} nodes", connections, took, each, least, took / least))
    print_table(
        "mesh: one process, a barnacle on each node, median of 3",
        ("", "connections", "seconds", "ms each", "floor, s", "ratio"),
        rows,
    )
    print("  floor: as many bare TCP connects with two round trips")


@asynccontextmanager
async def open_peers(number: int) -> AsyncIterator[list[Peer]]:
    """Start Python processes all at once."""
    peers: list[Peer] = []

    async def keep(task_status: trio.TaskStatus[None]) -> None:
        async with open_peer(discover="local_epmd") as peer:
            peers.append(peer)
            task_status.started()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as starting:
            for _ in range(number):
                starting.start_soon(nursery.start, keep)
        yield peers
        nursery.cancel_scope.cancel("the block ended")


async def processes_table() -> None:
    """A mesh of processes."""
    times: dict[str, list[float]] = {"Connected": [], "NodeUp": []}
    for _ in range(RUNS):
        async with open_node(unique("mapper"), cookie=COOKIE), open_peers(5) as peers:
            for peer in peers:
                await peer.wait_told(lambda peer: len(peer.nodes) == 5)
            told = [each for peer in peers for each in peer.told]
            ready = max(each.at for each in told if each.what == "Ready")
            for what, taken in times.items():
                last = max(each.at for each in told if each.what == what)
                taken.append(max(0.0, last - ready))
    rows = [
        (what, median(times[key]), max(times[key]))
        for what, key in (
            ("all are connected", "Connected"),
            ("all are named by all strategies", "NodeUp"),
        )
    ]
    print_table(
        f"mesh: five Python processes by local_epmd, {RUNS} runs, seconds since the last one began",
        ("until", "median", "max"),
        rows,
    )
    print("  a node that dialled us counts for a barnacle once its strategy has named it")


async def main() -> None:
    """Print the tables."""
    await stalled_table()
    await one_process_table()
    await processes_table()
