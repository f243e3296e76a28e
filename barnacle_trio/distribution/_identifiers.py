"""Pids and references of this incarnation of the node, none given out twice."""

from __future__ import annotations

import itertools
from secrets import randbelow

from barnacle_trio._names import NodeName
from barnacle_trio.etf import Atom, Pid, Reference


class Identifiers:
    """Makes them.

    Args:
      name: the node's name.
      creation: tells its incarnations apart.
    """

    def __init__(self, name: NodeName, creation: int) -> None:
        self.node = Atom(name)
        self.creation = creation
        self._pids = itertools.count(1)
        self._references = itertools.count(randbelow(1 << 32))

    def make_pid(self) -> Pid:
        """A pid that was not given out before."""
        number = next(self._pids)
        return Pid(
            node=self.node,
            id=number & 0xFFFFFFFF,
            serial=(number >> 32) & 0xFFFFFFFF,
            creation=self.creation,
        )

    def make_reference(self) -> Reference:
        """A reference that was not given out before."""
        number = next(self._references)
        # Old nodes read 18 bits of the first word.
        words = (number & 0x3FFFF, (number >> 18) & 0xFFFFFFFF, (number >> 50) & 0xFFFFFFFF)
        return Reference(node=self.node, creation=self.creation, ids=words)

    def is_ours(self, identifier: Pid | Reference) -> bool:
        """Whether this incarnation of the node made it."""
        return identifier.node is self.node and identifier.creation == self.creation
