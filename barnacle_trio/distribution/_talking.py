"""What a node's user says to processes, here and elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from barnacle_trio._names import NodeName
from barnacle_trio._values import AsyncValue
from barnacle_trio.distribution._mailbox import MAX_MAILBOX, Dest, Mailbox
from barnacle_trio.distribution._messaging import Messaging


class Talking:
    """The part of `Node` that sends and receives messages.

    A destination is a `Pid`, an alias (a `Reference`), or ``(registered name, node)`` with plain
    `str`. Terms are Python values as `barnacle_trio.etf` maps them.
    """

    _messaging: Messaging
    _closed: bool

    @property
    def nodes(self) -> AsyncValue[frozenset[NodeName]]:
        """The connected peers that are visible."""
        raise NotImplementedError

    def open_mailbox(
        self,
        name: str | None = None,
        *,
        trap_exits: bool = False,
        max_length: int = MAX_MAILBOX,
    ) -> AbstractAsyncContextManager[Mailbox]:
        """Open a process of this node that receives messages, until the block is left.

        Args:
          name: register it under this name.
          trap_exits: have the end of linked processes delivered as `Exit`, instead of ending this.
          max_length: messages that may wait. What comes beyond is rejected, counted in
            ``Mailbox.rejected`` and told in the log.

        Leaving the block fires the links and monitors on it: with reason ``normal``, or
        ``{python_error, Type, Text}`` where the block raised.

        Raises:
          ConfigurationError: the name is taken; on entering.
          trio.ClosedResourceError: this node was left.
        """
        self._check_here()
        return self._messaging.open_mailbox(name, trap_exits=trap_exits, max_length=max_length)

    async def send(self, dest: Dest, term: Any) -> None:
        """Send a message; its node is dialled if need be.

        Waits while more than 1 MiB waits for that peer. Nobody tells whether the process exists.
        If cancelled, the message was not sent.

        Raises:
          ConnectError: the node cannot be connected.
          EncodeError: the term has no encoding.
          trio.ClosedResourceError: this node was left.
        """
        self._check_here()
        await self._messaging.send(dest, term)

    def send_nowait(self, dest: Dest, term: Any) -> None:
        """Send a message without ever waiting.

        Raises:
          trio.WouldBlock: the node is not connected, or more than 1 MiB waits for it.
          EncodeError: the term has no encoding.
          trio.ClosedResourceError: this node was left.
        """
        self._check_here()
        self._messaging.send_nowait(dest, term)

    async def call(self, dest: Dest, request: Any) -> Any:
        """Call a gen_server (of Erlang, Elixir, Gleam or Python) and return its reply.

        If cancelled, a reply that comes later is dropped.

        Raises:
          ProcessDown: it does not exist, or ended or lost its connection before it replied.
          ConnectError: the node cannot be connected.
          EncodeError: the request has no encoding.
          trio.ClosedResourceError: this node was left.
        """
        self._check_here()
        return await self._messaging.call(dest, request)

    async def cast(self, dest: Dest, message: Any) -> None:
        """Send a gen_server a message that it does not reply to. Raises what `send` does."""
        self._check_here()
        await self._messaging.cast(dest, message)

    async def broadcast(
        self, name: str, term: Any, nodes: Iterable[str] | None = None
    ) -> dict[NodeName, Exception]:
        """Send a message to the process of that name on several nodes, at once.

        Args:
          name: the registered name.
          term: the message.
          nodes: where; None means all visible peers that are connected.

        Returns: an error for each node that could not be reached.

        Raises:
          EncodeError: the term has no encoding.
          trio.ClosedResourceError: this node was left.
        """
        self._check_here()
        return await self._messaging.broadcast(
            name, term, self.nodes.value if nodes is None else nodes
        )

    def _check_here(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this node was left")
