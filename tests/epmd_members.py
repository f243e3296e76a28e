"""Nodes that are registered, and what a port mapper says of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from unittest.mock import patch

import pytest
import trio

from barnacle_trio import _errors
from barnacle_trio._names import NodeName
from barnacle_trio.epmd import PortMapper, _client, names, open_registration
from tests.epmd_lab import PATIENCE


class Member:
    """A node of this process, as far as the port mapper is concerned."""

    def __init__(self, creation: int, scope: trio.CancelScope) -> None:
        self.creation = creation
        self.scope = scope


@asynccontextmanager
async def open_member(
    mapper: PortMapper, name: str, port: int, addresses: Sequence[str] = ("127.0.0.1",)
) -> AsyncIterator[Member]:
    async with trio.open_nursery() as nursery:
        serve = partial(
            mapper.serve_registration,
            NodeName(name),
            port=port,
            hidden=False,
            addresses=addresses,
        )
        creation: int = await nursery.start(serve)
        yield Member(creation, nursery.cancel_scope)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def registered(*basenames: str) -> AsyncIterator[None]:
    """Names with nobody behind them, at ports from 4000 on; afterwards nobody is told of them.

    A port mapper learns of the end of a connection when it comes to it.
    """
    async with AsyncExitStack() as stack:
        for port, basename in enumerate(basenames, 4000):
            await stack.enter_async_context(open_registration(basename, port))
        yield
    with trio.fail_after(PATIENCE):
        while set(basenames) & (await names()).keys():
            await trio.lowlevel.checkpoint()


async def names_become(port: int, expected: dict[str, int], *, within: float = PATIENCE) -> None:
    """Wait for exactly these names."""
    told: object = None
    with trio.move_on_after(within):
        while True:
            try:
                told = await names(port=port)
            except _errors.PeerUnreachable as error:
                told = error
            if told == expected:
                return
            await trio.sleep(0.01)
    pytest.fail(f"expected {expected}, last seen: {told}")


async def nobody_serves(port: int) -> None:
    with trio.fail_after(PATIENCE):
        while True:
            try:
                await names(port=port)
            except _errors.PeerUnreachable:
                return
            await trio.sleep(0.01)


@asynccontextmanager
async def never_missing(port: int, *expected: str) -> AsyncIterator[None]:
    """All the time, every query is answered and lists these names.

    It may wait for a process that goes on with the port to start, which takes its time on a machine
    that is busy.
    """
    queries = 0

    async def watch() -> None:
        nonlocal queries
        while True:
            assert set(expected) <= (await names(port=port)).keys()
            queries += 1

    with patch.object(_client, "QUERY_DEADLINE", PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            yield
            enough = queries + 3
            with trio.fail_after(PATIENCE):
                while queries < enough:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
