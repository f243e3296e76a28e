"""Looking for peers that are left alone: they may have been started anew meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from barnacle_trio._names import NodeName, shorten
from barnacle_trio._options import Options
from barnacle_trio._plan import Plan
from barnacle_trio._scopes import users_code
from barnacle_trio._transport import LocatingTransport, Transport

logger = logging.getLogger("barnacle_trio.barnacle")

MAX_LOOKUPS = 16
"""Peers that are looked for at once."""
FIRST_PAUSE = 1.0
"""Seconds between the first two looks for a peer that said goodbye; they double."""


class Lookout:
    """Ends the quarantine, or the quiet, of who is found at a new place.

    Args:
      plan: who is left alone.
      transport: where they are; one that cannot tell is not asked.
      options: a name for the log, and a bound for each look.
      wake: called when somebody may be dialled.
    """

    def __init__(
        self, plan: Plan, transport: Transport, options: Options, *, wake: Callable[[], None]
    ) -> None:
        self._plan = plan
        self._transport = transport
        self._options = options
        self._wake = wake
        self._left = trio.Event()

    def left(self) -> None:
        """A peer said goodbye."""
        self._left.set()

    async def watch(self) -> None:
        """Look at once for who said goodbye, and a few times more while it is left alone."""
        while True:
            await self._left.wait()
            self._left = trio.Event()
            pause = FIRST_PAUSE
            while not self._left.is_set() and (quiet := self._plan.quiet(trio.current_time())):
                await self._look_for(quiet)
                with trio.move_on_after(pause):
                    await self._left.wait()
                pause *= 2

    async def look(self) -> None:
        """Look for all who are left alone, once."""
        await self._look_for(self._plan.suspects(trio.current_time()))

    async def _look_for(self, names: frozenset[NodeName]) -> None:
        await trio.lowlevel.checkpoint()
        if not names or not isinstance(self._transport, LocatingTransport):
            return
        transport = self._transport
        limit = trio.CapacityLimiter(MAX_LOOKUPS)

        async def locate(name: NodeName) -> None:
            async with limit:
                try:
                    with trio.move_on_after(self._options.dial_timeout):
                        with users_code(f"locating {name}"):
                            where = await transport.locate(name)
                        if self._plan.located(name, where, trio.current_time()):
                            self._wake()
                except Exception as error:
                    logger.debug(
                        "[%s] cannot locate %s: %s", self._options.name, name, shorten(error, 200)
                    )

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(locate, name)
