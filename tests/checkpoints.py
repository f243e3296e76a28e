"""Cancel a function at each of its checkpoints in turn, and look what is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

MAX_CHECKPOINTS = 1_000


class _CancelAt(trio.abc.Instrument):
    """Cancels a scope when a task goes to wait for the n-th time.

    Trio delivers a cancellation where a task waits, so that this one is delivered at the n-th
    checkpoint itself and not at the one after.
    """

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, number: int) -> None:
        self._task = task
        self._scope = scope
        self._left = number

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task and self._left > 0:
            self._left -= 1
            if not self._left:
                self._scope.cancel("at a chosen checkpoint")


async def cancel_at_every_checkpoint(
    function: Callable[[], Awaitable[object]],
    check_after: Callable[[], Awaitable[object]] | None = None,
) -> int:
    """Call a function again and again, cancelling it at its 1st, 2nd, ... checkpoint.

    Ends when the function ended by itself, for it has no more checkpoints then. Only checkpoints of
    the calling task count, not those of tasks that it starts.

    Args:
      function: what to cancel. An exception of its own comes out.
      check_after: called after each call; raises if something was left behind.

    Returns: how many checkpoints there were.
    """
    for number in range(1, MAX_CHECKPOINTS):
        finished = False
        with trio.CancelScope() as scope:
            instrument = _CancelAt(trio.lowlevel.current_task(), scope, number)
            trio.lowlevel.add_instrument(instrument)
            try:
                await function()
                finished = True
            finally:
                trio.lowlevel.remove_instrument(instrument)
        if check_after is not None:
            await check_after()
        if finished and not scope.cancel_called:
            return number - 1
        if finished and not scope.cancelled_caught:
            continue  # the cancellation came at its last, uncancellable step
    raise AssertionError(f"more than {MAX_CHECKPOINTS} checkpoints")
