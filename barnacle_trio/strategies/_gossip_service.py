"""Gossip at work: one socket that speaks and listens, and comes back when its network does."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from socket import socket

import trio

from barnacle_trio._errors import DiscoveryError
from barnacle_trio._logs import RateLimited
from barnacle_trio._names import NodeName, shorten
from barnacle_trio._strategy import NotAllYet
from barnacle_trio.strategies._gossip_group import Group, sender
from barnacle_trio.strategies._gossip_members import Heard, Members, Throttle
from barnacle_trio.strategies._gossip_packets import MAX_PACKET, Kind, PacketError, Wire
from barnacle_trio.strategies._time import time_to_answer

logger = logging.getLogger("barnacle_trio.strategies")

BATCH = 64
"""Packets that are read before other tasks have their turn."""
ECHO_WITHIN = 0.5
"""Seconds in which a heartbeat of ours comes back to us."""
UNHEARD = 3
"""Heartbeats in a row that do not come back, until the socket counts as lost."""
ANSWER_WITHIN = 0.1
"""Seconds at most until a newcomer is told of us, so that it need not wait for the next beat."""
ANSWER_EVERY = 1.0
"""Seconds between two such answers, however many come, or pretend to."""
RETRY = (0.5, 5.0)
"""Seconds until a socket is opened again: the first pause and, doubled each time, the longest."""
GOODBYES = 2
"""How often a goodbye is said: a datagram may be lost."""
TELL_EVERY = 600.0
"""Seconds between two lines of the log about packets that were ignored."""

NEWS: frozenset[Heard] = frozenset({"new", "gone"})
"""What changes an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What gossip was asked to be. ``interval`` are the bounds (seconds) of the pauses."""

    group: Group
    interval: tuple[float, float]
    make_wire: Callable[[], Wire]
    make_members: Callable[[NodeName], Members]
    rng: Callable[[], float] = field(default=random.random)


class Ears:
    """What is heard on a socket: packets sorted into members, the others counted and ignored."""

    def __init__(self, setting: Setting, local: NodeName) -> None:
        self.wire = setting.make_wire()
        self.members = setting.make_members(local)
        self.ignored: Counter[str] = Counter()
        self.passed_by = 0
        """Packets that nobody looked at, because too many came at once."""
        self._group = setting.group
        self._throttle = Throttle()
        self._log = RateLimited(logger, every=TELL_EVERY)

    def drain(self, sock: socket) -> set[Heard]:
        """Read what waits in a socket, at most a batch; what each packet was that counts.

        Raises:
          OSError: the socket is of no use any more.
        """
        heard: set[Heard] = set()
        for _ in range(BATCH):
            try:
                data, address = sock.recvfrom(MAX_PACKET + 1)
            except (BlockingIOError, InterruptedError):
                break
            source, now = sender(address), trio.current_time()
            if not self._throttle.lets_pass(source, now):
                self.passed_by += 1
                self.members.pass_by(None if self._throttle.is_exhausted else source, now)
                self._ignore("too many packets come at once", source)
                continue
            try:
                heard.add(self.members.take(self.wire.decode(data), source, now))
            except PacketError as error:
                self._ignore(str(error), source)
        return heard

    async def listen(self, sock: socket, take: Callable[[set[Heard]], None]) -> None:
        """Hand on what is heard until the socket fails.

        Raises:
          OSError: it does.
        """
        while True:
            await trio.lowlevel.wait_readable(sock)
            take(self.drain(sock))

    def _ignore(self, reason: str, source: str) -> None:
        self.ignored[reason] += 1
        self._log.warning(
            "gossip with %s: a packet from %s is ignored: %s", self._group, shorten(source), reason
        )


class Service:
    """One run of gossip's background task, and the answers that come from it.

    Hearing ourselves is the proof that all works: the route, the interface, the membership of the
    group on that very interface. Whichever of them goes, and whatever the system says or does not
    say of it, our own heartbeats come back no more; then a new socket joins the group anew.
    """

    def __init__(
        self,
        setting: Setting,
        local: NodeName,
        changed: Callable[[], None],
        *,
        asked_once: bool,
    ) -> None:
        self.local = local
        self._setting = setting
        self._changed = changed
        self._asked_once = asked_once
        self._ears = Ears(setting, local)
        self._members = self._ears.members
        self._sock: socket | None = None
        self._trouble: str | None = None
        self._echoes = 0
        self._echo = trio.Event()  # a heartbeat of ours came back
        self._news = trio.Event()  # an answer may be ready
        self._hurry = trio.Event()  # a newcomer wants to know of us
        self._next_hurry = 0.0
        self._was_settled = False
        self._left = False

    @property
    def ignored(self) -> Counter[str]:
        """How many packets were ignored, by the reason."""
        return self._ears.ignored

    # -- answers -----------------------------------------------------------------------------------

    async def answer(self) -> frozenset[NodeName]:
        """Those that were heard; waits until there is something to tell.

        Raises:
          DiscoveryError: nothing can be heard at the moment, or (a partial answer) not everybody
            has had the time to speak up yet, or some may have been turned away.
        """
        with trio.move_on_after(time_to_answer()):
            await trio.lowlevel.checkpoint()
            while not self._can_answer():
                await self._news.wait()
        if self._trouble is not None:
            raise DiscoveryError(self._trouble)
        return whole(self._members, self._setting)

    def _can_answer(self) -> bool:
        if self._trouble is not None or self._members.is_settled:
            return True
        return bool(self._members.names) and not self._asked_once

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()
        self._changed()

    # -- the task ----------------------------------------------------------------------------------

    async def run(self, started: Callable[[], None]) -> None:
        """Speak and listen until cancelled, whatever becomes of the network."""
        pause, longest = RETRY
        while True:
            echoes = self._echoes
            reason = await self._gossip(started)
            if self._echoes != echoes:
                pause = RETRY[0]
            if self._trouble is None:
                self._trouble = f"no gossip with {self._setting.group}: {reason}"
                logger.debug("%s", self._trouble)
                self._tell()
            started()
            await trio.sleep(pause * (0.5 + self._setting.rng() / 2))
            pause = min(2 * pause, longest)

    async def _gossip(self, started: Callable[[], None]) -> str:
        """Open the socket and use it until it fails; why it did."""
        await trio.lowlevel.checkpoint()
        reason = ""
        try:
            with closing(self._setting.group.open()) as sock:
                self._sock = sock
                started()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._ears.listen, sock, self._take)
                    reason = await self._beat(sock)
                    nursery.cancel_scope.cancel("the socket is lost")
        except* OSError as errors:
            reason = _first(errors)
        finally:
            self._sock = None
        return reason

    async def _beat(self, sock: socket) -> str:
        """Send heartbeats for as long as they come back; why they do not, then."""
        unheard = 0
        while True:
            if self._left:
                await trio.sleep_forever()
            echoes, passed_by = self._echoes, self._ears.passed_by
            problem = self._send(sock, "heartbeat")
            with trio.move_on_after(ECHO_WITHIN):
                await self._echo.wait()
            if self._echoes == echoes:
                self._take(self._ears.drain(sock))  # a loop that was late reads before it judges
            await trio.lowlevel.checkpoint()
            # In a flood our own may have been passed by; and who is flooded hears well enough.
            if (self._echoes, self._ears.passed_by) == (echoes, passed_by):
                unheard += 1
                if unheard == UNHEARD:
                    return problem or "this node does not even hear itself"
                continue
            unheard = 0
            await self._rest()

    async def _rest(self) -> None:
        least, most = self._setting.interval
        pause = least + (most - least) * self._setting.rng()
        if not self._members.is_settled:  # so that we are, as soon as the time is over
            pause = min(pause, max(least, most - self._members.listened))
        with trio.move_on_after(pause):
            await self._hurry.wait()
            await trio.sleep(ANSWER_WITHIN * self._setting.rng())
        if self._hurry.is_set():
            self._hurry = trio.Event()

    def _send(self, sock: socket, kind: Kind) -> str | None:
        """Send a packet; what the system says against it, which need not last."""
        group = self._setting.group
        try:
            sock.sendto(self._ears.wire.encode(kind, self.local), group.destination)
        except OSError as error:
            logger.debug("gossip with %s: a packet was not sent: %s", group, error)
            return error.strerror or str(error)
        return None

    def _take(self, heard: set[Heard]) -> None:
        now = trio.current_time()
        settled, self._was_settled = self._was_settled, self._members.is_settled
        is_news = self._was_settled != settled or not NEWS.isdisjoint(heard)
        if "ourselves" in heard:
            self._echoes += 1
            self._echo.set()
            self._echo = trio.Event()
            if self._trouble is not None:
                logger.debug("gossip with %s is heard again", self._setting.group)
                self._trouble = None
                is_news = True
        if "new" in heard and now >= self._next_hurry:
            self._next_hurry = now + ANSWER_EVERY
            self._hurry.set()
        if is_news:
            self._tell()

    async def leave(self) -> None:
        """Say goodbye, and nothing after it."""
        self._left = True
        for _ in range(GOODBYES):
            if self._sock is not None:
                self._send(self._sock, "goodbye")
            await trio.sleep(0.02)
        await trio.lowlevel.checkpoint()


async def listen_once(setting: Setting, local: NodeName) -> frozenset[NodeName]:
    """Listen for as long as it takes everybody to speak up, without a word of one's own.

    Raises:
      DiscoveryError: nothing can be heard, or (a partial answer) the time did not suffice, or
        some may have been turned away.
    """
    ears = Ears(setting, local)
    try:
        with closing(setting.group.open()) as sock:
            ears.members.alive(trio.current_time())
            with trio.move_on_after(min(setting.interval[1], time_to_answer())):
                await ears.listen(sock, lambda _heard: None)
            ears.members.alive(trio.current_time())
    except OSError as error:
        raise DiscoveryError(f"no gossip with {setting.group}: {_text(error)}") from error
    await trio.lowlevel.checkpoint()
    return whole(ears.members, setting)


def whole(members: Members, setting: Setting) -> frozenset[NodeName]:
    """The members, if everybody has had the time to be one, and none was turned away.

    Raises:
      NotAllYet: not everybody has had it.
      DiscoveryError: (a partial answer) some may have been turned away.
    """
    if not members.is_settled:
        raise NotAllYet(
            f"gossip with {setting.group} has only begun: all are heard within "
            f"{setting.interval[1]:g} s",
            partial=members.names,
        )
    if members.overfull(trio.current_time()):
        raise DiscoveryError(
            f"gossip with {setting.group}: more is said than is taken in (max_names, "
            "max_new_names, or too many packets), nodes may be missing",
            partial=members.names,
        )
    return members.names


def _first(errors: BaseExceptionGroup[OSError]) -> str:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return _text(error)


def _text(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
