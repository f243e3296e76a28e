"""Nodes by heartbeats in a PostgreSQL database."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import trio

from barnacle_trio._errors import ConfigurationError, DiscoveryError
from barnacle_trio._names import Match, NodeName, shorten
from barnacle_trio._strategy import Strategy, asked_by_nobody, asked_once
from barnacle_trio.strategies._parts import checked_match, kept
from barnacle_trio.strategies._postgres_members import JITTER, Members, Pace

if TYPE_CHECKING:
    from barnacle_trio.strategies._postgres_dsn import Dsn
    from barnacle_trio.strategies._postgres_service import Service

CHANNEL = "barnacle"
MAX_CHANNEL_BYTES = 63
"""As long as a name may be in PostgreSQL, where nobody built it otherwise (``NAMEDATALEN``)."""

_GOODBYES = "_bye"


def postgres(
    dsn: str,
    *,
    channel: str = CHANNEL,
    match: Match | Iterable[Match] | None = None,
    interval: float = 5.0,
    expire_after: float = 15.0,
    max_nodes: int = 1000,
) -> Strategy:
    """Discover whoever tells of itself on a channel of a PostgreSQL database.

    Each node listens on the channel (``LISTEN``) and says its name there (``NOTIFY``), at once and
    every ``interval`` seconds; one that hears a new name says its own soon, so that a newcomer
    knows all within a second. That is what Elixir's libcluster_postgres says and hears, so its
    nodes are met too; give the channel that they use. (By default that is their cookie, every
    character but letters, digits and ``_`` replaced by ``_``: for all to see who may use the
    database. Better set ``channel_name:`` there.) A node that drains says goodbye on a channel
    beside it, ``..._bye``, which libcluster_postgres does not hear.

    Whoever can connect to the database can name nodes to be dialled: choose by ``match``. Clusters
    that share a database need channels of their own.

    While the server is away the answer is a failed one, and it is tried again after 0.2 s,
    doubling to 10 s, with full jitter. Nobody's name expires for that: only time counts in which
    this node hears what it says itself. The first answer waits for the server; the only one of
    `run_once`, or of a strategy that nobody serves, for one interval too, in which everybody says
    its name.

    Everything runs on libpq's non-blocking calls, without threads, save that host names are looked
    up as Trio does it. (Those in a service file are looked up by libpq, which blocks; and it reads
    its small files, certificates and passwords, as any program does.) The connection has to be to
    the server itself, or through a pooler that keeps sessions.

    Args:
      dsn: libpq's connection string: ``postgresql://user@host/database`` or ``key=value`` words,
        with several hosts, ``sslmode`` and so on as usual. What it leaves out is taken from
        libpq's environment (``PGHOST``, ``PGPASSWORD``, ``~/.pgpass``); it may be empty. Its
        password is never shown.
      channel: 1 to 63 characters of printable ASCII.
      match: a glob (``"worker*"``), a predicate, or several of these; None is every name.
      interval: seconds between two heartbeats.
      expire_after: seconds without a heartbeat after which a name is no longer in the answer. The
        barnacle's own rules then decide about its connection.
      max_nodes: how many names are kept at a time, and thus how many new ones can turn up within
        ``expire_after``; with more, the answer is partial.

    Raises:
      ConfigurationError: psycopg or libpq is missing, or an argument cannot be used.
    """
    try:
        from barnacle_trio.strategies import _postgres_dsn, _postgres_service  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"postgres() needs psycopg and libpq: pip install 'barnacle-trio[postgres]' ({error})"
        ) from error
    return _Postgres(
        _postgres_dsn.parse_dsn(dsn),
        _checked_channel(channel),
        match=match,
        interval=_checked_seconds("interval", interval),
        expire_after=_checked_seconds("expire_after", expire_after, above=interval),
        max_nodes=_checked_count("max_nodes", max_nodes),
    )


class _Postgres:
    def __init__(
        self,
        dsn: Dsn,
        channel: str,
        *,
        match: Match | Iterable[Match] | None,
        interval: float,
        expire_after: float,
        max_nodes: int,
    ) -> None:
        self._dsn = dsn
        self._channel = channel
        self._match = kept(match)
        self._wanted = checked_match(self._match)
        self._interval = interval
        self._expire_after = expire_after
        self._max_nodes = max_nodes
        self._services: list[Service] = []

    def __repr__(self) -> str:
        match = "" if self._match is None else f", match={self._match!r}"
        return f"postgres({self._dsn.shown!r}, channel={self._channel!r}{match})"

    async def __call__(self, local: NodeName) -> frozenset[NodeName]:
        for service in reversed(self._services):
            if service.local == local:
                return await service.answer()
        return await self._listen_once(local)

    async def _listen_once(self, local: NodeName) -> frozenset[NodeName]:
        """Not being served, listen for one answer alone, without a word."""
        service = self._service(local, asked_by_nobody)
        error: DiscoveryError | None = None
        names: frozenset[NodeName] = frozenset()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            try:
                names = await service.answer()
            except DiscoveryError as failed:
                error = failed  # raised once it is alone: the nursery would wrap it into a group
            nursery.cancel_scope.cancel("one answer was wanted")
        if error is not None:
            raise error
        return names

    async def serve(
        self,
        local: NodeName,
        *,
        changed: Callable[[], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen, and tell of the local node, until cancelled."""
        service = self._service(local, changed)
        self._services.append(service)
        try:
            task_status.started()
            await service.run()
        finally:
            self._services.remove(service)

    def _service(self, local: NodeName, changed: Callable[[], None]) -> Service:
        from barnacle_trio.strategies._postgres_service import Channels, Service

        pace = Pace(self._interval, rng=random.random)
        if changed is asked_by_nobody:
            pace.stop()  # who hears a name dials it
        # Who is asked again tells of each name as it comes.
        asked_again = changed not in (asked_once, asked_by_nobody)
        return Service(
            repr(self),
            self._dsn,
            Channels(
                heartbeats=self._channel,
                goodbyes=self._channel[: MAX_CHANNEL_BYTES - len(_GOODBYES)] + _GOODBYES,
            ),
            Members(
                local,
                wanted=self._wanted,
                expire_after=self._expire_after,
                at_most=self._max_nodes,
            ),
            pace,
            local=local,
            changed=changed,
            settled_after=0 if asked_again else self._interval * (1 + JITTER),
        )

    async def leave(self, local: NodeName) -> None:
        """Say goodbye to those who listen; libcluster_postgres has no ear for that."""
        await trio.lowlevel.checkpoint()
        for service in tuple(self._services):
            if service.local == local:
                await service.leave()


def _checked_channel(channel: str) -> str:
    fits = 0 < len(channel) <= MAX_CHANNEL_BYTES
    if not fits or not channel.isascii() or not channel.isprintable():
        raise ConfigurationError(
            f"channel is 1 to {MAX_CHANNEL_BYTES} printable ASCII characters, not "
            f"{shorten(channel)}"
        )
    return channel


def _checked_seconds(name: str, value: float, *, above: float = 0.0) -> float:
    if not above < value < math.inf:
        what = "a positive number" if not above else f"more than the interval of {above:g}"
        raise ConfigurationError(f"{name} is {what} of seconds, not {value!r}")
    return value


def _checked_count(name: str, value: int) -> int:
    if value < 1:
        raise ConfigurationError(f"{name} is a whole number, at least 1, not {value!r}")
    return value
