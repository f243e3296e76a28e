"""Nodes that gossip: by UDP multicast or broadcast, as libcluster's do."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import Match, NodeName, show
from barnacle_trio._strategy import ServedStrategy, asked_by_nobody, asked_once
from barnacle_trio.strategies._gossip_group import DEFAULT_GROUP, checked_group, is_here
from barnacle_trio.strategies._gossip_members import Admission, Members, Rules
from barnacle_trio.strategies._gossip_packets import WireName, wire_maker
from barnacle_trio.strategies._gossip_service import Service, Setting, listen_once
from barnacle_trio.strategies._parts import checked_match, kept

DEFAULT_PORT = 45892  # libcluster's


def gossip(
    *,
    port: int = DEFAULT_PORT,
    group: str = DEFAULT_GROUP,
    interface: str | int | None = None,
    ttl: int = 1,
    broadcast: bool = False,
    secret: str | bytes | None = None,
    insecure: bool = False,
    wire: WireName = "libcluster",
    match: Match | Iterable[Match] | None = None,
    expire_after: float = 15.0,
    interval: tuple[float, float] = (0.001, 5.0),
    max_names: int = 1000,
    max_new_names: float = 10.0,
) -> ServedStrategy:
    """Discover the nodes that say their names to a group, and say one's own to it.

    The packets are libcluster's (``Cluster.Strategy.Gossip``), so Elixir nodes and these meet. A
    node is named from its first packet on, until it says goodbye (a barnacle's drain has ours do
    so; libcluster passes over it) or was not heard for ``expire_after``. An outage of this host's
    own network is a failed answer, never a smaller one; the group is joined again once that is
    possible. Answers in the first ``interval[1]`` seconds are partial, as not everybody has spoken,
    and while nobody has there is none: a first `Barnacle.refresh` takes that long for a lone node.
    `run_once` always waits for that time.

    Asked without being served it listens for that time and does not say the local name.

    Who can write packets makes this node dial what they name. With a ``secret`` that takes the
    secret: libcluster's format hides it well, but authenticates nothing, and a recorded packet can
    be sent again; ``wire="sealed"`` stands against both, and is understood by barnacle-trio alone.
    Without one it is everybody on the network, which must be asked for: ``insecure=True``. Then
    only nodes that ``match`` admits are named, by default those that bear the local node's base
    name and name the very address that they speak from (where the local node is named by a host
    name: any host name). In every mode a loopback address is believed from this host alone.

    Args:
      port: UDP port, the same for all.
      group: a multicast address of IPv4 or IPv6 (``"ff15::7a"``), or one of broadcast.
      interface: by name or index, for IPv4 multicast also by address; None leaves it to the
        routing table. It may come and go.
      ttl: routers that a packet may pass, plus one.
      broadcast: send to ``group`` as a broadcast address; ``255.255.255.255`` if it is not given.
      secret: shared by all nodes; it is never logged.
      insecure: go without a secret.
      wire: ``"libcluster"`` or ``"sealed"``.
      match: which nodes to name: a glob (``"my_app@10.*"``), a predicate, or several of these.
      expire_after: seconds of silence after which a node is not named any more.
      interval: seconds from one packet to the next, drawn at random between these two.
      max_names: names that are known at a time.
      max_new_names: names not known yet that are taken in a second, after as many at once as come
        in five seconds; of one address, half of that. Answers are partial for ``expire_after``
        seconds after one was turned away, by this, by ``max_names``, or because more packets came
        than are looked at (2,000 a second, of one address 200).

    Raises:
      ConfigurationError: something cannot work as given, or cryptography is not installed.
    """
    where = checked_group(group=group, port=port, interface=interface, ttl=ttl, broadcast=broadcast)
    key = _checked_secret(secret, insecure=insecure, wire=wire)
    _check_times(interval, expire_after)
    _check_bounds(max_names, max_new_names)
    chosen = kept(match)
    wanted = None if match is None else checked_match(chosen)
    rules = Rules(
        expire_after=expire_after,
        window=interval[1],
        max_names=max_names,
        max_new_names=max_new_names,
    )

    def make_members(local: NodeName) -> Members:
        admission = Admission(local, wanted, authenticated=key is not None, is_here=is_here)
        return Members(local, admission, rules)

    how = "insecure=True" if key is None else f"secret=..., wire={wire!r}"
    setting = Setting(
        group=where,
        interval=interval,
        make_wire=wire_maker(key, wire),
        make_members=make_members,
    )
    return _Gossip(setting, how if chosen is None else f"{how}, match={chosen!r}")


class _Gossip:
    def __init__(self, setting: Setting, how: str) -> None:
        self._setting = setting
        self._how = how
        self._services: list[Service] = []

    def __repr__(self) -> str:
        return f"gossip({str(self._setting.group)!r}, {self._how})"

    async def __call__(self, local: NodeName) -> frozenset[NodeName]:
        services = self._of(local)
        if services:
            return await services[-1].answer()
        return await listen_once(self._setting, local)

    async def serve(
        self,
        local: NodeName,
        *,
        changed: Callable[[], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Say the local name and hear the others until cancelled; a bad network never ends it."""
        if changed is asked_by_nobody:
            task_status.started()  # each answer listens for itself
            await trio.sleep_forever()
        service = Service(self._setting, local, changed, asked_once=changed is asked_once)
        first = True

        def started() -> None:
            nonlocal first
            if first:
                first = False
                self._services.append(service)
                task_status.started()

        try:
            await service.run(started)
        finally:
            if not first:
                self._services.remove(service)

    async def leave(self, local: NodeName) -> None:
        """Tell the others that the local node goes; it is silent from then on."""
        async with trio.open_nursery() as nursery:
            for service in self._of(local):
                nursery.start_soon(service.leave)

    def _of(self, local: NodeName) -> list[Service]:
        return [service for service in self._services if service.local == local]


def _checked_secret(secret: str | bytes | None, *, insecure: bool, wire: WireName) -> bytes | None:
    if wire not in ("libcluster", "sealed"):
        raise ConfigurationError(f"wire is 'libcluster' or 'sealed', not {show(wire)}")
    if secret is None:
        if wire == "sealed":
            raise ConfigurationError("wire='sealed' needs a secret")
        if not insecure:
            raise ConfigurationError(
                "without a secret, anybody on the network can make this node dial: give "
                "secret=..., the same to all nodes (Elixir's too), or say insecure=True"
            )
        return None
    if insecure:
        raise ConfigurationError("give a secret or say insecure=True, not both")
    key: object = secret.encode() if isinstance(secret, str) else secret
    if not isinstance(key, bytes) or not key:
        raise ConfigurationError("secret is a str or bytes, and not empty")  # it is not shown
    return key


def _check_times(interval: tuple[float, float], expire_after: float) -> None:
    try:
        least, most = interval
        fits = 0 <= least <= most < expire_after and most > 0
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"interval is two numbers of seconds, not {show(interval)}"
        ) from None
    if not fits:
        raise ConfigurationError(
            f"interval={interval!r} and expire_after={show(expire_after)} do not fit: the "
            "first number of seconds is at most the second one, which is less than expire_after"
        )


def _check_bounds(max_names: int, max_new_names: float) -> None:
    if type(max_names) is not int or max_names < 1:
        raise ConfigurationError(f"max_names is an int of at least 1, not {max_names!r}")
    if not max_new_names > 0:
        raise ConfigurationError(f"max_new_names is a positive number, not {max_new_names!r}")
