"""One round, and what happens between rounds: a plan carried out on a transport.

Knows nothing of when rounds happen, of pausing or of restarts.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from barnacle_trio._claims import claim
from barnacle_trio._dials import Dialler
from barnacle_trio._errors import DisconnectError, DiscoveryError
from barnacle_trio._events import Event, NodeDown, NodeUp, RefreshResult
from barnacle_trio._lookout import Lookout
from barnacle_trio._names import NodeName, shorten
from barnacle_trio._options import Options
from barnacle_trio._plan import Loss, Plan
from barnacle_trio._scopes import users_code
from barnacle_trio._strategy import Discovery, Strategy, discover, sift
from barnacle_trio._transport import (
    PeerChange,
    PeerDown,
    SubscribableTransport,
    Transport,
    VisibilityTransport,
)
from barnacle_trio._values import Settable

logger = logging.getLogger("barnacle_trio.barnacle")

LOOK_EVERY = 1.0
"""How often (seconds) a transport that does not tell of its connections is asked for them."""
SHOWN = 5
"""Names that one line of the log shows."""


@dataclass(slots=True)
class Round:
    """What a round has found and done so far."""

    error: DiscoveryError | None = None  # of a partial answer
    failed: dict[str, Exception] = field(default_factory=dict)
    disconnected: set[NodeName] = field(default_factory=set)
    dials: frozenset[NodeName] = frozenset()
    adopted: bool = False  # it named nodes that had connected before
    dialled_before: int = 0  # how many dials had succeeded when it began


class Engine:
    """Carries out rounds.

    Args:
      strategy: how nodes are discovered.
      transport: how they are connected.
      local: the local node's name.
      options: all of them.
      tell: takes `NodeUp` and `NodeDown`.
      lost: called when one of our nodes is lost, with whether it had been a working one.
      stranger: called when a node connected that the strategy has not named.
      rng: jitter, in 0..1.
      once: there will be no second round.
    """

    def __init__(
        self,
        strategy: Strategy,
        transport: Transport,
        local: NodeName,
        options: Options,
        *,
        tell: Callable[[Event], None] = lambda _event: None,
        lost: Callable[[bool], None] = lambda _fresh: None,
        stranger: Callable[[], None] = lambda: None,
        rng: Callable[[], float] = random.random,
        once: bool = False,
    ) -> None:
        self.local = local
        self._strategy = strategy
        self._transport = transport
        self._options = options
        self._tell = tell
        self._lost = lost
        self._stranger = stranger
        self.plan = Plan(local, options.rules(prune_answers=1 if once else 2), rng)
        self.nodes: Settable[frozenset[NodeName]] = Settable(frozenset())
        self.subscribed = isinstance(transport, SubscribableTransport)
        self.dialler = Dialler(
            options.name,
            self.plan,
            transport,
            dial_timeout=options.dial_timeout,
            max_dials=options.max_dials,
            confirm=None if self.subscribed else self.look,
            dialled=self._note_dialled,
            once=once,
        )
        self.lookout = Lookout(self.plan, transport, options, wake=self.dialler.wake)
        # How many dials have succeeded, here and at the last report; and for the nodes that are up,
        # which of them was theirs.
        self._dials_done = self._reported = 0
        self._dialled_as: dict[NodeName, int] = {}
        self._held: Callable[[NodeName], bool] = lambda _name: False
        self._looking = trio.Lock()
        self._looks = 0  # listings begun; and the latest of them that ended well
        self._seen = 0
        self._touched: set[NodeName] | None = None  # by events, while the transport lists its nodes
        self._held_back = False
        self._rejected: frozenset[str] = frozenset()  # names that were left out the last time

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hear of the transport's connections, and claim our nodes from other barnacles."""
        with claim(self._transport, self._holds) as held:
            self._held = held
            unsubscribe = (
                self._transport.subscribe(self._on_change)
                if isinstance(self._transport, SubscribableTransport)
                else _nothing
            )
            try:
                yield
            finally:
                unsubscribe()

    def _holds(self, name: NodeName) -> bool:
        return self.plan.holds(name, trio.current_time())

    # -- connections that come and go ------------------------------------------------------------

    def _on_change(self, change: PeerChange) -> None:
        name = change.node
        if self._touched is not None:
            self._touched.add(name)
        if isinstance(change, PeerDown):
            self._down(self.plan.down(name, change.reason, trio.current_time()), name)
            return
        if self.plan.is_connected(name) and not self.plan.is_connected(
            name, creation=change.creation
        ):
            self._down(self.plan.down(name, "replaced", trio.current_time()), name)
        self._up(name, change.creation)

    def _up(self, name: NodeName, creation: int = 0) -> None:
        known = self.plan.is_connected(name)
        if self.plan.up(name, trio.current_time(), creation=creation):
            self._joined(name)
        elif not known and name != self.local:
            self._stranger()
        self.dialler.settled([name])

    def _joined(self, name: NodeName) -> None:
        self.nodes.value |= {name}
        logger.info("[%s] %s is up", self._options.name, name)
        self._tell(NodeUp(barnacle=self._options.name, at=trio.current_time(), node=name))

    def _down(self, loss: Loss | None, name: NodeName) -> None:
        if loss is None or not loss.ours:
            return
        self.nodes.value -= {name}
        logger.info("[%s] %s is down: %s", self._options.name, name, loss.reason)
        self._tell(
            NodeDown(
                barnacle=self._options.name, at=trio.current_time(), node=name, reason=loss.reason
            )
        )
        if loss.reason in ("lost", "silent"):
            self._lost(loss.fresh)
        elif loss.reason == "left":
            self.lookout.left()
        self.dialler.wake()

    def _note_dialled(self, name: NodeName) -> None:
        self._dials_done += 1
        self._dialled_as[name] = self._dials_done

    async def look(self) -> None:
        """Compare what is known with what the transport lists, by a listing that begins after now.

        Raises:
          DiscoveryError: it could not be listed.
        """
        begun = self._looks
        async with self._looking:
            if self._seen > begun:
                return  # one that began while this call waited has just ended well
            self._looks += 1
            self._touched = set()
            try:
                listed = await self._list(self._transport.list_nodes, "list_nodes")
                self._reconcile(listed, self._touched)
                self._seen = self._looks
            finally:
                self._touched = None

    async def watch(self) -> None:
        """Look every so often, for a transport that does not tell of its connections."""
        while True:
            await trio.sleep(min(LOOK_EVERY, self._options.poll_interval))
            try:
                await self.look()
            except DiscoveryError as error:
                logger.debug("[%s] %s", self._options.name, error)  # a round will tell

    def _reconcile(self, listed: frozenset[NodeName], touched: set[NodeName]) -> None:
        # of what events told meanwhile, they know better
        known = self.plan.connected()
        for name in sorted(listed - known - touched - {self.local}):
            self._up(name)
        for name in sorted(known - listed - touched):
            self._down(self.plan.down(name, "lost", trio.current_time()), name)

    async def _list(
        self, function: Callable[[], Awaitable[Iterable[str]]], what: str
    ) -> frozenset[NodeName]:
        timeout = self._options.dial_timeout
        try:
            with trio.move_on_after(timeout) as scope:
                with users_code(f"the transport's {what}"):
                    listed = await function()
            if scope.cancelled_caught:
                raise trio.TooSlowError(f"no answer within {timeout:g} s")
            if isinstance(listed, (str, bytes)) or not isinstance(listed, Iterable):
                raise TypeError(f"it gave {type(listed).__name__}, not an iterable of node names")
            return sift(listed)[0]
        except Exception as error:
            raise DiscoveryError(f"the transport's {what} failed: {shorten(error, 200)}") from error

    # -- a round ---------------------------------------------------------------------------------

    async def round(self, *, force: bool) -> Round:
        """Discover, compare, disconnect, and have dials started. Does not wait for these.

        Args:
          force: dial every wanted peer now, whatever its backoff or quarantine.

        Raises:
          DiscoveryError: discovery failed, or the transport could not list its nodes.
          Exception: a bug in the strategy.
        """
        dialled_before = self._dials_done
        try:
            discovery = await self._discover()
            if discovery.kind == "failed":
                raise discovery.error or DiscoveryError("no answer")
            await self.look()
        except DiscoveryError:
            if force:  # the last good answer stays in use
                self._force()
            raise
        self._note_rejected(discovery.rejected)
        now = trio.current_time()
        answered = self.plan.answer(discovery, now)
        for name in sorted(answered.adopted):
            self._joined(name)
        self.dialler.settled(answered.dropped)
        done = Round(
            error=discovery.error,
            failed=dict(discovery.rejected),
            adopted=bool(answered.adopted),
            dialled_before=dialled_before,
        )
        if discovery.kind == "complete" and discovery.nodes:
            await self._prune(done)
        if force:
            done.dials = self._force()
        self.dialler.wake()
        return done

    def _force(self) -> frozenset[NodeName]:
        forced = self.plan.force(trio.current_time())
        self.dialler.wake()
        return forced

    async def _discover(self) -> Discovery:
        await trio.lowlevel.checkpoint()
        timeout = self._options.discovery_timeout
        try:
            with trio.move_on_after(timeout) as scope:
                return await discover(self._strategy, self.local)
        except Exception:
            if not scope.cancel_called:
                raise
            # what else comes out of a strategy that is being cancelled says nothing about it
        return Discovery(
            kind="failed", error=DiscoveryError(f"the strategy gave no answer within {timeout:g} s")
        )

    async def _prune(self, done: Round) -> None:
        await trio.lowlevel.checkpoint()
        visible = None
        if self._options.prune == "all" and isinstance(self._transport, VisibilityTransport):
            visible = await self._list(self._transport.list_visible, "list_visible")
        names = self.plan.take_prunes(trio.current_time(), visible=visible, held=self._held)
        self._note_held_back()
        if not names:
            return
        errors: dict[NodeName, Exception] = {}
        try:
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(self._disconnect, name, errors)
            if not self.subscribed:
                await self.look()
        finally:
            for name in names:
                if self.plan.prune_ended(name, trio.current_time()):
                    done.disconnected.add(name)
                else:
                    done.failed[name] = errors.get(name) or DisconnectError(
                        "disconnect() returned, but the connection stands"
                    )

    async def _disconnect(self, name: NodeName, errors: dict[NodeName, Exception]) -> None:
        await trio.lowlevel.checkpoint()
        timeout = self._options.dial_timeout
        try:
            with trio.move_on_after(timeout) as scope, users_code(f"disconnecting {name}"):
                await self._transport.disconnect(name)
            if scope.cancelled_caught:
                errors[name] = DisconnectError(f"not done within {timeout:g} s")
        except Exception as error:
            logger.warning(
                "[%s] cannot disconnect %s: %s", self._options.name, name, shorten(error, 200)
            )
            errors[name] = error

    def _note_rejected(self, rejected: Mapping[str, Exception]) -> None:
        names = frozenset(rejected)
        if names - self._rejected:
            shown = ", ".join(sorted(names)[:SHOWN])
            logger.warning(
                "[%s] %d of the strategy's names are no node names and are left out: %s%s",
                self._options.name,
                len(names),
                shown,
                "..." if len(names) > SHOWN else "",
            )
        self._rejected = names

    def _note_held_back(self) -> None:
        number = self.plan.held_back
        if number and not self._held_back:
            logger.warning(
                "[%s] %d more nodes are missing, but max_prune=%g lets no more go at a time",
                self._options.name,
                number,
                self._options.max_prune,
            )
        self._held_back = bool(number)

    def report(self, done: Round) -> RefreshResult:
        """The result of a round, as things stand now."""
        nodes = self.nodes.value
        # Another round may have been reported while this one waited for its dials.
        since = min(done.dialled_before, self._reported)
        self._reported = self._dials_done
        self._dialled_as = {name: at for name, at in self._dialled_as.items() if name in nodes}
        return RefreshResult(
            nodes=nodes,
            connected=frozenset(name for name, at in self._dialled_as.items() if at > since),
            disconnected=frozenset(done.disconnected),
            failed={**done.failed, **self.plan.errors(trio.current_time())},
            discovery_error=done.error,
        )


def _nothing() -> None:
    pass
