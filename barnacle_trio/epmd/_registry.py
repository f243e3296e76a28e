"""The port mapper's table: which names are held, by whom. Knows neither sockets nor clocks."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from barnacle_trio._names import MAX_NAME_BYTES
from barnacle_trio.epmd._wire import REFUSED, AliveAnswer, PortEntry

MAX_HELD_NAMES: Final = 1024
"""Names that are held at one time, whoever holds them. Each costs a file descriptor.

All of them are nodes of this host, which would run out of memory and cores long before.
"""

_SMALLEST_CREATION: Final = 4  # 1 to 3 are those of the 16-bit answers, 0 is reserved
_LARGEST_CREATION: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Holding:
    """A held name: what was registered, and on which file descriptor."""

    entry: PortEntry
    fd: int


class Registry:
    """Names and their holders.

    Creations grow by one with every registration, from a random start, so that incarnations are
    told apart across restarts of the port mapper too. What a node does with its creation is its
    own affair: a BEAM that registers anew keeps its old one.

    Args:
      next_creation: the first to give; None is a random one.
      max_names: how many can be registered at one time. What is adopted counts, but is never
        refused.
    """

    def __init__(
        self, *, next_creation: int | None = None, max_names: int = MAX_HELD_NAMES
    ) -> None:
        span = _LARGEST_CREATION - _SMALLEST_CREATION
        if next_creation is None:
            next_creation = _SMALLEST_CREATION + secrets.randbelow(span)
        self.next_creation = next_creation
        self._max_names = max_names
        self._holdings: dict[str, Holding] = {}

    def __len__(self) -> int:
        return len(self._holdings)

    def __iter__(self) -> Iterator[Holding]:
        """The holdings, the newest first, as OTP's port mapper lists them."""
        return iter(tuple(reversed(self._holdings.values())))

    def get(self, name: str) -> Holding | None:
        """Who holds a name."""
        return self._holdings.get(name)

    def register(self, holding: Holding) -> AliveAnswer:
        """Hold a name, or refuse: it is held, it is no base name of a node, or the table is full.

        Refusals bear the numbers that OTP's port mapper gives for all of them.
        """
        entry = holding.entry
        full = len(self) >= self._max_names
        if full or entry.name in self._holdings or not _can_be_held(entry):
            return REFUSED
        self.adopt(holding)
        creation = self.next_creation
        self.next_creation = creation + 1 if creation < _LARGEST_CREATION else _SMALLEST_CREATION
        return AliveAnswer(0, creation)

    def adopt(self, holding: Holding) -> None:
        """Hold a name that another registry held before."""
        self._holdings[holding.entry.name] = holding

    def release(self, holding: Holding) -> None:
        """Free a name. Only its holder can: for any other holding this does nothing."""
        if self._holdings.get(holding.entry.name) is holding:
            del self._holdings[holding.entry.name]


def _can_be_held(entry: PortEntry) -> bool:
    # Blanks and line ends would forge lines of the list of names; with an '@' no node is found.
    name = entry.name
    return (
        0 < len(name.encode(errors="surrogateescape")) <= MAX_NAME_BYTES
        and name.isprintable()
        and not set(name) & {"@", " "}
        and entry.port != 0
    )
