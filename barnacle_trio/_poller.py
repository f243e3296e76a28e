"""When rounds happen: on time, on request, after a loss, and again after a crash."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable

import trio

from barnacle_trio._dials import Dials
from barnacle_trio._engine import Engine, Round
from barnacle_trio._errors import BarnacleCrashed, DiscoveryError
from barnacle_trio._events import Event, Refreshed, RefreshFailed, RefreshResult, Restarted
from barnacle_trio._logs import ALSO_AN_EVENT
from barnacle_trio._names import shorten, show
from barnacle_trio._options import Options
from barnacle_trio._strategy import NotAllYet
from barnacle_trio._supervisor import Intensity

logger = logging.getLogger("barnacle_trio.barnacle")

JITTER = 0.1
"""Timed rounds stray by this share of the interval, so that nodes started together drift apart."""
FIRST_PACE = 0.1
"""How soon (seconds) the strategy is asked after a loss; doubling up to the poll interval."""
STRANGER_GAP = 0.5
"""Seconds between two spells of haste for strangers; doubling until one of them is named."""
LEAST_GAP = 0.1
"""Seconds between two rounds that nobody asked for, however often a strategy tells of changes."""


class Request:
    """A round that is waited for, by any number of callers."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.result: RefreshResult | None = None
        self.error: Callable[[], Exception] | None = None

    def fail(self, error: Callable[[], Exception]) -> None:
        """Have each caller raise an exception of its own."""
        if not self.over.is_set():
            self.error = error
            self.over.set()

    def succeed(self, result: RefreshResult) -> None:
        """Have each caller return the result."""
        self.result = result
        self.over.set()


