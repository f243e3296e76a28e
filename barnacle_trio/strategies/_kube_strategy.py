"""The two ways to answer from an API server: by a list for each answer, or by watching it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from barnacle_trio._errors import DiscoveryError
from barnacle_trio._names import NodeName, shorten
from barnacle_trio.strategies._ask import Naming, settle
from barnacle_trio.strategies._kube_api import Listing
from barnacle_trio.strategies._kube_hosts import HostRule
from barnacle_trio.strategies._kube_state import MAX_INSTANCES, Entries
from barnacle_trio.strategies._kube_watch import Source, SourceDown, Watcher
from barnacle_trio.strategies._time import time_to_answer

logger = logging.getLogger("barnacle_trio.strategies")

_SHOWN = 5  # of those that were left out


class Listed:
    """Lists for each answer."""

    def __init__(self, shown: str, source: Source, rule: HostRule, naming: Naming) -> None:
        self._shown = shown
        self._source = source
        self._rule = rule
        self._naming = naming
        self._left_out: frozenset[str] = frozenset()  # for the log: told once, not in each round
        self._not_before = float("-inf")
        self._told_off = ""

    def __repr__(self) -> str:
        return self._shown

    async def __call__(self, local: NodeName) -> frozenset[str]:
        await trio.lowlevel.checkpoint()
        if trio.current_time() < self._not_before:
            raise DiscoveryError(self._told_off)
        listing = Listing()
        error: DiscoveryError | None = None
        try:
            with trio.move_on_after(time_to_answer(self._naming.steps)):
                async with self._source.open() as api:
                    await api.list(listing)
        except DiscoveryError as failure:
            error = failure
            self._stay_away(failure)
        if error is None and listing.position is None:
            error = DiscoveryError("the API server gave no whole answer in time")
        return await self._answer(listing.entries if listing.begun else None, error, local)

    def _stay_away(self, failure: DiscoveryError) -> None:
        seconds = getattr(failure, "retry_after", None)
        if seconds:
            self._not_before = trio.current_time() + seconds
            self._told_off = failure.reason

    async def _answer(
        self, entries: Entries | None, error: DiscoveryError | None, local: NodeName
    ) -> frozenset[str]:
        """The names of all that is known; None is known where the source failed as a whole."""
        if entries is None:
            raise error or DiscoveryError("nothing is known")
        hosts, left_out = self._rule.hosts(entries.instances(), local.host)
        self._leave_out(frozenset(left_out))
        errors = [] if error is None else [error]
        if entries.overflowed:
            errors.append(DiscoveryError(f"more than {MAX_INSTANCES} pods, not all are named"))
        errors += [
            DiscoveryError(
                f"Kubernetes cuts the Endpoints {shorten(key)} at 1,000 addresses, not all are "
                'named; lookup="endpointslices" finds all'
            )
            for key in entries.cut()
        ]
        named = await self._naming.names_at(sorted(hosts), local)
        return settle(named.names, [*errors, *named.errors], answered=named.answered)

    def _leave_out(self, left_out: frozenset[str]) -> None:
        if left_out - self._left_out:
            examples = ", ".join(map(shorten, sorted(left_out)[:_SHOWN]))
            logger.warning("%r: left out %d of no use: %s", self, len(left_out), examples)
        self._left_out = left_out


class Watched(Listed):
    """Watches while it is served, and lists when it is asked without."""

    def __init__(self, shown: str, source: Source, rule: HostRule, naming: Naming) -> None:
        super().__init__(shown, source, rule, naming)
        self._watchers: list[Watcher] = []

    async def __call__(self, local: NodeName) -> frozenset[str]:
        if not self._watchers:
            return await super().__call__(local)
        try:
            entries = await self._watchers[-1].entries()
        except SourceDown as error:
            return await self._answer(error.entries, error, local)
        return await self._answer(entries, None, local)

    async def serve(
        self,
        local: NodeName,
        *,
        changed: Callable[[], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Watch until cancelled. It has started at once, whether or not the server is there."""
        watcher = Watcher(self._source, changed=changed)
        self._watchers.append(watcher)
        try:
            task_status.started()
            await watcher.run()
        finally:
            self._watchers.remove(watcher)
