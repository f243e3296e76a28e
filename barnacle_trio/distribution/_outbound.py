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
from barnacle_trio.distribution._lanes import Parties
from barnacle_trio.distribution._peers import Peers
from barnacle_trio.etf import Limits, Pid
from barnacle_trio.etf._encode import Pieces, encode_bare
from barnacle_trio.etf._limits import DEFAULT_LIMITS

logger = logging.getLogger("barnacle_trio.messages")

# Each makes a body of a message, of what was agreed on, and of the limits for a term of others.
_BUILDERS: dict[type, Any] = {
    control.Link: lambda m, a, _: control.link(m.sender, m.to, a),
    control.Unlink: lambda m, a, _: control.unlink(m.id, m.sender, m.to, a),
    control.UnlinkAck: lambda m, a, _: control.unlink_ack(m.id, m.sender, m.to, a),
    control.Exit: lambda m, a, most: control.exit_(m.sender, m.to, m.reason, a, most),
    control.Exit2: lambda m, a, most: control.exit2(m.sender, m.to, m.reason, a, most),
    control.Monitor: lambda m, a, _: control.monitor(m.sender, m.target, m.ref, a),
    control.Demonitor: lambda m, a, _: control.demonitor(m.sender, m.target, m.ref, a),
    control.MonitorExit: lambda m, a, most: control.monitor_exit(
        m.target, m.to, m.ref, m.reason, a, most
    ),
    control.SpawnReply: lambda m, a, _: control.spawn_reply(m.ref, m.to, m.flags, m.result, a),
}


def body(message: control.Message, agreed: Flag, limits: Limits = DEFAULT_LIMITS) -> bytes | Pieces:
    """A control message as the body of a frame, in the form that both ends know.

    Raises:
      EncodeError: it holds a term that has no encoding, or one beyond the limits.
    """
    payload: Any
    match message:
        case control.Send(sender=Pid() as sender, to=to, payload=payload):
            term = control.send_control(sender, to, agreed)
        case control.RegSend(sender=sender, to=to, payload=payload):
            term = control.reg_send_control(sender, to)
        case control.AliasSend(sender=sender, to=to, payload=payload):
            term = control.alias_send_control(sender, to)
        case control.SpawnRequest(arguments=payload) as m:
            term = control.spawn_request_control(
                m.ref, m.sender, m.group_leader, (m.module, m.function), len(payload), m.options
            )
        case _:
            built: bytes = _BUILDERS[type(message)](message, agreed, limits)
            return built
    return encode_bare(payload, limits=limits, head=control.head(term, agreed))


def parties(message: control.Message) -> Parties:
    """Between whom a signal goes, as far as it tells."""
    match message:
        case control.AliasSend(sender=sender, to=to, owner=owner):
            return sender, owner or to
        case (
            control.Monitor(sender=sender, target=target)
            | control.Demonitor(sender=sender, target=target)
        ):
            return sender, target
        case control.MonitorExit(target=target, to=to):
            return target, to
        case control.SpawnRequest(sender=sender):
            return sender, sender  # to a process that is not there yet, and so in nobody's way
        case control.SpawnReply(to=to):
            return None, to
        case control.Unknown():
            return None, None
    return message.sender, message.to


class Outbound:
    """Sends to other nodes.

    Args:
      peers: the live connections.
      dialler: makes new ones.
      nursery: where that happens in the background.
      limits: for what is sent.
    """

    def __init__(
        self, peers: Peers, dialler: Dialler, nursery: trio.Nursery, limits: Limits
    ) -> None:
        self.limits = limits
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
          ConnectError: it cannot be connected, or what answers is no node.
        """
        connection = self._peers.get(peer)
        if connection is None:
            try:
                await self._dialler.connect(peer)
            except RemoteProtocolError as error:
                # To who sends a message, whatever answers there is as good as nobody.
                raise PeerUnreachable(f"{peer}: {error}") from error
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
        except ConnectError as error:
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
        encoded = body(message, connection.agreed, self.limits)
        connection.send_body(encoded, parties(message))
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
        encoded, between = body(message, connection.agreed, self.limits), parties(message)
        if not connection.writable(len(encoded), between):
            await connection.wait_writable(len(encoded), between)
        connection.send_body(encoded, between)
        return connection.reason is None

    async def wait_room(self, peer: NodeName, size: int, between: Parties) -> None:
        """Wait until a peer has room for a signal of about that many bytes, or is lost."""
        connection = self._peers.get(peer)
        if connection is None:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await connection.wait_writable(size, between)
