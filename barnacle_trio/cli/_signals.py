"""Signals: the command alone heeds them, the library never does."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import trio

from barnacle_trio._scopes import open_background

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def run_until_signal(
    work: Callable[[], Awaitable[int]], *, leave: trio.Event | None = None
) -> int:
    """Run ``work`` and return its exit code, or 128 and the number of the signal that ended it.

    Args:
      work: what the command does.
      leave: set by the first signal, for work that knows how to end by itself. Then the second
        signal cancels it; without ``leave`` the first one does.
    """
    # A shell starts background jobs with SIGINT ignored, and nohup does so with SIGHUP.
    heeded = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    received: list[int] = []
    with (
        trio.open_signal_receiver(*heeded) as signals,
        trio.CancelScope() as scope,
    ):

        async def listen() -> None:
            async for number in signals:
                if leave is not None and not leave.is_set():
                    leave.set()
                    continue
                received.append(number)
                scope.cancel(f"signal {number}")

        async with open_background("the command", RuntimeError) as nursery:
            nursery.start_soon(listen)
            return await work()
    return 128 + received[0]
