"""A nursery for the background tasks of something that is opened, and a guard for users' code."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

logger = logging.getLogger("barnacle_trio.barnacle")


@contextmanager
def cancelled_alone(note: Callable[[ExceptionGroup[Exception]], object]) -> Iterator[None]:
    """Have code of users that is cancelled be cancelled, whatever else fails on its way out.

    A nursery of its own then raises a group of both, which neither ``except Exception`` nor a
    cancel scope takes whole. The cancellation goes on alone; ``note`` is given the rest.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        cancelled, faults = group.split(trio.Cancelled)
        if cancelled is None or not isinstance(faults, ExceptionGroup):
            raise
        note(faults)
        try:
            raise cancelled from None
        finally:
            del cancelled, faults  # their tracebacks hold this frame


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """As `cancelled_alone`; the log is told what failed."""

    def note(faults: ExceptionGroup[Exception]) -> None:
        logger.warning("%s failed while it was cancelled", what, exc_info=faults)

    with cancelled_alone(note):
        yield


@asynccontextmanager
async def open_background(
    what: str, crashed: Callable[[str], Exception], *, outlive_body: bool = False
) -> AsyncIterator[trio.Nursery]:
    """Open a nursery whose tasks serve the body and end with it.

    With ``outlive_body`` a cancellation from outside reaches the body first, and the tasks only
    once the body has ended: its clean-up can still make use of them.

    What the body raises comes out plain, as the same object: groups and `trio.Cancelled` included.
    Where a background task fails, the body is cancelled and ``crashed(reason)`` is raised, its
    cause a group of what failed (with the body's own error, if that failed too). A
    `KeyboardInterrupt` or `SystemExit` among the failures is never converted.
    """
    raised: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            background = nursery
            shield = trio.CancelScope(shield=True)  # until the body has ended, as it is told to
            try:
                if outlive_body:
                    background = await _open_within(nursery, shield)
                yield background
            except BaseException as error:  # noqa: ASYNC103 - raised at the end, once it is alone
                raised = error  # kept aside: the nursery would wrap it into a group
            finally:
                shield.cancel(f"leaving {what}")
                background.cancel_scope.cancel(f"leaving {what}")
    except BaseExceptionGroup as faults:
        if faults.split((KeyboardInterrupt, SystemExit))[0] is not None:
            raise
        failed = faults.split(trio.Cancelled)[1]
        if failed is not None:
            if outlive_body and isinstance(failed.exceptions[0], BaseExceptionGroup):
                failed = failed.exceptions[0]  # the inner nursery's, whole
            causes = [*failed.exceptions]
            if raised is not None and not isinstance(raised, trio.Cancelled):
                causes.append(raised)
            raise crashed(f"a background task of {what} failed") from BaseExceptionGroup(
                "faults", causes
            )
    if raised is not None:
        raise raised


async def _open_within(outer: trio.Nursery, scope: trio.CancelScope) -> trio.Nursery:
    """Open a nursery in a task of another one, and in a scope that ends it.

    `trio.Nursery.start` would not do: cancelled early, it waits for what is shielded from that.
    """
    opened: list[trio.Nursery] = []
    is_open = trio.Event()

    async def hold_open() -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                opened.append(nursery)
                is_open.set()
                await trio.sleep_forever()

    outer.start_soon(hold_open)
    await is_open.wait()
    return opened[0]
