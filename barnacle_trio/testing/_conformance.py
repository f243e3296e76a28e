"""What every strategy and every transport owes a barnacle, as checks for one's own."""

from __future__ import annotations

from functools import partial

import trio

from barnacle_trio._names import NodeName
from barnacle_trio._strategy import (
    Discovery,
    LeavingStrategy,
    ServedStrategy,
    Strategy,
    discover,
)
from barnacle_trio._transport import (
    LocatingTransport,
    PeerChange,
    PeerDown,
    PeerUp,
    SubscribableTransport,
    Transport,
    VisibilityTransport,
)

PATIENCE = 30.0
"""Seconds for anything that ends by itself."""
CANCELLED_WITHIN = 1.0
"""Seconds within which a cancellation has to be honoured."""


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


async def check_strategy(strategy: Strategy, local: str) -> Discovery:
    """Check a strategy as it is set up, and return its last answer.

    It is asked alone, several times at once, and while being cancelled; a ``serve`` of it is
    started and cancelled. A failed answer (its source may be away) is no fault; a bug is one.

    Raises:
      AssertionError: it does not keep to what a barnacle relies on; the message says where.
      Exception: the strategy raised something else than its failures; a barnacle would take that
        for a bug.
    """
    name = NodeName(local)
    async with trio.open_nursery() as nursery:
        if isinstance(strategy, ServedStrategy):
            with trio.move_on_after(PATIENCE) as scope:
                await nursery.start(partial(strategy.serve, name, changed=_nothing))
            _demand(not scope.cancelled_caught, f"serve() did not start within {PATIENCE:g} s")
        answer = await _ask(strategy, name)
        async with trio.open_nursery() as together:
            for _ in range(3):
                together.start_soon(_ask, strategy, name)
        await _check_cancellation(strategy, name)
        if isinstance(strategy, LeavingStrategy):
            with trio.move_on_after(PATIENCE) as scope:
                await strategy.leave(name)
            _demand(not scope.cancelled_caught, f"leave() did not end within {PATIENCE:g} s")
        nursery.cancel_scope.cancel("serve() is to end")
        stopped = trio.current_time()
    ended = trio.current_time() - stopped
    _demand(ended <= CANCELLED_WITHIN, f"serve() took {ended:.1f} s to honour a cancellation")
    return answer


async def _ask(strategy: Strategy, name: NodeName) -> Discovery:
    try:
        with trio.fail_after(PATIENCE):
            answer = await discover(strategy, name)
    except trio.TooSlowError:
        raise AssertionError(f"no answer within {PATIENCE:g} s") from None
    _demand(not answer.rejected, f"the answer has what is no node name: {answer.rejected}")
    return answer


async def _check_cancellation(strategy: Strategy, name: NodeName) -> None:
    began = trio.current_time()
    with trio.CancelScope() as scope:
        scope.cancel("to see whether it is honoured")
        await strategy(name)
    took = trio.current_time() - began
    _demand(scope.cancelled_caught, "it answered without a checkpoint, or hid a cancellation")
    _demand(took <= CANCELLED_WITHIN, f"it took {took:.1f} s to honour a cancellation")


async def check_transport(transport: Transport, *, reachable: str, unreachable: str) -> None:
    """Check an open transport. Both peers must not be connected when this begins.

    Args:
      transport: what to check.
      reachable: a peer that it can connect. It is disconnected at the end.
      unreachable: one that it cannot.

    Raises:
      AssertionError: it does not keep to what a barnacle relies on; the message says where.
    """
    peer, absent = NodeName(reachable), NodeName(unreachable)
    _demand(NodeName(transport.name) == transport.name, "its name is a node name")
    changes: list[PeerChange] = []
    unsubscribe = _nothing
    if isinstance(transport, SubscribableTransport):
        unsubscribe = transport.subscribe(changes.append)
    try:
        with trio.move_on_after(PATIENCE) as scope:
            await _check_connecting(transport, peer)
            await _check_disconnecting(transport, peer)
            await _check_absent(transport, absent)
            if isinstance(transport, LocatingTransport):
                await transport.locate(peer)
        _demand(not scope.cancelled_caught, f"it was not done within {PATIENCE:g} s")
    finally:
        unsubscribe()
    if isinstance(transport, SubscribableTransport):
        kinds = [type(change) for change in changes if change.node == peer]
        _demand(kinds == [PeerUp, PeerDown], f"one up and one down are told, not {changes}")
        strangers = [change for change in changes if change.node == absent]
        _demand(not strangers, f"nothing is told of who never was connected: {strangers}")


async def _check_connecting(transport: Transport, peer: NodeName) -> None:
    with trio.CancelScope() as scope:
        scope.cancel("to see whether it is honoured")
        await transport.connect(peer)
    _demand(scope.cancelled_caught, "connect() has a checkpoint")
    _demand(peer not in await transport.list_nodes(), "a cancelled connect() connects nobody")
    await transport.connect(peer)
    _demand(peer in await transport.list_nodes(), "list_nodes() has who was connected")
    _demand(transport.name not in await transport.list_nodes(), "list_nodes() is without oneself")
    await transport.connect(peer)  # does nothing
    _demand(list(await transport.list_nodes()).count(peer) == 1, "connect() connects only once")
    if isinstance(transport, VisibilityTransport):
        visible = set(await transport.list_visible())
        _demand(visible <= set(await transport.list_nodes()), "visible ones are among all")


async def _check_disconnecting(transport: Transport, peer: NodeName) -> None:
    await transport.disconnect(peer)
    _demand(peer not in await transport.list_nodes(), "disconnect() disconnects")
    await transport.disconnect(peer)  # does nothing


async def _check_absent(transport: Transport, absent: NodeName) -> None:
    try:
        await transport.connect(absent)
    except Exception:
        _demand(absent not in await transport.list_nodes(), "a failed connect() connects nobody")
    else:
        raise AssertionError("connect() raises where it could not connect")
    await transport.disconnect(absent)


def _nothing() -> None:
    pass
