"""Which barnacles share a transport, so that one does not undo what another does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from barnacle_trio._names import NodeName

Holds = Callable[[NodeName], bool]

# By the transport's identity, for it may well be unhashable. An entry lives no longer than the
# block that made it, which holds the transport, so that no identity is ever used twice at a time.
_claims: dict[int, list[Holds]] = {}


@contextmanager
def claim(transport: object, holds: Holds) -> Iterator[Callable[[NodeName], bool]]:
    """Say which peers of a transport a barnacle cares for; gives whether any *other* one does.

    A transport that rests on another (see `custom_transport`) shares its claims with it.
    """
    key = id(_root(transport))
    holders = _claims.setdefault(key, [])
    holders.append(holds)
    try:
        yield lambda name: any(other(name) for other in holders if other is not holds)
    finally:
        holders.remove(holds)
        if not holders:
            del _claims[key]


def _root(transport: object) -> object:
    seen = {id(transport)}
    while (base := getattr(transport, "base_transport", None)) is not None and id(base) not in seen:
        transport = base
        seen.add(id(base))
    return transport
