"""Dialling: each in a task of its own, within a deadline, when the plan says so."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Awaitable, Callable, Iterable

import trio

from barnacle_trio._errors import HandshakeRefused, PeerUnreachable
from barnacle_trio._logs import ALSO_AN_EVENT
from barnacle_trio._names import NodeName, shorten
from barnacle_trio._plan import Plan
from barnacle_trio._scopes import users_code
from barnacle_trio._transport import Transport

logger = logging.getLogger("barnacle_trio.dials")

SILENT_AFTER = 1.0
"""A dial that took so long (seconds) to fail met a host that does not answer.

One that has taken so long gives way, where there is no slot for a peer that was not dialled yet: a
list of dead addresses may be longer than there are slots. It is dialled again when all were.
"""
PATIENT = 4
"""Of one in so many slots, dials give way to nobody: else a crowd of slow peers would wait for the
last of them to be tried."""
AT_ONCE = 2
"""Dials begun in one pass of the loop. A thousand that fail as fast as they are begun would make
passes long, and a peer that was lost, or its messages, need many passes."""
LOOK_AGAIN = 0.1
"""Seconds after which another dial gives way, where the first one cannot be cancelled so soon."""


class Dialler:
    """Carries out the dials of a plan.

    Args:
      barnacle: its name, for logs and tasks.
      plan: which peers to dial and what came of it.
      transport: how.
      dial_timeout: seconds for each dial.
      max_dials: how many the plan has under way at once.
      confirm: None where the transport tells of its connections by itself; else what looks for
        them.
      dialled: called with a peer that a dial of ours connected.
      once: nobody is dialled a second time.
    """

    def __init__(
        self,
        barnacle: str,
        plan: Plan,
        transport: Transport,
        *,
        dial_timeout: float,
        max_dials: int,
        confirm: Callable[[], Awaitable[None]] | None,
        dialled: Callable[[NodeName], None],
        once: bool = False,
    ) -> None:
        self._barnacle = barnacle
        self._plan = plan
        self._transport = transport
        self._dial_timeout = dial_timeout
        self._max_dials = max_dials
        self._confirm = confirm
        self._dialled = dialled
        self._once = once
        self._woken = trio.Event()
        self._waiting: list[Dials] = []
        self._under_way: dict[NodeName, _Attempt] = {}  # the oldest first

    def wake(self) -> None:
        """Have another look at the plan: dials may have come to be due."""
        self._woken.set()

    def settled(self, names: Iterable[NodeName]) -> None:
        """Those that wait for these peers' dials need not any more."""
        for name in names:
            for dials in self._waiting:
                dials.discard(name)

    async def run(self) -> None:
        """Dial whenever a dial is due, for ever. When cancelled, so are the dials under way."""
        async with trio.open_nursery() as nursery:
            while True:
                self._woken = trio.Event()
                now = trio.current_time()
                names = self._plan.take_dials(now, most=AT_ONCE)
                for name in names:
                    attempt = self._under_way[name] = _Attempt(now, self._dial_timeout)
                    task = f"barnacle[{self._barnacle}] dials {name}"
                    nursery.start_soon(self._dial, name, attempt, name=task)
                if len(names) == AT_ONCE:
                    await trio.lowlevel.checkpoint()
                    continue
                with trio.move_on_at(min(self._plan.next_dial(), self._make_way(now))):
                    await self._woken.wait()

    def _make_way(self, now: float) -> float:
        """Have a silent dial give way to one yet to be begun; gives when to see to it again."""
        if self._once or not self._plan.is_untried_waiting(now):
            return math.inf
        candidates = (each for name, each in self._under_way.items() if self._yields(name, each))
        patient = max(1, self._max_dials // PATIENT)
        oldest = next(itertools.islice(candidates, patient, None), None)
        if oldest is None:
            return math.inf  # the end of any wakes us
        due = oldest.started + SILENT_AFTER
        if now < due:
            return due
        oldest.gives_way = True
        oldest.scope.cancel("it gives way to a peer that was not dialled yet")
        return now + LOOK_AGAIN

    def _yields(self, name: NodeName, attempt: _Attempt) -> bool:
        return not attempt.gives_way and self._plan.may_give_way(name)

    def expect(self, names: Iterable[NodeName]) -> Dials:
        """What tells when the dials of these peers, under way or due, are over."""
        dials = Dials(names)
        self._waiting.append(dials)
        return dials

    def forget(self, dials: Dials) -> None:
        """Nobody waits for them any more."""
        self._waiting.remove(dials)

    async def _dial(self, name: NodeName, attempt: _Attempt) -> None:
        ups = self._plan.ups(name)
        error: Exception | None = None
        ended = again = False
        try:
            error = await self._attempt(name, attempt)
            if error is None and self._plan.ups(name) == ups:
                error = PeerUnreachable(
                    "connect() returned, but the transport tells of no connection"
                )
            ended = True
        finally:
            del self._under_way[name]
            self._plan.dial_ended(name, trio.current_time())
            if attempt.gives_way and attempt.scope.cancelled_caught:
                again = self._plan.gave_way(name, trio.current_time())
            elif ended:
                self._note(name, error, trio.current_time() - attempt.started)
            if not again:
                self.settled([name])
            self.wake()

    async def _attempt(self, name: NodeName, attempt: _Attempt) -> Exception | None:
        await trio.lowlevel.checkpoint()
        try:
            with attempt.scope, users_code(f"connecting {name}"):
                await self._transport.connect(name)
            if attempt.scope.cancelled_caught:
                return PeerUnreachable(f"no answer within {self._dial_timeout:g} s")
            if self._confirm is not None:
                await self._confirm()
        except Exception as error:
            return _refusal(error) or error
        return None

    def _note(self, name: NodeName, error: Exception | None, took: float) -> None:
        now = trio.current_time()
        if error is None:
            self._dialled(name)
        elif isinstance(error, HandshakeRefused):
            if self._plan.refused(name, error, now, location=error.location):
                logger.warning(
                    "[%s] %s refused: %s; left alone for a while",
                    self._barnacle,
                    name,
                    shorten(error, 200),
                    extra=ALSO_AN_EVENT,
                )
        elif self._plan.failed(name, error, now, silent=took >= SILENT_AFTER):
            logger.warning(
                "[%s] cannot connect %s: %s%s",
                self._barnacle,
                name,
                shorten(error, 200) if str(error) else type(error).__name__,
                "" if self._once else "; trying on",
                extra=ALSO_AN_EVENT,
            )


class _Attempt:
    """A dial under way, since when, and whether it gives way to another one."""

    def __init__(self, started: float, timeout: float) -> None:
        self.started = started
        self.scope = trio.CancelScope(deadline=started + timeout)
        self.gives_way = False


class Dials:
    """Some peers whose dials are waited for."""

    def __init__(self, names: Iterable[NodeName]) -> None:
        self._names = set(names)
        self.over = trio.Event()
        self._check()

    def discard(self, name: NodeName) -> None:
        """One of them, perhaps, is settled."""
        self._names.discard(name)
        self._check()

    def _check(self) -> None:
        if not self._names:
            self.over.set()


def _refusal(error: Exception) -> HandshakeRefused | None:
    """The refusal in a group of nothing else, as a transport with a nursery inside raises it."""
    if not isinstance(error, ExceptionGroup) or error.split(HandshakeRefused)[1] is not None:
        return None
    found: BaseException = error
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if isinstance(found, HandshakeRefused) else None
