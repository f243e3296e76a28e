"""A transport made of the user's own functions."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import NodeName, show
from barnacle_trio._transport import Transport

Change = Callable[[NodeName], Coroutine[Any, Any, None]]
Listing = Callable[[], Coroutine[Any, Any, Iterable[str]]]

_T = TypeVar("_T")


class CustomTransport:
    """Functions in the place of a transport. Made by `custom_transport`."""

    def __init__(
        self,
        base: Transport | None,
        name: NodeName,
        connect: Change,
        disconnect: Change,
        list_nodes: Listing,
        inherited: Sequence[str],
    ) -> None:
        self.base_transport = base
        self.name = name
        self.connect = connect
        self.disconnect = disconnect
        self.list_nodes = list_nodes
        # what a transport may have beside: present here exactly where the base has it
        for ability in inherited:
            if hasattr(base, ability):
                setattr(self, ability, getattr(base, ability))

    def __repr__(self) -> str:
        return f"<CustomTransport {self.name} over {self.base_transport!r}>"


def custom_transport(
    base: Transport | None = None,
    *,
    connect: Change | None = None,
    disconnect: Change | None = None,
    list_nodes: Listing | None = None,
    name: str | None = None,
) -> Transport:
    """Make a transport of one's own functions, the rest being the base's.

    Args:
      base: a transport, e.g. a `Node`. Its further abilities are kept where they still fit:
        events of connections go with ``list_nodes``, looking for a peer's place with ``connect``.
      connect: ``async (name) -> None``; see `Transport.connect` for what it may raise.
      disconnect: ``async (name) -> None``.
      list_nodes: ``async () -> names`` of the connected peers.
      name: the local node's name.

    Raises:
      ConfigurationError: without a base, one of the four is lacking; or one is of no use.
    """
    if base is not None:
        lacking = [each for each in _PARTS if not hasattr(base, each)]
        if lacking:
            raise ConfigurationError(
                f"the base of a custom transport lacks {', '.join(lacking)}; give a transport, "
                "e.g. what `async with open_node(...)` gives"
            )
    given = {"name": name, "connect": connect, "disconnect": disconnect, "list_nodes": list_nodes}
    if base is None:
        lacking = [part for part, value in given.items() if value is None]
        if lacking:
            raise ConfigurationError(
                f"a custom transport without a base needs {', '.join(lacking)} too"
            )
    for part, value in given.items():
        if part != "name" and value is not None and not callable(value):
            raise ConfigurationError(f"{part} is an async function, not {show(value)}")
    inherited = ["drain", "serve_process"]
    if list_nodes is None:
        inherited += ["subscribe", "list_visible"]
    if connect is None:
        inherited.append("locate")
    try:
        local = NodeName(_first(name, base, "name"))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the name of a custom transport: {error}") from error
    return CustomTransport(
        base,
        local,
        _first(connect, base, "connect"),
        _first(disconnect, base, "disconnect"),
        _first(list_nodes, base, "list_nodes"),
        inherited,
    )


_PARTS = ("name", "connect", "disconnect", "list_nodes")


def _first(own: _T | None, base: Transport | None, part: str) -> _T:
    if own is not None:
        return own
    found: _T = getattr(base, part)
    return found
