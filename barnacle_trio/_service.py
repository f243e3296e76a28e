"""The background task that some strategies have: a socket, a watch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import trio

from barnacle_trio._errors import BarnacleCrashed
from barnacle_trio._names import NodeName, show
from barnacle_trio._options import Options
from barnacle_trio._scopes import users_code
from barnacle_trio._strategy import ServedStrategy
from barnacle_trio._supervisor import Intensity

logger = logging.getLogger("barnacle_trio.barnacle")


async def keep_serving(
    strategy: ServedStrategy,
    local: NodeName,
    options: Options,
    *,
    changed: Callable[[], None],
    ready: Callable[[], None],
) -> BarnacleCrashed | None:
    """Keep a strategy's background task alive; it is started again alone when it crashes.

    Args:
      strategy: whose ``serve`` to run.
      local: the local node's name.
      options: ``discovery_timeout`` bounds each start, ``poll_interval`` the pause between two.
      changed: handed to the strategy, and called after each further start.
      ready: called when the first start is over, well or not.

    Returns: None when the task ended by itself, an exception when it crashed too often.
    """
    intensity = Intensity(options.restart_policy)
    kinds: set[str] = set()
    first = True

    def started() -> None:
        nonlocal first
        if first:
            ready()
        else:
            changed()
        first = False

    while True:
        since = trio.current_time()
        error = await _serve(strategy, local, options.discovery_timeout, changed, started)
        if first:
            ready()
            first = False
        if error is None:
            return None
        now = trio.current_time()
        if now - since > options.poll_interval:
            intensity.recovered()
        if intensity.crashed(now):
            crash = BarnacleCrashed(f"{options.name}: the strategy's service crashed too often")
            crash.__cause__ = error
            return crash
        delay = intensity.delay(options.poll_interval)
        _log(options.name, error, delay, kinds)
        await trio.sleep(delay)


async def _serve(
    strategy: ServedStrategy,
    local: NodeName,
    start_within: float,
    changed: Callable[[], None],
    started: Callable[[], None],
) -> Exception | None:
    await trio.lowlevel.checkpoint()
    serve = partial(strategy.serve, local, changed=changed)
    try:
        with users_code("the strategy's service"):
            async with trio.open_nursery() as nursery:
                with trio.move_on_after(start_within) as scope:
                    await nursery.start(serve, name="strategy.serve")
                if scope.cancelled_caught:
                    raise trio.TooSlowError(f"it did not start within {start_within:g} s")
                started()
    except Exception as error:
        if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            return error.exceptions[0]  # the group is the nursery's above
        return error
    return None


def _log(barnacle: str, error: Exception, delay: float, kinds: set[str]) -> None:
    kind = type(error).__name__
    known, expected = kind in kinds, isinstance(error, (OSError, trio.TooSlowError))
    kinds.add(kind)
    if known:
        logger.debug("[%s] the strategy's service crashed again: %r", barnacle, error)
        return
    logger.warning(
        "[%s] the strategy's service crashed: %s; started again in %.1f s",
        barnacle,
        show(error, 200),
        delay,
        exc_info=None if expected else error,
    )
