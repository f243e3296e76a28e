"""The ways that signals take: to other nodes, and among the processes of this one."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import trio

from barnacle_trio._logs import RateLimited
from barnacle_trio._names import NodeName
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._lanes import Parties
from barnacle_trio.distribution._outbound import Outbound
from barnacle_trio.etf import Atom, DecodeError, EncodeError, Limits, Pid
from barnacle_trio.etf._decode import decode_bare
from barnacle_trio.etf._encode import Encoded

logger = logging.getLogger("barnacle_trio.messages")

SYSTEM_LIMIT = Atom("system_limit")
"""Stands for a reason that is itself beyond the limits."""


class Signals:
    """Sends signals. One among our own processes is acted on by `drain`, in order.

    Args:
      local: the node's name.
      outbound: the way to other nodes.
      act: acts on a signal among our own.
    """

    def __init__(
        self, local: NodeName, outbound: Outbound, act: Callable[[control.Message], None]
    ) -> None:
        self._local = local
        self._outbound = outbound
        self._act = act
        self._queue: deque[control.Message] = deque()
        self._draining = False
        self._log = RateLimited(logger)

    def put(self, peer: NodeName, message: control.Message) -> bool:
        """Send a signal to a node. False: there is no connection to it.

        That a process ended is told in any case: where its reason cannot be, with another one.

        Raises:
          EncodeError: it holds a term that has no encoding.
        """
        try:
            return self._put(peer, message)
        except (DecodeError, EncodeError) as error:
            if not isinstance(message, control.Exit | control.MonitorExit):
                raise
            # Who is told of the same end after this one must not miss it for that.
            self._log.warning("[%s] is not told why a process ended: it is %s", peer, error)
            return self._put(peer, replace(message, reason=SYSTEM_LIMIT))

    def _put(self, peer: NodeName, message: control.Message) -> bool:
        if peer == self._local:
            match message:
                case (
                    control.Exit(reason=Encoded(wire=wire))
                    | control.MonitorExit(reason=Encoded(wire=wire))
                ):
                    message = replace(message, reason=decode_bare(wire, limits=self.limits)[0])
            self._queue.append(message)
            return True
        return self._outbound.send(peer, message)

    def put_to(self, to: Pid, message: control.Message) -> bool:
        """Send a signal to a process."""
        return self.put(NodeName(to.node.name), message)

    def put_to_living(self, to: Pid, message: control.Message) -> bool:
        """As `put_to`, if the process may be there. False: its node's incarnation is not connected.

        A BEAM node closes the connection on an unlink or an exit for an older incarnation of it,
        though it answers a link to one.
        """
        connection = self._outbound.get(NodeName(to.node.name))
        if connection is not None and connection.peer.creation != to.creation:
            return False
        return self.put_to(to, message)

    def drain(self) -> None:
        """Act on what our own processes were sent, without recursion."""
        if self._draining:
            return
        self._draining = True
        try:
            while self._queue:
                self._act(self._queue.popleft())
        finally:
            self._draining = False

    def go_on(self, peer: NodeName) -> None:
        """A peer was connected: what waited for that goes out."""
        self._outbound.go_on(peer)

    def when_reached(self, peer: NodeName, then: Callable[[], None]) -> None:
        """Go on at once where a node is connected, else after it was dialled, with what result."""
        if peer == self._local or self._outbound.get(peer) is not None:
            then()
        else:
            self._outbound.reach_soon(peer, then)

    @property
    def limits(self) -> Limits:
        """For what is sent."""
        return self._outbound.limits

    async def wait_room(self, peer: NodeName, size: int, between: Parties) -> None:
        """Wait until a node has room for a signal of about so many bytes, or is lost."""
        if peer == self._local:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await self._outbound.wait_room(peer, size, between)

    async def reach(self, peer: NodeName) -> None:
        """Connect a peer, unless it is this node.

        Raises:
          ConnectError: it cannot be connected.
        """
        if peer == self._local:
            await trio.lowlevel.checkpoint()
        else:
            await self._outbound.reach(peer)
