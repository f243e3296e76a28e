"""The last things that a barnacle asks for when it drains, each within a bound of its own."""

from __future__ import annotations

import logging

import trio

from barnacle_trio._names import NodeName
from barnacle_trio._scopes import users_code
from barnacle_trio._strategy import LeavingStrategy
from barnacle_trio._transport import DrainableTransport

logger = logging.getLogger("barnacle_trio.barnacle")

LEAVE_TIMEOUT = 2.0
"""Seconds in which a strategy must have said goodbye."""
DRAIN_MARGIN = 5.0
"""Seconds beyond its grace in which a transport must have drained."""


async def have_leave(barnacle: str, strategy: LeavingStrategy, local: NodeName) -> None:
    """Have a strategy tell the others; that it cannot is no reason to stay."""
    await trio.lowlevel.checkpoint()
    try:
        with trio.move_on_after(LEAVE_TIMEOUT) as scope, users_code("the strategy's goodbye"):
            await strategy.leave(local)
        if scope.cancelled_caught:
            logger.warning("[%s] the strategy did not say goodbye in time", barnacle)
    except Exception:
        logger.exception("[%s] the strategy could not say goodbye", barnacle)


async def have_drain(barnacle: str, transport: DrainableTransport, grace: float) -> None:
    """Have a transport leave the cluster; one that did so before is left alone."""
    await trio.lowlevel.checkpoint()
    try:
        with trio.move_on_after(grace + DRAIN_MARGIN) as scope, users_code("draining"):
            await transport.drain(grace)
        if scope.cancelled_caught:
            logger.warning("[%s] the transport did not drain in time", barnacle)
    except trio.ClosedResourceError:
        logger.debug("[%s] the transport was closed before", barnacle)
