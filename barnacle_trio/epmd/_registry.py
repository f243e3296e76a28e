"""The port mapper's table: which names are held, by whom. Knows neither sockets nor clocks."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from barnacle_trio._names import MAX_NAME_BYTES
from barnacle_trio.epmd._wire import REFUSED, AliveAnswer, PortEntry

MAX_NAMES_OF_ADDRESS: Final = 1024
"""Names that one address can hold. Since registrations come from loopback alone, that is all."""

_SMALLEST_CREATION: Final = 4  # 1 to 3 are those of the 16-bit answers, 0 is reserved
_LARGEST_CREATION: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Holding:
    """A held name: what was registered, from which address, on which file descriptor."""

    entry: PortEntry
    address: str
    fd: int


class Registry:
    """Names and their holders.

    Creations grow by one with every registration, from a random start, so that incarnations are
    told apart across restarts of the port mapper too. What a node does with its creation is its
    own affair: a BEAM that registers anew keeps its old one.
    """

    def __init__(self, *, next_creation: int | None = None) -> None:
        span = _LARGEST_CREATION - _SMALLEST_CREATION
        if next_creation is None:
            next_creation = _SMALLEST_CREATION + secrets.randbelow(span)
        self.next_creation = next_creation
        self._holdings: dict[str, Holding] = {}
        self._count: Counter[str] = Counter()

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
        entry, address = holding.entry, holding.address
        if (
            entry.name in self._holdings
            or not _can_be_held(entry)
            or self._count[address] >= MAX_NAMES_OF_ADDRESS
        ):
            return REFUSED
        self.adopt(holding)
        creation = self.next_creation
        self.next_creation = creation + 1 if creation < _LARGEST_CREATION else _SMALLEST_CREATION
        return AliveAnswer(0, creation)

    def adopt(self, holding: Holding) -> None:
        """Hold a name that another registry held before."""
        self._holdings[holding.entry.name] = holding
        self._count[holding.address] += 1

    def release(self, holding: Holding) -> None:
        """Free a name. Only its holder can: for any other holding this does nothing."""
        if self._holdings.get(holding.entry.name) is holding:
            del self._holdings[holding.entry.name]
            self._count[holding.address] -= 1
            if not self._count[holding.address]:
                del self._count[holding.address]


def _can_be_held(entry: PortEntry) -> bool:
    # Blanks and line ends would forge lines of the list of names; with an '@' no node is found.
    name = entry.name
    return (
        0 < len(name.encode(errors="surrogateescape")) <= MAX_NAME_BYTES
        and name.isprintable()
        and not set(name) & {"@", " "}
        and entry.port != 0
    )
