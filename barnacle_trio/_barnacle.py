"""The barnacle: what users hold of the supervised loop that keeps nodes connected."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MappingProxyType

import trio

from barnacle_trio._engine import Engine
from barnacle_trio._errors import BarnacleCrashed, BarnacleError, BarnaclePaused, ConfigurationError
from barnacle_trio._events import (
    BarnacleState,
    Draining,
    Event,
    NodeUp,
    Paused,
    RefreshResult,
    Resumed,
    ShutDown,
    Status,
)
from barnacle_trio._leaving import LEAVE_TIMEOUT, have_drain, have_leave
from barnacle_trio._listeners import Listeners
from barnacle_trio._names import NodeName, shorten, show
from barnacle_trio._options import Options, check_seconds
from barnacle_trio._poller import Poller
from barnacle_trio._process import MAX_CALLS, BarnacleProcess
from barnacle_trio._scopes import open_background
from barnacle_trio._service import keep_serving
from barnacle_trio._strategy import LeavingStrategy, ServedStrategy, Strategy
from barnacle_trio._supervisor import is_count
from barnacle_trio._transport import DrainableTransport, ServingTransport, Transport
from barnacle_trio._values import AsyncValue

logger = logging.getLogger("barnacle_trio.barnacle")


class Barnacle:
    """Keeps nodes connected. Made by `open_barnacle` and `serve_barnacle`.

    One object, valid across restarts of its poller. After its end, `status` and ``nodes.value``
    still tell how things stood; everything else raises `trio.ClosedResourceError`.
    """

    def __init__(
        self,
        strategy: Strategy,
        transport: Transport,
        local: NodeName,
        options: Options,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._strategy = strategy
        self._transport = transport
        self._options = options
        self._state: BarnacleState = "running"
        self._draining = False
        self._listeners = Listeners(
            options.name, trio.current_time, lambda: self._engine.nodes.value
        )
        self._engine = Engine(
            strategy,
            transport,
            local,
            options,
            tell=self._listeners.publish,
            lost=lambda fresh: self._poller.lost(fresh),
            stranger=lambda: self._poller.stranger(),
            rng=rng,
        )
        self._poller = Poller(self._engine, options, tell=self._listeners.publish, rng=rng)
        self._polling: _Polling | None = None
        self._control = trio.Event()  # the state changed
        self._scope = trio.CancelScope()  # of everything that runs
        self._ended = trio.Event()
        self._waits: set[trio.CancelScope] = set()  # of callers; cancelled at the end
        self._crash: BarnacleCrashed | None = None

    @property
    def name(self) -> str:
        """The barnacle's name, borne by its events and log lines."""
        return self._options.name

    @property
    def nodes(self) -> AsyncValue[frozenset[NodeName]]:
        """The nodes of this barnacle that are connected, live.

        Those that its strategy has named and that were not pruned since, hidden or visible, whoever
        dialled; never the local one.
        """
        return self._engine.nodes.view

    def __repr__(self) -> str:
        return f"<Barnacle {self.name} {self._state}, {len(self.nodes.value)} nodes>"

    # -- what callers ask for ---------------------------------------------------------------------

    async def refresh(self) -> RefreshResult:
        """Run a round now, wait for the dials that it starts or joins, and return what it did.

        The round begins after the call; callers that come together share one. Backoff and
        quarantine are ignored. A paused barnacle is resumed. If cancelled, the round goes on.

        Raises:
          DiscoveryError: discovery failed (not when the answer was merely partial), or the
            transport could not list its nodes.
          BarnaclePaused: `pause` was called meanwhile.
          trio.ClosedResourceError: the barnacle has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open(draining=False)
        if self._state == "paused":
            self._resume()
        request = self._poller.request()
        with self._until_closed():
            await request.over.wait()
        if request.error is not None:
            raise request.error()
        assert request.result is not None  # noqa: S101  # a request ends with one of the two
        return request.result

    async def pause(self) -> None:
        """Stop to discover, dial and prune, until `resume` or `refresh`. Connections stay.

        A round under way and all dials are cancelled; this waits until they have ended. If it is
        cancelled meanwhile, the barnacle is paused all the same. Does nothing when paused.

        Raises:
          trio.ClosedResourceError: the barnacle has ended.
        """
        await trio.lowlevel.checkpoint()
        self._check_open(draining=False)
        if self._state == "running":
            self._set_state("paused")
            self._tell(Paused)
            self._stop_polling(lambda: BarnaclePaused(f"{self.name} was paused"))
        polling = self._polling
        if polling is not None:
            with self._until_closed():
                await polling.ended.wait()

    async def resume(self) -> None:
        """Go on after `pause`, with a round at once. Does nothing when running.

        Raises:
          trio.ClosedResourceError: the barnacle has ended.
        """
        await trio.lowlevel.checkpoint()
        self._check_open(draining=False)
        if self._state == "paused":
            self._resume()

    async def shutdown(self) -> None:
        """End the barnacle and wait until its tasks have ended. Connections stay. Idempotent.

        If this is cancelled, the barnacle ends all the same.
        """
        self._close()
        self._scope.cancel("Barnacle.shutdown() was called")
        await self._ended.wait()

    async def drain(self, grace: float = 10.0) -> None:
        """Leave the cluster: for a handler of SIGTERM. The barnacle ends closed.

        It stops dialling, has the strategy say goodbye, and has the transport do so, which refuses
        connections and dials (of every barnacle on it), waits for the calls being served, tells the
        peers and disconnects them. Whoever calls this meanwhile, or later, waits for the same end.
        If the first caller is cancelled, it ends at once.

        It always ends in time: the strategy has 2 seconds, the transport 5 beyond ``grace``.

        Args:
          grace: seconds for the calls that the transport serves.

        Raises:
          ConfigurationError: ``grace`` is no number of seconds.
          trio.ClosedResourceError: the barnacle has ended otherwise.
        """
        check_seconds("grace", grace, zero=True)
        await trio.lowlevel.checkpoint()
        if not self._draining:
            self._check_open()
            self._draining = True
            await self._drain(grace)
        await self._ended.wait()

    async def wait_for_nodes(self, n: int, held_for: float = 0) -> frozenset[NodeName]:
        """Wait until at least ``n`` nodes are connected, and return those that are so now.

        Args:
          n: how many of `nodes`.
          held_for: seconds for which there must have been that many without a break.

        Raises:
          trio.ClosedResourceError: the barnacle has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        with self._until_closed():
            while True:
                await self.nodes.wait_value(lambda nodes: len(nodes) >= n, held_for=held_for)
                nodes = self.nodes.value
                if len(nodes) >= n:  # one may be gone again before this task is run
                    return nodes

    def status(self) -> Status:
        """A snapshot of how things stand."""
        return Status(
            state=self._state,
            nodes=self.nodes.value,
            peers=MappingProxyType(self._engine.plan.status()),
            last_refresh=self._poller.last_refresh,
            last_error=self._poller.last_error,
            refreshes=self._poller.refreshes,
            restarts=self._poller.restarts,
            missed=self._listeners.missed,
        )

    @contextmanager
    def open_listener(
        self, max_buffer_size: int = 64
    ) -> Iterator[trio.MemoryReceiveChannel[Event]]:
        """Open a channel of events, closed when the block is left.

        It begins with a `NodeUp` for each node that is up and ends after `ShutDown`. Events that
        find no room are dropped; a `Missed` tells so before the next one that fits.

        Args:
          max_buffer_size: events that may wait, beside those that it begins with.

        Raises:
          ConfigurationError: less than 1.
          trio.ClosedResourceError: the barnacle has ended.
        """
        if not is_count(max_buffer_size, least=1):
            raise ConfigurationError(
                f"max_buffer_size is an int of at least 1, not {show(max_buffer_size)}"
            )
        self._check_open()
        now = trio.current_time()
        begin = [NodeUp(barnacle=self.name, at=now, node=each) for each in sorted(self.nodes.value)]
        with self._listeners.open(max_buffer_size, begin) as receive:
            yield receive

    # -- inside -----------------------------------------------------------------------------------

    def _check_open(self, *, draining: bool = True) -> None:
        if self._state == "closed" or (self._state == "draining" and not draining):
            raise trio.ClosedResourceError(f"the barnacle {self.name} is {self._state}")

    @contextmanager
    def _until_closed(self) -> Iterator[None]:
        """Have what is waited for inside end with `trio.ClosedResourceError` at the end."""
        self._check_open()
        with trio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                yield
            finally:
                self._waits.discard(scope)
        if scope.cancelled_caught:
            raise trio.ClosedResourceError(f"the barnacle {self.name} has ended")

    def _tell(self, kind: Callable[..., Event]) -> None:
        self._listeners.publish(kind(barnacle=self.name, at=trio.current_time()))

    def _set_state(self, state: BarnacleState) -> None:
        logger.info("[%s] %s", self.name, state)
        self._state = state
        self._control.set()

    def _resume(self) -> None:
        self._set_state("running")
        self._tell(Resumed)

    def _stop_polling(self, error: Callable[[], Exception]) -> None:
        self._poller.fail_requests(error)
        if self._polling is not None:
            self._polling.scope.cancel(f"the barnacle is {self._state}")

    def _close(self) -> None:
        """The end, as users see it. Synchronous, for it happens in cancelled tasks too."""
        if self._state == "closed":
            return
        self._set_state("closed")
        self._poller.fail_requests(trio.ClosedResourceError)
        for scope in self._waits:
            scope.cancel("the barnacle has ended")
        self._tell(ShutDown)
        self._listeners.close()

    async def _drain(self, grace: float) -> None:
        self._set_state("draining")
        self._tell(Draining)
        self._stop_polling(trio.ClosedResourceError)
        try:
            await trio.lowlevel.checkpoint()
            if self._polling is not None:
                with trio.move_on_after(LEAVE_TIMEOUT):
                    await self._polling.ended.wait()
            if isinstance(self._strategy, LeavingStrategy):
                await have_leave(self.name, self._strategy, self._engine.local)
            if isinstance(self._transport, DrainableTransport):
                await have_drain(self.name, self._transport, grace)
        finally:
            self._close()
            self._scope.cancel("Barnacle.drain() is done")

    # -- what runs --------------------------------------------------------------------------------

    async def run(self, started: Callable[[], None]) -> None:
        """Be alive until shut down, cancelled or crashed; see `serve_barnacle`."""
        with ExitStack() as stack:
            stack.callback(self._ended.set)
            stack.callback(self._close)
            for listener in self._options.listeners:
                self._listeners.add(listener)
            stack.enter_context(self._engine.attached())
            stack.enter_context(self._scope)
            async with open_background(f"the barnacle {self.name}", BarnacleCrashed) as nursery:
                await self._register(nursery)
                if isinstance(self._strategy, ServedStrategy):
                    nursery.start_soon(self._serve, self._strategy, name=self._task("strategy"))
                else:
                    self._poller.ready.set()
                if not self._engine.subscribed:
                    nursery.start_soon(self._engine.watch, name=self._task("watch"))
                nursery.start_soon(self._poll, name=self._task("poller"))
                started()
                await trio.sleep_forever()
        if self._crash is not None:
            raise self._crash

    def _task(self, what: str) -> str:
        return f"barnacle[{self.name}] {what}"

    async def _register(self, nursery: trio.Nursery) -> None:
        await trio.lowlevel.checkpoint()
        name = self._options.registered_name
        if name is None or not isinstance(self._transport, ServingTransport):
            return
        try:
            await nursery.start(
                partial(self._transport.serve_process, max_concurrent=MAX_CALLS),
                name,
                BarnacleProcess(self),
                name=self._task("process"),
            )
        except (BarnacleError, ValueError) as error:
            raise ConfigurationError(
                f"the barnacle cannot be registered as {shorten(name)}: {error}"
            ) from error

    def _give_up(self, crash: BarnacleCrashed) -> None:
        self._crash = crash
        self._scope.cancel("the barnacle gives up")

    async def _serve(self, strategy: ServedStrategy) -> None:
        crash = await keep_serving(
            strategy,
            self._engine.local,
            self._options,
            changed=self._poller.changed,
            ready=self._poller.ready.set,
        )
        if crash is not None:
            self._give_up(crash)

    async def _poll(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            self._control = trio.Event()
            if self._state == "running":
                await self._poll_until_paused()
            else:
                await self._control.wait()

    async def _poll_until_paused(self) -> None:
        self._polling = polling = _Polling()
        try:
            with polling.scope:
                await self._poller.run()
        except BarnacleCrashed as crash:
            self._give_up(crash)
        finally:
            polling.ended.set()
        await trio.lowlevel.checkpoint()


class _Polling:
    """One stretch of polling, between a start and a pause."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
