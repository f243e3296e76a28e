"""Nodes by a known list."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import NodeName, show
from barnacle_trio._strategy import Strategy, sift


def epmd(nodes: Iterable[str]) -> Strategy:
    """Discover the nodes of a known list, which each host's port mapper then finds by name.

    The list may hold the local node's own name, so that all nodes can share it. Nobody is asked:
    the answer is always complete.

    Raises:
      ConfigurationError: something in the list is not a node name; the message says which.
    """
    if isinstance(nodes, (str, bytes)) or not isinstance(nodes, Iterable):
        raise ConfigurationError(f"epmd() takes a list of node names, not {show(nodes)}")
    names, rejected = sift(nodes)
    if rejected:
        raise ConfigurationError("; ".join(str(error) for error in rejected.values()))
    return _Known(names)


class _Known:
    def __init__(self, nodes: frozenset[NodeName]) -> None:
        self._nodes = nodes

    def __repr__(self) -> str:
        shown = ", ".join(repr(str(node)) for node in sorted(self._nodes)[:3])
        more = len(self._nodes) - 3
        return f"epmd([{shown}, ... {more} more])" if more > 0 else f"epmd([{shown}])"

    async def __call__(self, local: NodeName) -> frozenset[NodeName]:
        await trio.lowlevel.checkpoint()
        return self._nodes
