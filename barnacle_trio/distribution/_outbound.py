"""The way to other nodes: signals as bytes, onto the right connection, with backpressure."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import trio

from barnacle_trio._errors import ConnectError, PeerUnreachable, RemoteProtocolError
from barnacle_trio._names import NodeName
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._connection import Connection
from barnacle_trio.distribution._dialler import Dialler
from barnacle_trio.distribution._flags import Flag
from barnacle_trio.distribution._frames import frame
from barnacle_trio.distribution._peers import Peers

logger = logging.getLogger("barnacle_trio.messages")

_BUILDERS: dict[type, Any] = {
    control.Send: lambda m, a: control.send(m.sender, m.to, m.payload, a),
    control.RegSend: lambda m, _: control.reg_send(m.sender, m.to, m.payload),
    control.AliasSend: lambda m, _: control.alias_send(m.sender, m.to, m.payload),
    control.Link: lambda m, _: control.link(m.sender, m.to),
    control.Unlink: lambda m, a: control.unlink(m.id, m.sender, m.to, a),
    control.UnlinkAck: lambda m, _: control.unlink_ack(m.id, m.sender, m.to),
    control.Exit: lambda m, a: control.exit_(m.sender, m.to, m.reason, a),
    control.Exit2: lambda m, a: control.exit2(m.sender, m.to, m.reason, a),
    control.Monitor: lambda m, _: control.monitor(m.sender, m.target, m.ref),
    control.Demonitor: lambda m, _: control.demonitor(m.sender, m.target, m.ref),
    control.MonitorExit: lambda m, a: control.monitor_exit(m.target, m.to, m.ref, m.reason, a),
    control.SpawnRequest: lambda m, _: control.spawn_request(
        m.ref, m.sender, m.group_leader, (m.module, m.function), m.arguments, m.options
    ),
    control.SpawnReply: lambda m, _: control.spawn_reply(m.ref, m.to, m.flags, m.result),
}


def body(message: control.Message, agreed: Flag) -> bytes:
    """A control message as the body of a frame, in the form that both ends know.

    Raises:
      EncodeError: it holds a term that has no encoding.
    """
    built: bytes = _BUILDERS[type(message)](message, agreed)
    return built


class Outbound:
    """Sends to other nodes.

    Args:
      peers: the live connections.
      dialler: makes new ones.
      nursery: where that happens in the background.
    """

    def __init__(self, peers: Peers, dialler: Dialler, nursery: trio.Nursery) -> None:
        self._peers = peers
        self._dialler = dialler
        self._nursery = nursery
        self._waiting: dict[NodeName, list[Callable[[], None]]] = {}

    def get(self, peer: NodeName) -> Connection | None:
        """The connection to a peer, if there is one."""
        return self._peers.get(peer)

    async def reach(self, peer: NodeName) -> Connection:
        """The connection to a peer, which is dialled if need be.

        Raises:
          ConnectError: it cannot be connected.
        """
        connection = self._peers.get(peer)
        if connection is None:
            await self._dialler.connect(peer)
            connection = self._peers.get(peer)
            if connection is None:
                raise PeerUnreachable(f"{peer} was lost as soon as it was connected")
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        return connection

    def reach_soon(self, peer: NodeName, then: Callable[[], None]) -> None:
        """Connect a peer in the background, and go on whether that worked or not.

        What waits goes on in order, and before anything else is said over the new connection.
        """
        waiting = self._waiting.get(peer)
        if waiting is not None:
            waiting.append(then)
            return
        if self._nursery.cancel_scope.cancel_called:
            then()  # the node was left: nobody is dialled any more
            return
        waiting = [then]
        self._nursery.start_soon(self._reach, peer, waiting, name=f"connect {peer}")
        self._waiting[peer] = waiting

    async def _reach(self, peer: NodeName, waiting: list[Callable[[], None]]) -> None:
        try:
            await self.reach(peer)
        except (ConnectError, RemoteProtocolError) as error:
            logger.debug("[%s] cannot be connected: %s", peer, error)
            await trio.lowlevel.checkpoint()
        except Exception:  # an `allow=` that fails, say: no reason to end the node
            logger.exception("[%s] connecting it failed on a fault of ours", peer)
            await trio.lowlevel.checkpoint()
        if self._waiting.get(peer) is waiting:  # else it went on when the peer came up
            self.go_on(peer)

    def go_on(self, peer: NodeName) -> None:
        """A peer was connected, or could not be: do what waited for that."""
        for then in self._waiting.pop(peer, ()):
            try:
                then()
            except Exception:  # one that fails leaves the others their turn
                logger.exception("[%s] what waited for it failed on a fault of ours", peer)

    def send(self, peer: NodeName, message: control.Message) -> bool:
        """Send a signal, in order with others. False: there is no connection.

        Raises:
          EncodeError: it holds a term that has no encoding.
        """
        connection = self._peers.get(peer)
        if connection is None:
            return False
        connection.send(frame(body(message, connection.agreed)))
        return True

    async def offer(self, peer: NodeName, message: control.Message) -> bool:
        """Send a message as soon as the peer has room. False: it is not connected, or was lost.

        Nobody is dialled.

        Raises:
          EncodeError: the message has no encoding.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        connection = self._peers.get(peer)
        if connection is None:
            return False
        encoded = frame(body(message, connection.agreed))
        if not connection.writable:
            await connection.wait_writable()
        connection.send(encoded)
        return connection.reason is None
