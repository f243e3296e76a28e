"""The connections of a node: taken over from the handshake, run, and watched."""

from __future__ import annotations

import logging
from collections import OrderedDict
from functools import partial

import trio

from barnacle_trio._names import NodeName
from barnacle_trio.distribution._connection import Connection, OnFrame
from barnacle_trio.distribution._detector import Due, Patience
from barnacle_trio.distribution._flags import Flag
from barnacle_trio.distribution._frames import frame
from barnacle_trio.distribution._handshake import Done
from barnacle_trio.distribution._identifiers import Identifiers
from barnacle_trio.distribution._kernel import Kernel
from barnacle_trio.distribution._network import Network
from barnacle_trio.distribution._peers import Peers
from barnacle_trio.etf import Limits

logger = logging.getLogger("barnacle_trio.node")

MAX_REMEMBERED = 10_000
"""Peers of which it is remembered that they answer probes; the latest stay."""


class Caretaker:
    """Has connections live, and tells the dead ones.

    Args:
      peers: the table of connections.
      network: tells what a peer's kernel acknowledged, and when.
      patience: for how long a peer may show no life.
      limits: for what a peer sends.
      nursery: where connections that we dialled run.
      on_frame: takes what peers send.
    """

    def __init__(
        self,
        peers: Peers,
        network: Network,
        *,
        patience: Patience,
        limits: Limits,
        nursery: trio.Nursery,
        on_frame: OnFrame,
    ) -> None:
        self._peers = peers
        self._network = network
        self._patience = patience
        self._limits = limits
        self._nursery = nursery
        self._on_frame = on_frame
        self._answering: OrderedDict[NodeName, int] = OrderedDict()  # and their creations
        self.closed = False
        """Whether no connection is taken over any more."""

    def incarnate(self, identifiers: Identifiers, kernel: Kernel) -> None:
        """Speak for this incarnation of the node from now on."""
        self._identifiers = identifiers
        self._kernel = kernel

    def adopt(
        self, stream: trio.abc.Stream, done: Done, *, dialled: bool, rival: bool
    ) -> Connection | None:
        """See `Adopt`."""
        if self.closed:
            return None
        old = self._peers.get(done.peer.name)
        if (
            rival
            and old is not None
            and old.peer.creation == done.peer.creation
            and old.dialled
            and not dialled
        ):  # both sides dialled: what the peer said yes to is up there, of the other who knows
            return None
        connection = Connection(
            stream,
            done.peer,
            agreed=done.agreed,
            hidden=Flag.PUBLISHED not in done.agreed,
            dialled=dialled,
            patience=self._patience,
            limits=self._limits,
        )
        connection.probe = self._identifiers.make_reference()
        if self._answering.get(done.peer.name) == done.peer.creation:
            # Where handshakes pass and large messages do not, this connection's answer may be lost.
            connection.detector.answered()
        self._peers.add(connection)
        self._probe(connection)
        if dialled:
            self._nursery.start_soon(self.run, connection, done.leftover)
        return connection

    async def run(self, connection: Connection, leftover: bytes) -> None:  # noqa: ASYNC910 - it has one
        """Run a connection to its end, whatever that is."""
        # No await before run(): it is what closes the stream, cancelled or not.
        try:
            await connection.run(leftover, self._on_frame)
        except Exception:
            logger.exception("[%s] the connection ended on a fault of ours", connection.peer.name)
        finally:
            if connection.probe is not None:
                self._kernel.forget(connection.probe)

    async def watch(self) -> None:
        """Tick, probe and give up silent peers: one task for all connections."""
        before = trio.current_time()
        while True:
            await trio.sleep(self._patience.interval)
            now = trio.current_time()
            for connection in self._peers:
                due = connection.pass_time(
                    now - before,
                    partial(self._network.acknowledged, connection.stream),
                    partial(self._network.unheard, connection.stream),
                )
                if Due.SILENT in due:
                    logger.warning(
                        "[%s] silent for %.1f s", connection.peer.name, connection.detector.silence
                    )
                    connection.close("silent")
                elif Due.STALLED in due:
                    logger.warning("[%s] stalled in mid-frame", connection.peer.name)
                    connection.close("lost")
                elif Due.PROBE in due:
                    self._probe(connection)
            before = now

    def _probe(self, connection: Connection) -> None:
        if connection.probe is None:
            return
        question = self._kernel.ask_is_auth(
            connection.probe, partial(self._answered, connection), connection.agreed
        )
        connection.send(frame(question))
        connection.detector.probed()

    def _answered(self, connection: Connection) -> None:
        """A probe was answered, as this incarnation of the peer will do on later connections."""
        connection.detector.answered()
        self._answering[connection.peer.name] = connection.peer.creation
        self._answering.move_to_end(connection.peer.name)
        if len(self._answering) > MAX_REMEMBERED:
            self._answering.popitem(last=False)
