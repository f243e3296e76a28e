"""The life of one listener on a channel: connect, hear and be heard, and again after an outage."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import trio

from barnacle_trio._errors import DiscoveryError
from barnacle_trio._logs import RateLimited
from barnacle_trio._names import NodeName, shorten
from barnacle_trio.strategies._postgres_connection import (
    ANSWER_WITHIN,
    Connection,
    Notification,
    PostgresError,
    connect,
)
from barnacle_trio.strategies._postgres_dsn import Dsn, conninfo, resolve
from barnacle_trio.strategies._postgres_members import Members, Pace
from barnacle_trio.strategies._time import time_to_answer

logger = logging.getLogger("barnacle_trio.strategies")

FIRST_PAUSE = 0.2
"""Seconds, at most, until a lost server is tried again; doubled for each failure in a row."""
LONGEST_PAUSE = 10.0
HEALTHY_AFTER = 30.0
"""Seconds of service after which earlier failures are forgotten."""
GOODBYE_WITHIN = 2.0
"""Seconds that a goodbye may take."""

_LOG_EVERY = 60.0  # seconds between two lines about what others say amiss


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """Where to listen, and where to speak.

    libcluster_postgres has spoken on the channel without quotes, which PostgreSQL reads as lower
    case, and listened on it with quotes: so heartbeats are heard in both spellings. It connects to
    whatever is named on its channel, so goodbyes have one of their own.
    """

    heartbeats: str
    goodbyes: str

    @property
    def heard(self) -> tuple[str, ...]:
        """Every channel to listen on."""
        return tuple(dict.fromkeys((self.heartbeats, self.heartbeats.lower(), self.goodbyes)))


class Service:
    """Listens, and tells of the local node, for as long as `run` runs.

    ``changed()`` is called when there is another answer, and the first answer waits for
    ``settled_after`` seconds of hearing.
    """

    def __init__(
        self,
        name: str,
        dsn: Dsn,
        channels: Channels,
        members: Members,
        pace: Pace,
        *,
        local: NodeName,
        changed: Callable[[], None],
        settled_after: float,
    ) -> None:
        self.local = local
        self._name = name
        self._dsn = dsn
        self._channels = channels
        self._members = members
        self._pace = pace
        self._changed = changed
        self._settled_after = settled_after
        self._error: PostgresError | None = None
        self._up = False
        self._conversing = False  # others hear what is said, whether or not the answers are here
        self._settled = trio.Event()  # the first time that there is something to answer
        self._leaving = trio.Event()
        self._left = trio.Event()
        self._nap = trio.CancelScope()
        self._complaints = RateLimited(logger, every=_LOG_EVERY)

    async def answer(self) -> frozenset[NodeName]:
        """The members.

        Raises:
          DiscoveryError: the server is away or says no; or (partial) there are too many members.
        """
        with trio.move_on_after(time_to_answer()):
            await self._settled.wait()
        if not self._up:
            reason = "no answer yet" if self._error is None else self._error.reason
            raise DiscoveryError(f"PostgreSQL: {reason}") from self._error
        if self._members.overfull(trio.current_time()):
            raise DiscoveryError(
                f"more than {len(self._members)} nodes, the others are left out",
                partial=self._members.names,
            )
        return self._members.names

    async def leave(self) -> None:
        """Say goodbye, if there is somebody to say it to, and tell no more of the local node."""
        if self._pace.stopped:
            await trio.lowlevel.checkpoint()
            return
        self._leaving.set()
        self._nap.cancel("a goodbye is to be said")
        with trio.move_on_after(GOODBYE_WITHIN if self._conversing else 0):
            await self._left.wait()

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        failures = 0
        while True:
            began = trio.current_time()
            try:
                connection = await self._connect()
                try:
                    self._conversing = True
                    await self._converse(connection)
                finally:
                    self._conversing = False
                    connection.close()
            except PostgresError as error:
                self._failed(error)
            if trio.current_time() - began >= HEALTHY_AFTER:
                failures = 0
            longest = min(FIRST_PAUSE * 2 ** min(failures, 16), LONGEST_PAUSE)
            failures += 1
            # Full jitter: all the others have lost the server at the same moment.
            await trio.sleep(longest * random.random())

    async def _connect(self) -> Connection:
        """Open a session with the first server that lets us listen.

        Raises:
          PostgresError: none does.
        """
        await trio.lowlevel.checkpoint()
        errors: list[PostgresError] = []
        for target in self._dsn.targets():
            try:
                addresses = await resolve(target)
            except OSError as error:
                errors.append(PostgresError(f"{target['host']}: {error.strerror or error}"))
                continue
            for address in addresses:
                try:
                    return await self._listen_at(address)
                except PostgresError as error:
                    errors.append(error)
        reasons = dict.fromkeys(error.reason for error in errors)
        raise PostgresError("; ".join(reasons), refused=any(error.refused for error in errors))

    async def _listen_at(self, address: Mapping[str, str]) -> Connection:
        defaults = {"fallback_application_name": f"barnacle {self.local}"}
        connection = await connect(
            conninfo({**defaults, **address}), within=self._dsn.connect_within
        )
        try:
            for channel in self._channels.heard:
                await connection.listen(channel)
        except BaseException:
            connection.close()
            raise
        return connection

    def _failed(self, error: PostgresError) -> None:
        logger.debug("%s: %s", self._name, error.reason)
        # An outage keeps its first reason, so that it is told once: a server that restarts fails
        # in several ways. What has to be mended is told as it is.
        if self._error is None or self._error.refused or error.refused:
            self._error = error
        self._up = False
        self._settled.set()

    async def _converse(self, connection: Connection) -> None:
        """Hear and be heard until the connection breaks."""
        await trio.lowlevel.checkpoint()
        self._pace.start()
        settled_at = echo_due = math.inf
        if self._pace.stopped:  # there will be no echo to go by
            settled_at = self._came_up()
        while True:
            if trio.current_time() >= self._pace.due:
                await connection.notify(self._channels.heartbeats, self.local)
                self._pace.told(trio.current_time())
                echo_due = min(echo_due, trio.current_time() + ANSWER_WITHIN)
            if self._leaving.is_set() and not self._left.is_set():
                self._pace.stop()
                await connection.notify(self._channels.goodbyes, self.local)
                self._left.set()
            if self._take(connection.receive_nowait()):
                echo_due = math.inf
                if not self._up:
                    settled_at = self._came_up()
                elif self._members.expire(trio.current_time()):
                    self._changed()
            if trio.current_time() >= settled_at:
                self._settled.set()
                settled_at = math.inf
            if trio.current_time() >= echo_due:
                raise PostgresError(
                    f"the server did not hand on a notification within {ANSWER_WITHIN:g} s; a "
                    "pooler that shares sessions among its clients cannot: connect without it",
                    refused=not self._up,
                )
            due = min(self._pace.due, echo_due, settled_at)
            with trio.CancelScope(deadline=due) as self._nap:
                await connection.wait()

    def _came_up(self) -> float:
        """Begin to answer again; returns when to begin to, if this is the first time."""
        logger.debug("%s: listening", self._name)
        self._up = True
        self._error = None
        self._members.resume(trio.current_time())
        if self._settled.is_set():
            self._changed()
        return trio.current_time() + self._settled_after

    def _take(self, notifications: Iterable[Notification]) -> bool:
        """Take what was said; whether one's own heartbeat was among it.

        All listeners hear all in the same order. So once one's own is heard, whatever was said
        before it has been heard too: whoever seems silent for too long now has been silent.
        """
        now = trio.current_time()
        echoed = different = False
        for said in notifications:
            if said.channel == self._channels.goodbyes:
                different |= self._members.part(said.payload)
                continue
            match self._members.hear(said.payload, now):
                case "own":
                    echoed = True
                case "new":
                    different = True
                    self._pace.met(now, len(self._members))
                case "junk":
                    self._complaints.warning(
                        "%s: %s is no node name; such heartbeats: %d",
                        self._name,
                        shorten(said.payload.decode(errors="replace")),
                        self._members.junk,
                    )
                case "too many":
                    self._complaints.warning(
                        "%s: more than %d nodes; %s is left out",
                        self._name,
                        len(self._members),
                        shorten(said.payload.decode(errors="replace")),
                    )
                case "known" | "unwanted":
                    pass
        if different:
            self._changed()
        return echoed
