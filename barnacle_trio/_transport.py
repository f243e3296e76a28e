"""What a transport is: how nodes are connected, disconnected and listed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import trio

from barnacle_trio._names import NodeName

PeerDownReason: TypeAlias = Literal["lost", "silent", "left", "closed_by_us", "replaced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerUp:
    """A transport has a connection to ``node``. ``creation`` tells its incarnations apart."""

    node: NodeName
    creation: int = 0
    hidden: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerDown:
    """A transport's connection to ``node`` is gone.

    ``replaced`` is followed by the `PeerUp` of the new incarnation.
    """

    node: NodeName
    reason: PeerDownReason
    creation: int = 0
    hidden: bool = False


PeerChange: TypeAlias = PeerUp | PeerDown
"""What a transport tells those who subscribed to it."""


class Transport(Protocol):
    """How nodes are connected. `barnacle_trio.Node` is one, `custom_transport` makes others."""

    @property
    def name(self) -> NodeName:
        """The local node's name."""
        ...

    async def connect(self, name: NodeName, /) -> None:
        """Connect a node, or do nothing where it is connected already.

        Raises:
          HandshakeRefused: retrying will not help; the node is quarantined.
          Exception: any other one is this node's failure, and worth a retry.
        """
        ...

    async def disconnect(self, name: NodeName, /) -> None:
        """Disconnect a node, or do nothing where it is not connected.

        Raises:
          Exception: the node may still be connected.
        """
        ...

    async def list_nodes(self) -> Iterable[str]:
        """The connected peers, visible and hidden, without the local node.

        Raises:
          Exception: the round that asked counts as failed.
        """
        ...


@runtime_checkable
class SubscribableTransport(Protocol):
    """A transport that tells of every connection that comes and goes."""

    def subscribe(self, callback: Callable[[PeerChange], None], /) -> Callable[[], None]:
        """Have ``callback`` called at once for each change; returns what ends it."""
        ...


@runtime_checkable
class VisibilityTransport(Protocol):
    """A transport that tells visible peers from hidden ones (for ``prune="all"``)."""

    async def list_visible(self) -> Iterable[str]:
        """The connected peers that are not hidden."""
        ...


@runtime_checkable
class LocatingTransport(Protocol):
    """A transport that can tell, without dialling, whether a peer was set up anew."""

    async def locate(self, name: NodeName, /) -> Hashable:
        """What changes when the peer restarts (its port), None where that is not known.

        Compared with ``HandshakeRefused.location``; a change ends the quarantine.
        """
        ...


@runtime_checkable
class DrainableTransport(Protocol):
    """A transport that can leave the cluster in good order."""

    async def drain(self, grace: float, /) -> None:
        """Refuse connections and dials, let calls end for ``grace`` seconds, say goodbye, close.

        Several barnacles may ask for it, at once or one after the other.

        Raises:
          trio.ClosedResourceError: it was closed before.
        """
        ...


@runtime_checkable
class ServingTransport(Protocol):
    """A transport on which a process can be registered for its peers to call."""

    async def serve_process(
        self,
        name: str,
        handler: Any,
        *,
        max_concurrent: int,
        task_status: trio.TaskStatus[Any],
    ) -> None:
        """Run a process under a registered name: ``handler`` answers its calls."""
        ...
