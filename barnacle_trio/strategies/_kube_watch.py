"""Keeping a list of objects up to date: list once, watch, go on where the watch ended."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

import trio

from barnacle_trio._errors import DiscoveryError
from barnacle_trio.strategies._kube_access import Access
from barnacle_trio.strategies._kube_api import Gone, KubeApi, Listing, Selection, Watch
from barnacle_trio.strategies._kube_http import ApiError, Broken, Http
from barnacle_trio.strategies._kube_state import Entries, WatchState
from barnacle_trio.strategies._kube_wire import Position

logger = logging.getLogger("barnacle_trio.strategies")

FIRST_PAUSE = 0.5
"""Seconds of the longest pause before the first attempt after a watch ended; doubled for each
further one that does not last. The pause itself is anything up to that (full jitter)."""
LONGEST_PAUSE = 15.0
HEALTHY_AFTER = 10.0
"""Seconds of watching after which earlier failures are forgotten."""
RESUMES = 3
"""How many attempts in a row may fail to go on before everything is listed anew."""
LIST_WITHIN = 60.0
"""Seconds for all pages of a list."""
WATCH_FOR: Final = (240.0, 480.0)
"""Seconds that a watch is asked to last, anything between the two: nodes that started together
do not ask together, and each request shows the token that is valid by then."""

AccessReader: TypeAlias = Callable[[], Awaitable[Access]]
Connector: TypeAlias = Callable[[Access], AbstractAsyncContextManager[Http]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where objects come from: how to reach the server, and what to select there.

    ``namespace`` None is the one that the access tells.
    """

    access: AccessReader
    connect: Connector
    namespace: str | None
    selection: Selection

    @asynccontextmanager
    async def open(self) -> AsyncIterator[KubeApi]:
        """Connect, with credentials as they are now.

        Raises:
          DiscoveryError: there are none that could be used.
        """
        access = await self.access()
        async with self.connect(access) as http:
            yield KubeApi(http, self.namespace or access.namespace, self.selection)


class SourceDown(DiscoveryError):
    """The server does not answer. ``entries`` is what was read of a first list all the same."""

    def __init__(self, reason: str, entries: Entries | None = None) -> None:
        super().__init__(reason)
        self.entries = entries


class Watcher:
    """The objects of a source, as long as `run` runs.

    Args:
      source: where they come from.
      changed: called when instances differ, and when they are known again after a failure.
      rng: a number from 0 to 1, for the pauses.
    """

    def __init__(
        self,
        source: Source,
        *,
        changed: Callable[[], None],
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._source = source
        self._changed = changed
        self._rng = rng
        self._state = WatchState()
        self._settled = trio.Event()  # once it is known how the first attempt went
        self._failure: DiscoveryError | None = None
        self._been_up = False
        self._first_read: Entries | None = None  # until it has been up
        self._watching_since: float | None = None
        self._failures = 0  # attempts in a row that did not last
        self._refusals = 0  # of those, how many the server answered, if not as it should
        self._last_status: int | None = None  # of the last of them

    async def entries(self) -> Entries:
        """What is known; waits for the first attempt to have gone well or not.

        Raises:
          SourceDown: the server does not answer. Each call raises an error of its own.
        """
        await self._settled.wait()
        if self._failure is not None:
            raise SourceDown(self._failure.reason, self._first_read) from self._failure
        return self._state.entries

    async def run(self) -> None:
        """List, watch, and go on for ever. No failure of the source ends it."""
        while True:
            wait = 0.0
            try:
                await self._attempt()
            except Gone as error:
                logger.debug("listing anew: %s", error)
                self._state.forget_position()
            except DiscoveryError as error:
                if isinstance(error, Broken) and self._watching_since is not None:
                    logger.debug("a watch broke: %s", error)  # which is an end of it, not yet more
                else:
                    self._down(error)
                    wait = getattr(error, "retry_after", None) or 0.0
            await trio.sleep(wait + self._pause())

    def _pause(self) -> float:
        since, self._watching_since = self._watching_since, None
        if since is not None and trio.current_time() - since >= HEALTHY_AFTER:
            self._failures = 0
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**self._failures)
        self._failures = min(self._failures + 1, 30)
        return self._rng() * longest

    async def _attempt(self) -> None:
        async with self._source.open() as api:
            position = self._state.position
            changed = False
            if position is None:
                position, changed = await self._list(api)
            low, high = WATCH_FOR
            seconds = low + (high - low) * self._rng()
            async with api.watch(position, seconds) as watch:
                self._up(changed)
                # The server ends it by then; one that does not is left.
                with trio.move_on_after(seconds + FIRST_PAUSE):
                    await self._follow(watch)

    async def _list(self, api: KubeApi) -> tuple[Position, bool]:
        listing = Listing()
        try:
            with trio.move_on_after(LIST_WITHIN):
                await api.list(listing)
        finally:
            if listing.begun and not self._been_up:
                self._first_read = listing.entries
        if listing.position is None:
            raise ApiError(f"no whole list of objects within {LIST_WITHIN:g} s")
        changed = self._state.replace(listing.entries, listing.position)
        return listing.position, changed

    async def _follow(self, watch: Watch) -> None:
        while (event := await watch.next()) is not None:
            self._refusals = 0
            if self._state.apply(event):
                self._changed()

    def _up(self, changed: bool) -> None:
        was_down, self._failure = self._failure is not None, None
        self._been_up, self._first_read = True, None
        self._watching_since = trio.current_time()
        self._settled.set()
        if was_down or changed:
            self._changed()

    def _down(self, error: DiscoveryError) -> None:
        logger.debug("watching failed: %s", error)
        status = _status(error)
        if status is not None or self._watching_since is not None:
            self._refusals += 1
            if self._refusals >= RESUMES:
                self._refusals = 0
                self._state.forget_position()
        # An outage keeps its first reason, so that the log has one line for it. A server that
        # starts up refuses this and that for moments: another reason counts when it comes twice.
        if self._failure is None or (status == self._last_status != _status(self._failure)):
            self._failure = error
        self._last_status = status
        self._settled.set()


def _status(error: DiscoveryError) -> int | None:
    return error.status if isinstance(error, ApiError) else None
