"""What a list said, kept up to date by a watch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from barnacle_trio.strategies._kube_objects import Entry, Instance
from barnacle_trio.strategies._kube_wire import (
    Bookmark,
    Changed,
    Deleted,
    Position,
    WatchEvent,
)

MAX_INSTANCES = 50_000
"""How many instances and objects are kept in mind; beyond that an answer is partial."""


class Entries:
    """Objects by their keys, at most so many that `MAX_INSTANCES` are in them."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries: dict[str, Entry] = {}
        self._size = 0
        self.overflowed = False
        """Whether something was left out because there was too much."""
        for entry in entries:
            self.put(entry)

    def put(self, entry: Entry) -> bool:
        """Take an object; tells whether it says anything new."""
        known = self._entries.get(entry.key)
        size = self._size + _size(entry) - (0 if known is None else _size(known))
        if size > MAX_INSTANCES:
            self.overflowed = True
            return self.drop(entry.key)
        self._entries[entry.key] = entry
        self._size = size
        return _said(known) != _said(entry)

    def drop(self, key: str) -> bool:
        """Forget an object; tells whether it had said anything."""
        known = self._entries.pop(key, None)
        if known is None:
            return False
        self._size -= _size(known)
        return _said(known) != _said(None)

    def instances(self) -> Iterator[Instance]:
        """All instances of all objects."""
        return (each for entry in self._entries.values() for each in entry.instances)

    def cut(self) -> list[str]:
        """The keys of those objects that do not name all their instances."""
        return sorted(key for key, entry in self._entries.items() if entry.cut)


class WatchState:
    """The objects as of ``position``, from which a watch can go on; None: list them first."""

    def __init__(self) -> None:
        self.entries = Entries()
        self.position: Position | None = None

    def replace(self, entries: Entries, position: Position) -> bool:
        """Take a list in place of all that was known; tells whether it says anything new."""
        before = set(self.entries.instances()), self.entries.cut()
        self.entries, self.position = entries, position
        return before != (set(entries.instances()), entries.cut())

    def apply(self, event: WatchEvent) -> bool:
        """Take an event in; tells whether it says anything new. A failure changes nothing."""
        match event:
            case Changed(entry=entry):
                self._advance(entry.version)
                return self.entries.put(entry)
            case Deleted(entry=entry):
                self._advance(entry.version)
                return self.entries.drop(entry.key)
            case Bookmark(version=version):
                self._advance(version)
        return False

    def forget_position(self) -> None:
        """Have everything listed anew; what is known stays until then."""
        self.position = None

    def _advance(self, version: str) -> None:
        if self.position is not None:
            self.position = Position(resource=self.position.resource, version=version)


def _said(entry: Entry | None) -> tuple[tuple[Instance, ...], bool]:
    """All that an answer depends on."""
    return ((), False) if entry is None else (entry.instances, entry.cut)


def _size(entry: Entry) -> int:
    return 1 + len(entry.instances)
