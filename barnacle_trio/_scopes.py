"""A nursery for the background tasks of something that is opened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_background(
    what: str, crashed: Callable[[str], Exception]
) -> AsyncIterator[trio.Nursery]:
    """Open a nursery whose tasks serve the body and end with it.

    What the body raises comes out plain, as the same object: groups and `trio.Cancelled` included.
    Where a background task fails, the body is cancelled and ``crashed(reason)`` is raised, its
    cause a group of what failed (with the body's own error, if that failed too). A
    `KeyboardInterrupt` or `SystemExit` among the failures is never converted.
    """
    raised: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as error:  # noqa: ASYNC103 - raised at the end, once it is alone
                raised = error  # kept aside: the nursery would wrap it into a group
            finally:
                nursery.cancel_scope.cancel(f"leaving {what}")
    except BaseExceptionGroup as faults:
        if faults.split((KeyboardInterrupt, SystemExit))[0] is not None:
            raise
        failed = faults.split(trio.Cancelled)[1]
        if failed is not None:
            causes = [*failed.exceptions]
            if raised is not None and not isinstance(raised, trio.Cancelled):
                causes.append(raised)
            raise crashed(f"a background task of {what} failed") from BaseExceptionGroup(
                "faults", causes
            )
    if raised is not None:
        raise raised
