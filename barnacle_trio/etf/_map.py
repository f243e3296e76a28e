"""Maps that a Python dict cannot hold."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping
from typing import Any, final

from barnacle_trio.etf._encode import canonical
from barnacle_trio.etf._errors import EncodeError
from barnacle_trio.etf._limits import DEFAULT_LIMITS, Limits


class _Items(ItemsView[Any, Any]):
    """As any mapping's, without looking each key up: that costs as much as the key is large."""

    _mapping: Map

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return iter(self._mapping._pairs.values())


@final
class Map(Mapping[Any, Any]):
    """An immutable mapping whose keys are any terms, told apart as Erlang tells them.

    To Erlang ``1``, ``1.0`` and ``true`` are three keys, and a list or a map is a key like any
    other; to a `dict` they are one, and none at all. `decode` gives a plain `dict` where that holds
    the map exactly, and a `Map` elsewhere. A `str` and its UTF-8 bytes are one key, since both are
    the same binary. Equal to every mapping that holds the same pairs; not hashable, as a `dict`.

    Args:
      pairs: a mapping, or pairs of key and value.
      limits: what a key may cost.

    Raises:
      EncodeError: a key twice, or one that is no term.
    """

    __slots__ = ("_limits", "_pairs")
    __hash__ = None  # type: ignore[assignment]  # as `dict` does

    def __init__(
        self,
        pairs: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = (),
        *,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        if isinstance(pairs, Mapping):
            pairs = pairs.items()
        self._limits = limits
        self._pairs: dict[bytes, tuple[Any, Any]] = {}
        for key, value in pairs:
            exact = canonical(key, limits)
            if exact in self._pairs:
                raise EncodeError("two keys of a map are the same term to Erlang")
            self._pairs[exact] = (key, value)

    def __getitem__(self, key: Any) -> Any:
        try:
            return self._pairs[canonical(key, self._limits)][1]
        except (EncodeError, KeyError):
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[Any]:
        return (key for key, _value in self._pairs.values())

    def __len__(self) -> int:
        return len(self._pairs)

    def items(self) -> ItemsView[Any, Any]:
        """The pairs of key and value, in the order in which they came."""
        return _Items(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        if not isinstance(other, Map):
            try:
                other = Map(other)
            except EncodeError:
                return False
        ours, theirs = self._pairs, other._pairs
        return ours.keys() == theirs.keys() and all(
            value == theirs[exact][1] for exact, (_key, value) in ours.items()
        )

    def __repr__(self) -> str:
        try:
            return f"Map({list(self._pairs.values())!r})"
        except RecursionError:  # a peer's term, in somebody's log line
            return "Map(...)"
