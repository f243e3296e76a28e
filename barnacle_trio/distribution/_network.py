"""How a node is reached and reaches others: the network it stands in.

A node knows its network by this protocol only, so that nodes can also be joined in memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Protocol, TypeAlias

import trio

from barnacle_trio._names import NodeName

Accept: TypeAlias = Callable[[trio.abc.Stream], Awaitable[None]]
"""Takes over an accepted stream, and closes it in the end."""


class Network(Protocol):
    """Where one node listens and dials."""

    async def serve(self, accept: Accept, *, task_status: trio.TaskStatus[int]) -> None:
        """Listen, make the node known, and accept until cancelled.

        Calls ``task_status.started(creation)`` once the node can be found.

        Raises:
          NameTakenError: another live node bears the name.
          ConfigurationError: the address cannot be bound.
        """
        ...

    async def withdraw(self) -> None:
        """Be known no longer, and take no more connections; those that are there stay.

        Returns once the name is free. If cancelled, that comes about all the same. Idempotent.
        """
        ...

    async def dial(self, name: NodeName) -> tuple[trio.abc.Stream, Hashable]:
        """Open a stream to a peer; returns it and the peer's location (see `locate`).

        Raises:
          PeerUnreachable: the peer is not known, nobody listens, or no answer came.
        """
        ...

    def forget(self, name: NodeName) -> None:
        """Somebody else was found where the peer was remembered to be: look it up next time."""
        ...

    async def locate(self, name: NodeName) -> Hashable:
        """What changes when the peer is started anew, None where that is not known."""
        ...

    def acknowledged(self, stream: trio.abc.Stream) -> int | None:
        """Bytes of ours that the other end's kernel has acknowledged, None where not known."""
        ...

    def unheard(self, stream: trio.abc.Stream) -> float | None:
        """Seconds since the other end's kernel acknowledged anything, None where not known."""
        ...
