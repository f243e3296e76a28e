"""Nodes in memory, one that talks to itself or two: most things are the same for both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from barnacle_trio import NodeName
from barnacle_trio.distribution._node import Node
from barnacle_trio.testing import MemoryNetwork

A, B = NodeName("a@memory"), NodeName("b@memory")
Pair = tuple[Node, Node]


@asynccontextmanager
async def one_node() -> AsyncIterator[Pair]:
    async with MemoryNetwork().open_node(A) as a:
        yield a, a


@asynccontextmanager
async def two_nodes() -> AsyncIterator[Pair]:
    network = MemoryNetwork()
    async with network.open_node(A) as a, network.open_node(B) as b:
        yield a, b


WHERE: list[Any] = [pytest.param(one_node, id="local"), pytest.param(two_nodes, id="remote")]
Where = Callable[[], AbstractAsyncContextManager[Pair]]
