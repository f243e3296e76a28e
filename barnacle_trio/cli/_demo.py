"""``barnacle demo``: a cluster of three processes that loses a node, and another, and mends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress

import trio

from barnacle_trio import PeerUnreachable, RemoteProtocolError
from barnacle_trio._scopes import open_background
from barnacle_trio.cli._demo_cluster import (
    FAILURE_TIMEOUT,
    HOST,
    POLL_INTERVAL,
    Cluster,
    Sight,
    open_cluster,
)
from barnacle_trio.cli._demo_screen import Screen
from barnacle_trio.cli._edge import OK, Failed
from barnacle_trio.epmd import names as registered_names

NODES = ("acorn", "goose", "rock")  # all three are kinds of barnacles
DEADLINE = 28.0
"""Seconds for the whole story, whatever happens."""
PATIENCE = 10.0
"""Seconds for each step of it."""
_PAUSE = 1.0  # seconds in which the reader looks at the table

_TITLE = "A cluster that mends itself"
_INTRO = (
    f"Three processes, {NODES[0]}, {NODES[1]} and {NODES[2]}, become nodes of Distributed Erlang. "
    f"They find each other by a port mapper that {NODES[0]} runs, and stay connected whatever "
    f"happens: {NODES[0]} is killed and started again, then frozen and thawed.",
    "It takes about ten seconds, stays on loopback and leaves nothing behind.",
)


async def show(*, plain: bool) -> int:
    """Tell the story once.

    Raises:
      Failed: something did not happen in time; it says what.
    """
    screen = Screen(plain=plain)
    screen.chapter(_TITLE)
    for paragraph in _INTRO:
        screen.say(paragraph)
    with trio.move_on_after(DEADLINE) as scope:
        async with open_cluster(NODES) as cluster:
            # Within the processes' own nursery, so that their end is not confused with the story's.
            await _tell(cluster, screen)
    if scope.cancelled_caught:
        raise Failed(f"the demo was not over within {DEADLINE:g} s")
    screen.chapter("The cluster mended each time", style="bold green")
    return OK


async def _tell(cluster: Cluster, screen: Screen) -> None:
    with screen.open(cluster.sight.value):
        async with open_background("the demo's table", RuntimeError) as nursery:
            nursery.start_soon(_keep_showing, cluster, screen)
            story = _Story(cluster, screen)
            await story.begin()
            await story.kill(NODES[0])
            await story.restart(NODES[0])
            await story.freeze(NODES[0])
            await story.thaw(NODES[0])
            await story.end()


async def _keep_showing(cluster: Cluster, screen: Screen) -> None:
    async with aclosing(cluster.sight.eventual_values()) as sights:
        async for sight in sights:
            screen.show(sight)


class _Story:
    """The chapters."""

    def __init__(self, cluster: Cluster, screen: Screen) -> None:
        self._cluster = cluster
        self._screen = screen

    async def begin(self) -> None:
        """All start at once, and find each other."""
        screen, cluster = self._screen, self._cluster
        screen.chapter("Three processes start, each by such a command")
        screen.quote(f"ERL_EPMD_PORT={cluster.port} barnacle {' '.join(cluster.command(NODES[0]))}")
        began = trio.current_time()
        first, *others = NODES
        await cluster.start(first)  # first, and alone, so that it runs the port mapper
        await self._until(lambda sight: sight[0].life == "up", f"{first} did not start")
        for name in others:
            await cluster.start(name)
        await self._until(_all_up, f"{_list(others)} did not start")
        started = trio.current_time() - began
        await self._until(_whole, "they did not all find each other")
        screen.tell(
            f"each sees the two others, {_ms(trio.current_time() - began - started)} after the "
            f"last was up (they look every {POLL_INTERVAL:g} s)",
            style="green",
        )
        await self._look()

    async def kill(self, name: str) -> None:
        """One dies without a word."""
        screen, cluster = self._screen, self._cluster
        screen.chapter(f"{name} is killed (SIGKILL), and the port mapper dies with it")
        began = trio.current_time()
        await cluster.kill(name)
        await self._until(_unseen(name), f"the others did not notice that {name} was killed")
        screen.tell(f"{self._others(name)} know it after {_ms(trio.current_time() - began)}")
        with trio.move_on_after(PATIENCE) as scope:
            await self._wait_for_port_mapper(name)
        if scope.cancelled_caught:
            raise Failed(f"no port mapper knew {self._others(name)} within {PATIENCE:g} s")
        screen.tell(
            f"one of them runs the port mapper after {_ms(trio.current_time() - began)}",
            style="green",
        )
        await self._look()

    async def restart(self, name: str) -> None:
        """It comes back under its name."""
        screen, cluster = self._screen, self._cluster
        screen.chapter(f"{name} is started again")
        began = trio.current_time()
        await cluster.start(name)
        await self._until(_all_up, f"{name} did not start again")
        started = trio.current_time() - began
        await self._until(_whole, f"the cluster did not heal after {name} was started again")
        screen.tell(
            f"healed {_ms(trio.current_time() - began - started)} after it was up "
            f"(starting Python took {started:.1f} s)",
            style="green",
        )
        await self._look()

    async def freeze(self, name: str) -> None:
        """It stops, with its connections open: only its silence gives it away."""
        screen, cluster = self._screen, self._cluster
        screen.chapter(f"{name} is frozen (SIGSTOP): its connections stay open, it is just silent")
        began = trio.current_time()
        await cluster.freeze(name)
        await self._until(_unseen(name), f"the others did not notice that {name} was frozen")
        reasons = {cluster.reasons[other, name] for other in NODES if other != name}
        screen.tell(
            f"{self._others(name)} call it {_list(sorted(reasons))} after "
            f"{trio.current_time() - began:.1f} s (they were told to wait {FAILURE_TIMEOUT:g} s)"
        )
        await self._look()

    async def thaw(self, name: str) -> None:
        """It goes on as if nothing had been."""
        screen, cluster = self._screen, self._cluster
        screen.chapter(f"{name} is thawed (SIGCONT)")
        began = trio.current_time()
        await cluster.thaw(name)
        await self._until(_whole, f"the cluster did not heal after {name} was thawed")
        screen.tell(f"healed after {_ms(trio.current_time() - began)}", style="green")
        await self._look()

    async def end(self) -> None:
        """All leave, one by one, and nothing is left."""
        screen, cluster = self._screen, self._cluster
        screen.chapter("All leave (SIGTERM)")
        for name in NODES:
            code = -1
            with trio.move_on_after(PATIENCE):
                code = await cluster.leave(name)
            if code != 0:
                raise Failed(f"{name} did not leave well (exit code {code})")
        with trio.move_on_after(PATIENCE) as scope:
            await self._wait_for_silence()
        if scope.cancelled_caught:
            raise Failed("the port mapper did not end with its last name")
        screen.tell("all said goodbye, and the port mapper ended with its last name")

    async def _until(self, holds: Callable[[Sight], bool], otherwise: str) -> None:
        with trio.move_on_after(PATIENCE) as scope:
            await self._cluster.sight.wait_value(holds)
        if scope.cancelled_caught:
            raise Failed(f"{otherwise} within {PATIENCE:g} s")

    async def _look(self) -> None:
        self._screen.end_chapter(self._cluster.sight.value)
        await trio.sleep(_PAUSE)

    async def _wait_for_port_mapper(self, killed: str) -> None:
        survivors = set(NODES) - {killed}
        while True:
            with suppress(PeerUnreachable, RemoteProtocolError):
                if survivors <= set(await registered_names(HOST, self._cluster.port)):
                    return
            await trio.sleep(0.02)

    async def _wait_for_silence(self) -> None:
        await trio.lowlevel.checkpoint()
        with suppress(PeerUnreachable):
            while True:
                await registered_names(HOST, self._cluster.port)
                await trio.sleep(0.02)

    def _others(self, name: str) -> str:
        return _list([each for each in NODES if each != name])


def _all_up(sight: Sight) -> bool:
    return all(row.life == "up" for row in sight)


def _whole(sight: Sight) -> bool:
    names = {row.name for row in sight}
    return all(row.life == "up" and row.sees == names - {row.name} for row in sight)


def _unseen(name: str) -> Callable[[Sight], bool]:
    return lambda sight: all(name not in row.sees for row in sight if row.name != name)


def _list(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