class Poller:
    """Runs an engine's rounds until it is cancelled. Memory outlives each `run`."""

    def __init__(
        self,
        engine: Engine,
        options: Options,
        *,
        tell: Callable[[Event], None],
        rng: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._options = options
        self._tell = tell
        self._rng = rng
        self._woken = trio.Event()
        self._changed = False
        self._pace = math.inf  # of the rounds after a loss
        self._hurried_at = math.inf
        self._strangers_after = -math.inf
        self._stranger_gap = STRANGER_GAP
        self._pending: Request | None = None
        self._requests: list[Request] = []  # begun, and waiting for their dials
        self._intensity = Intensity(options.restart_policy)
        self._kinds: set[object] = set()  # of crashes whose traceback was logged
        self._said: str | None = None  # the failure that was logged last
        self._in_trouble = False  # one was logged that is not a mere beginning
        self.ready = trio.Event()
        """Set when the first round may begin."""
        self.last_refresh: float | None = None
        self.last_error: Exception | None = None
        self.refreshes = 0
        self.restarts = 0

    # -- what others say --------------------------------------------------------------------------

    def request(self) -> Request:
        """Ask for a round that begins from now on, together with others that ask."""
        if self._pending is None:
            self._pending = Request()
            self._woken.set()
        return self._pending

    def changed(self) -> None:
        """A new answer is worth asking for."""
        self._changed = True
        self._woken.set()

    def lost(self, fresh: bool) -> None:
        """A node was lost: ask the strategy soon. One that keeps failing brings no new haste."""
        if fresh:
            self._hurry()

    def stranger(self) -> None:
        """A node connected that the strategy has not named: ask whether it does by now.

        Strangers whom it never names bring less and less haste.
        """
        now = trio.current_time()
        if now >= self._strangers_after:
            self._strangers_after = now + self._stranger_gap
            self._stranger_gap = min(2 * self._stranger_gap, self._options.poll_interval)
            self._hurry()

    def _hurry(self) -> None:
        self._pace = FIRST_PACE
        self._hurried_at = min(self._hurried_at, trio.current_time() + FIRST_PACE)
        self._woken.set()

    def fail_requests(self, error: Callable[[], Exception]) -> None:
        """Send everybody away who waits for a round."""
        for request in self._take_requests():
            request.fail(error)

    def _take_requests(self) -> list[Request]:
        requests, self._requests = self._requests, []
        if self._pending is not None:
            requests.append(self._pending)
            self._pending = None
        return requests

    # -- the loop ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Refresh until cancelled.

        Raises:
          BarnacleCrashed: more crashes than the restart policy bears.
        """
        await self.ready.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                self._engine.dialler.run, name=f"barnacle[{self._options.name}] dialler"
            )
            nursery.start_soon(
                self._engine.lookout.watch, name=f"barnacle[{self._options.name}] lookout"
            )
            crash = await self._keep_polling(nursery)
            nursery.cancel_scope.cancel("the poller gave up")
        raise crash

    async def _keep_polling(self, nursery: trio.Nursery) -> BarnacleCrashed:
        while True:
            await trio.lowlevel.checkpoint()
            try:
                await self._poll(nursery)
            except Exception as error:
                crash = self._crashed(error)
                if crash is not None:
                    return crash
                delay = self._intensity.delay(self._options.poll_interval)
                await self._wait_until(trio.current_time() + delay)
                self._tell(
                    Restarted(barnacle=self._options.name, at=trio.current_time(), error=error)
                )

    def _crashed(self, error: Exception) -> BarnacleCrashed | None:
        """Note a crash of the poller. Returns an exception if it is one too many."""
        self.restarts += 1
        self.last_error = error
        too_many = self._intensity.crashed(trio.current_time())
        kind = _kind(error)
        if kind not in self._kinds and len(self._kinds) < 100:
            self._kinds.add(kind)
            logger.error(
                "[%s] a round crashed (the same traceback is not logged again); %s",
                self._options.name,
                "that was once too often" if too_many else "trying on",
                exc_info=error,
            )
        else:
            logger.debug("[%s] a round crashed again: %r", self._options.name, error)
        if not too_many:
            return None
        crash = BarnacleCrashed(
            f"{self._options.name}: more than {self._options.restart_policy.max_restarts} crashes "
            f"within {self._options.restart_policy.within:g} s"
        )
        crash.__cause__ = error
        return crash

    async def _poll(self, nursery: trio.Nursery) -> None:
        looking_for_suspects = trio.Event()
        looking_for_suspects.set()
        while True:
            # Between a `pause` and this there may be a `refresh`, which is the next poller's.
            await trio.lowlevel.checkpoint_if_cancelled()
            self._changed = False
            request, self._pending = self._pending, None
            if request is not None:
                self._requests.append(request)
            started = trio.current_time()
            if looking_for_suspects.is_set():
                looking_for_suspects = trio.Event()
                nursery.start_soon(self._look_for_suspects, looking_for_suspects)
            await self._round(request, nursery)
            self._slow_down(started)
            await self._wait_for_next(started)

    async def _look_for_suspects(self, done: trio.Event) -> None:
        try:
            await self._engine.lookout.look()
        finally:
            done.set()

    async def _round(self, request: Request | None, nursery: trio.Nursery) -> None:
        await trio.lowlevel.checkpoint()
        try:
            done = await self._engine.round(force=request is not None)
        except DiscoveryError as error:
            self._discovery_failed(error)
            self._fail(request, error)
        except Exception as error:
            self._fail(request, _as_discovery_error(error))
            raise
        else:
            self._intensity.recovered()
            self.last_error = done.error
            if done.adopted:
                self._stranger_gap, self._strangers_after = STRANGER_GAP, -math.inf
            self._say(done.error)
            if request is None:
                self._report(done)
            else:
                dials = self._engine.dialler.expect(done.dials)
                nursery.start_soon(self._settle, request, done, dials)

    async def _settle(self, request: Request, done: Round, dials: Dials) -> None:
        try:
            await dials.over.wait()
        finally:
            self._engine.dialler.forget(dials)
        result = self._report(done)
        if request in self._requests:
            self._requests.remove(request)
            request.succeed(result)

    def _report(self, done: Round) -> RefreshResult:
        result = self._engine.report(done)
        self.refreshes += 1
        self.last_refresh = trio.current_time()
        self._tell(Refreshed(barnacle=self._options.name, at=trio.current_time(), result=result))
        return result

    def _fail(self, request: Request | None, error: DiscoveryError) -> None:
        if request is not None and request in self._requests:
            self._requests.remove(request)
            request.fail(lambda: _again(error))

    def _discovery_failed(self, error: DiscoveryError) -> None:
        self.last_error = error
        self._say(error)
        self._tell(RefreshFailed(barnacle=self._options.name, at=trio.current_time(), error=error))

    def _say(self, error: DiscoveryError | None) -> None:
        """One line in the log for each change, not for each round."""
        text = None
        if error is not None:
            how = "failed" if error.partial is None else "is partial"
            text = f"discovery {how}: {shorten(error, 200)}"
        if text == self._said:
            return
        if text is None:
            how = "works again" if self._in_trouble else "is complete"
            logger.info("[%s] discovery %s", self._options.name, how, extra=ALSO_AN_EVENT)
            self._in_trouble = False
        elif isinstance(error, NotAllYet):
            logger.info("[%s] %s", self._options.name, text, extra=ALSO_AN_EVENT)
        else:
            logger.warning("[%s] %s", self._options.name, text, extra=ALSO_AN_EVENT)
            self._in_trouble = True
        self._said = text

    # -- time -------------------------------------------------------------------------------------

    def _slow_down(self, started: float) -> None:
        """Double the pace after a loss, until everybody is back or the usual one is reached."""
        if math.isinf(self._pace):
            return
        back = not self._engine.plan.awaits_change(trio.current_time())
        if started >= self._hurried_at:
            self._pace *= 2
        if back or self._pace >= self._options.poll_interval:
            self._pace = self._hurried_at = math.inf
        elif started >= self._hurried_at:
            self._hurried_at = started + self._pace

    async def _wait_for_next(self, started: float) -> None:
        await trio.lowlevel.checkpoint()
        timed = started + self._options.poll_interval * (1 + JITTER * (2 * self._rng() - 1))
        while self._pending is None:
            due = min(timed, self._hurried_at)
            if self._changed:
                due = min(due, started + LEAST_GAP)
            if trio.current_time() >= due:
                return
            self._woken = trio.Event()
            with trio.move_on_at(due):
                await self._woken.wait()

    async def _wait_until(self, deadline: float) -> None:
        await trio.lowlevel.checkpoint()
        while self._pending is None and trio.current_time() < deadline:
            self._woken = trio.Event()
            with trio.move_on_at(deadline):
                await self._woken.wait()


def _kind(error: Exception) -> object:
    frames = traceback.extract_tb(error.__traceback__)
    where = (frames[-1].filename, frames[-1].lineno) if frames else None
    return (type(error), where)


def _as_discovery_error(error: Exception) -> DiscoveryError:
    translated = DiscoveryError(f"the strategy crashed: {show(error, 200)}")
    translated.__cause__ = error
    return translated


def _again(error: DiscoveryError) -> DiscoveryError:
    """A new exception like the given one: each caller that raises one adds its own traceback."""
    copy = DiscoveryError(error.reason, partial=error.partial)
    copy.__cause__ = error.__cause__ or error
    return copy
