"""Where messages go: destinations looked at once, and kept as the bytes that lead there."""

from __future__ import annotations

from typing import TypeAlias

from barnacle_trio._names import NodeName
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._flags import Flag
from barnacle_trio.distribution._lanes import Parties
from barnacle_trio.etf import Atom, Pid, Reference

Dest: TypeAlias = Pid | Reference | tuple[str | Atom, str | Atom]
"""Where a message goes: a pid, an alias, or ``(registered name, node)``."""

_MATTERS = int(Flag.SEND_SENDER | Flag.FRAGMENTS)  # plain: a flag's own operators take longer

MAX_ROUTES = 10_000
"""Destinations that are kept. When there are more, all are looked at anew."""


def locate(dest: Dest) -> tuple[NodeName, Pid | Atom]:
    """The node and the pid or name that a destination (no alias) means.

    Raises:
      TypeError, ValueError: it is none.
    """
    if isinstance(dest, Pid):
        return NodeName(dest.node.name), dest
    if isinstance(dest, tuple) and len(dest) == 2:
        name, node = (each.name if isinstance(each, Atom) else each for each in dest)
        return NodeName(node), Atom(name)
    raise TypeError(f"{dest!r} is no destination: give a pid or (registered name, node)")


class Route:
    """The way to a destination. ``peer`` is its node."""

    __slots__ = ("_heads", "_sender", "dest", "parties", "peer")

    def __init__(self, sender: Pid, dest: Dest) -> None:
        self.dest: Pid | Atom | Reference
        if isinstance(dest, Reference):
            self.peer, self.dest = NodeName(dest.node.name), dest
        else:
            self.peer, self.dest = locate(dest)
        self.parties: Parties = (sender, self.dest)
        self._sender = sender
        self._heads: dict[int, bytes] = {}

    def head(self, agreed: int) -> bytes:
        """A body up to its payload, in the form that both ends know."""
        agreed &= _MATTERS
        head = self._heads.get(agreed)
        if head is None:
            head = self._heads[agreed] = control.head(self._control(agreed), agreed)
        return head

    def _control(self, agreed: int) -> bytes:
        sender = self._sender
        if isinstance(self.dest, Reference):
            return control.alias_send_control(sender, self.dest)
        if isinstance(self.dest, Pid):
            return control.send_control(sender, self.dest, Flag(agreed))
        return control.reg_send_control(sender, self.dest)


class Routes:
    """The ways from one sender."""

    def __init__(self, sender: Pid) -> None:
        self._sender = sender
        self._routes: dict[object, Route] = {}

    def find(self, dest: Dest) -> Route:
        """The way to a destination.

        Raises:
          TypeError, ValueError: it is none.
        """
        # A pid's bytes are as good a key as the pid, and are hashed once.
        key = dest.wire if type(dest) is Pid else dest
        try:
            route = self._routes.get(key)
        except TypeError:
            route = None  # not hashable, and so no destination: say why below
        if route is not None:
            return route
        route = Route(self._sender, dest)
        if type(dest) is not Reference:  # an alias is good for one answer, as a rule
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            self._routes[key] = route
        return route
