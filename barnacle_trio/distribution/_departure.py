"""How a node leaves its cluster: what it lets go of first, and for how long it waits."""

from __future__ import annotations

import logging
import math

import trio

from barnacle_trio._names import NodeName
from barnacle_trio.distribution._acceptor import Doorkeeper
from barnacle_trio.distribution._connection import Connection
from barnacle_trio.distribution._dialler import Dialler
from barnacle_trio.distribution._frames import frame
from barnacle_trio.distribution._kernel import Kernel
from barnacle_trio.distribution._network import Network
from barnacle_trio.distribution._peers import Peers
from barnacle_trio.distribution._work import Work

logger = logging.getLogger("barnacle_trio.node")

GOODBYE_TIMEOUT = 0.5
"""Seconds, at most, for what is queued to go out, and the goodbye after it."""
WITHDRAW_TIMEOUT = 3.0
"""Seconds, at most, for the port mapper to let the name go. One inside this process hands over."""


class Departure:
    """A node's leave of its peers, all of them at once.

    `run` is for a task that outlives whoever asked for it; those `wait`.
    """

    def __init__(
        self,
        name: NodeName,
        *,
        network: Network,
        dialler: Dialler,
        doorkeeper: Doorkeeper,
        peers: Peers,
        kernel: Kernel,
        work: Work,
    ) -> None:
        self._name = name
        self._network = network
        self._dialler = dialler
        self._doorkeeper = doorkeeper
        self._peers = peers
        self._kernel = kernel
        self._work = work
        self._served = trio.CancelScope()  # while calls are let end
        self._refuse_at = math.inf
        self._callers = 0
        self._over = trio.Event()

    async def wait(self, grace: float) -> None:
        """Wait until the node has left, which takes about ``grace`` seconds at most.

        Of several callers the most impatient one decides. Once all are cancelled, calls under way
        are waited for no longer; the peers are told all the same.
        """
        now = trio.current_time()
        self._served.deadline = min(self._served.deadline, now + grace)
        self._refuse_at = min(self._refuse_at, now + grace / 2)
        self._callers += 1
        try:
            await self._over.wait()
        finally:
            self._callers -= 1
            if not self._callers:
                self._served.cancel("nobody waits for the node to drain any more")

    async def run(self) -> None:
        """Leave. Always ends in time, with no connection left."""
        self._dialler.refuse()
        self._doorkeeper.refuse()
        logger.info("%s leaves, with calls under way: %d", self._name, len(self._work))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._withdraw)
                with self._served:
                    await self._let_calls_end()
                    await self._flush()
            if self._work:
                logger.warning("%s leaves, with calls unanswered: %d", self._name, len(self._work))
            await say_goodbye(self._peers, self._kernel)
        finally:
            self._over.set()

    async def _withdraw(self) -> None:
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(WITHDRAW_TIMEOUT) as scope:
            await self._network.withdraw()
        if scope.cancelled_caught:
            logger.warning("%s: the port mapper did not let the name go in time", self._name)

    async def _let_calls_end(self) -> None:
        # Peers do not know yet that we go, so theirs are taken as ever at first. Where they come so
        # densely that there is never none, the second half of the time is for those begun.
        with trio.move_on_at(self._refuse_at):
            await self._work.wait_done()
            return
        self._work.refuse()
        await self._work.wait_done()

    async def _flush(self) -> None:
        async with trio.open_nursery() as nursery:
            for connection in self._peers:
                nursery.start_soon(connection.flush)


async def say_goodbye(peers: Peers, kernel: Kernel) -> None:
    """Tell all peers that this node leaves, and close all connections. Shields itself, briefly."""
    try:
        with trio.move_on_after(GOODBYE_TIMEOUT, shield=True):
            async with trio.open_nursery() as nursery:
                for connection in peers:
                    nursery.start_soon(_part, connection, kernel)
    finally:
        for connection in peers:
            connection.close("closed_by_us")


async def _part(connection: Connection, kernel: Kernel) -> None:
    # What is queued goes first if it can: who is told goodbye reads no further.
    with trio.move_on_after(GOODBYE_TIMEOUT / 2):
        await connection.flush()
    connection.parting = True
    connection.send(frame(kernel.goodbye(connection.agreed)))
    await connection.flush()
