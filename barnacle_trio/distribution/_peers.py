"""The table of live connections, and who is told when it changes."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator

import trio

from barnacle_trio._names import NodeName
from barnacle_trio._transport import PeerChange, PeerDown, PeerUp
from barnacle_trio._values import AsyncValue, Settable
from barnacle_trio.distribution._connection import Connection

logger = logging.getLogger("barnacle_trio.node")


class Peers:
    """At most one live connection for each name.

    Every change is told at once, in order, and exactly once: an up for each connection, then a down
    with its reason.
    """

    def __init__(self) -> None:
        self._connections: dict[NodeName, Connection] = {}
        self._callbacks: dict[object, Callable[[PeerChange], None]] = {}
        self._untold: deque[PeerChange] = deque()
        self._telling = False
        self._changed: dict[NodeName, trio.Event] = {}
        self._visible: Settable[frozenset[NodeName]] = Settable(frozenset())
        self._hidden: Settable[frozenset[NodeName]] = Settable(frozenset())

    @property
    def visible(self) -> AsyncValue[frozenset[NodeName]]:
        """The connected peers that are visible, live."""
        return self._visible.view

    @property
    def hidden(self) -> AsyncValue[frozenset[NodeName]]:
        """The connected peers that are hidden, live."""
        return self._hidden.view

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._connections.values()))

    def __len__(self) -> int:
        return len(self._connections)

    def __contains__(self, name: object) -> bool:
        return name in self._connections

    def get(self, name: NodeName) -> Connection | None:
        """The live connection to a peer, if there is one."""
        return self._connections.get(name)

    def subscribe(self, callback: Callable[[PeerChange], None]) -> Callable[[], None]:
        """Have ``callback`` called for each change; returns what ends it (any number of times)."""
        token = object()
        self._callbacks[token] = callback

        def unsubscribe() -> None:
            self._callbacks.pop(token, None)

        return unsubscribe

    async def wait_change(self, name: NodeName) -> None:
        """Wait until the peer's connection comes or goes."""
        changed = self._changed.setdefault(name, trio.Event())
        try:
            await changed.wait()
        finally:
            if not changed.statistics().tasks_waiting and self._changed.get(name) is changed:
                del self._changed[name]

    def add(self, connection: Connection) -> None:
        """Enter a connection; an older one of that name is closed and told as gone first."""
        name = connection.peer.name
        old = self._connections.get(name)
        if old is not None:
            fresh = old.peer.creation != connection.peer.creation
            old.close("replaced" if fresh else "lost")
        self._connections[name] = connection
        connection.on_close = self._remove
        self._publish()
        logger.info("[%s] up%s", name, " (hidden)" if connection.hidden else "")
        self._tell(PeerUp(node=name, creation=connection.peer.creation, hidden=connection.hidden))

    def _remove(self, connection: Connection) -> None:
        name = connection.peer.name
        reason = connection.reason
        if self._connections.get(name) is not connection or reason is None:
            return
        del self._connections[name]
        self._publish()
        logger.info("[%s] down: %s", name, reason)
        self._tell(
            PeerDown(
                node=name,
                reason=reason,
                creation=connection.peer.creation,
                hidden=connection.hidden,
            )
        )

    def _publish(self) -> None:
        connections = self._connections.items()
        self._visible.value = frozenset(name for name, each in connections if not each.hidden)
        self._hidden.value = frozenset(name for name, each in connections if each.hidden)

    def _tell(self, change: PeerChange) -> None:
        waiting = self._changed.pop(change.node, None)
        if waiting is not None:
            waiting.set()
        self._untold.append(change)
        if self._telling:
            return  # a subscriber's doing: everybody is told first of what it was told of
        self._telling = True
        try:
            while self._untold:
                change = self._untold.popleft()
                for callback in tuple(self._callbacks.values()):
                    try:
                        callback(change)
                    except Exception:
                        logger.exception("a subscriber failed on %r", change)
        finally:
            self._telling = False
