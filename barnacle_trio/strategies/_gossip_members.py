"""Who was heard, and who may be: the memory of gossip.

Pure: packets and the clock's reading go in. Every table is bounded, for strangers fill them.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal

from barnacle_trio._names import NodeName
from barnacle_trio.strategies._gossip_packets import Packet, PacketError

PACKETS_PER_SOURCE = 200
"""Packets of one address that are looked at within a second; a host with 80 nodes sends 32."""
PACKETS = 2000
"""Packets of all addresses that are looked at within a second."""
MAX_SOURCES = 1000
"""Addresses whose share of the new names is remembered; the longest silent goes first."""
BURST = 5.0
"""Seconds' worth of new names that may come at once."""

Heard = Literal["ourselves", "new", "known", "gone", "unknown"]
Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Bounds and durations (seconds)."""

    expire_after: float = 15.0
    window: float = 5.0  # within which everybody speaks up once
    max_names: int = 1000
    max_new_names: float = 10.0  # a second; of one address, half of it


class Admission:
    """Whom a packet may name.

    Args:
      local: the local node's name.
      wanted: the user's choice, None if there is none.
      authenticated: whether a packet tells that its sender knows the secret. Where it does not and
        nobody chose, only nodes of our own base name are named, and only by their own host.
      is_here: whether an address is one of this host's.
    """

    def __init__(
        self,
        local: NodeName,
        wanted: Callable[[NodeName], bool] | None,
        *,
        authenticated: bool,
        is_here: Callable[[str], bool],
    ) -> None:
        self._local = local
        self._wanted = wanted
        self._by_default = wanted is None and not authenticated
        self._is_here = is_here

    def check(self, name: NodeName, source: str) -> None:
        """Let a name pass.

        Raises:
          PacketError: it may not be named, or not from there.
        """
        if name == self._local:
            if not self._is_here(source):
                raise PacketError("it names this node, and comes from another host")
            return
        if self._wanted is not None:
            try:
                wanted = self._wanted(name)
            except Exception as error:
                raise PacketError(f"match raised {type(error).__name__}") from error
            if not wanted:
                raise PacketError("match does not admit what it names")
        elif self._by_default and name.basename != self._local.basename:
            raise PacketError("it names another base name than ours, which takes a match to admit")
        host = _address(name.host)
        if name.host == "localhost" or (host is not None and host.is_loopback):
            if not self._is_here(source):
                raise PacketError("it names a loopback address, and comes from another host")
        elif self._by_default:
            self._check_host(host, source)

    def _check_host(self, host: Address | None, source: str) -> None:
        if host is None:
            if _address(self._local.host) is not None:
                raise PacketError("it names a host by name, which takes a match to admit")
        elif host != _address(source):
            raise PacketError("it names another host than its sender, which takes a match to admit")


def _address(text: str) -> Address | None:
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None


class Throttle:
    """How many packets are looked at within a second, of each address and of all."""

    def __init__(self) -> None:
        self._since = -math.inf
        self._total = 0
        self._counts: dict[str, int] = {}

    def lets_pass(self, source: str, now: float) -> bool:
        """Count a packet; whether it is worth a look."""
        if now - self._since >= 1:
            self._since, self._total = now, 0
            self._counts.clear()
        count = self._counts.get(source, 0)
        if self._total >= PACKETS or count >= PACKETS_PER_SOURCE:
            return False
        self._counts[source] = count + 1  # never more than PACKETS of them
        self._total += 1
        return True

    @property
    def is_exhausted(self) -> bool:
        """Whether it lets nothing more pass for now, from wherever it comes."""
        return self._total >= PACKETS


class _Budget:
    """A bucket that fills by ``rate`` a second up to ``BURST`` seconds' worth, at least one."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._most = max(1.0, rate * BURST)
        self._level = self._most
        self._at = now

    def has_one(self, now: float) -> bool:
        self._level = min(self._most, self._level + self._rate * (now - self._at))
        self._at = now
        return self._level >= 1

    def take_one(self) -> None:
        self._level -= 1


@dataclass(slots=True)
class _Member:
    heard: float  # on the clock of `Members.listened`
    source: str
    session: bytes


class Members:
    """The nodes that were heard of late.

    They age by the time for which we were certain to hear, not by the clock: an outage of our own
    network, a loop that slept, is no evidence against anybody.
    """

    def __init__(self, local: NodeName, admission: Admission, rules: Rules) -> None:
        self._local = local
        self._admission = admission
        self._rules = rules
        self._members: OrderedDict[NodeName, _Member] = OrderedDict()  # the longest silent first
        self._budget: _Budget | None = None
        self._budgets: OrderedDict[str, _Budget] = OrderedDict()
        self._last_life = math.inf
        self._turned_away_at = -math.inf
        self.listened = 0.0
        """Seconds for which we were certain to hear."""

    @property
    def is_settled(self) -> bool:
        """Whether we have listened for as long as it takes everybody to speak up."""
        return self.listened >= self._rules.window - 0.001  # sums of floats are a little less

    @property
    def names(self) -> frozenset[NodeName]:
        """Those that were heard and have neither expired nor left."""
        return frozenset(self._members)

    def overfull(self, now: float) -> bool:
        """Whether more is said than is taken in, going by the last while: names may be missing."""
        return now - self._turned_away_at < self._rules.expire_after

    def pass_by(self, source: str | None, now: float) -> None:
        """A packet of an address that sends too many, or of anybody (None), is not looked at."""
        if source is None:  # whoever sent it, this time was not listened to
            self._turned_away_at = now
            if self._last_life < now:
                self._last_life = now
        elif source in self._budgets:  # it has named nodes, and may have named more
            self._turned_away_at = now

    def alive(self, now: float) -> None:
        """Something was heard, if only ourselves: the time since the last sign was listened to."""
        if self._last_life < now:
            self.listened += min(now - self._last_life, self._rules.window + 1)
        self._last_life = now
        while self._members:
            oldest = next(iter(self._members))
            if self.listened - self._members[oldest].heard <= self._rules.expire_after:
                break
            del self._members[oldest]

    def take(self, packet: Packet, source: str, now: float) -> Heard:
        """Take in what was heard from an address.

        Raises:
          PacketError: the packet is to be ignored.
        """
        name = packet.name
        if packet.kind == "goodbye":
            return self._take_goodbye(packet, source)
        self._admission.check(name, source)
        self.alive(now)
        if name == self._local:
            return "ourselves"
        member = self._members.get(name)
        if member is None:
            try:
                self._check_room(source, now)
            except PacketError:
                self._turned_away_at = now
                raise
            self._members[name] = _Member(self.listened, source, packet.session)
            return "new"
        member.heard, member.source, member.session = self.listened, source, packet.session
        self._members.move_to_end(name)
        return "known"

    def _take_goodbye(self, packet: Packet, source: str) -> Heard:
        member = self._members.get(packet.name)
        if member is None:
            return "unknown"
        # Others can forge a goodbye, or send one again that the node said in an earlier life.
        if source != member.source or packet.session != member.session:
            raise PacketError("it says goodbye for somebody else")
        del self._members[packet.name]
        return "gone"

    def _check_room(self, source: str, now: float) -> None:
        if len(self._members) >= self._rules.max_names:
            raise PacketError(f"{self._rules.max_names} names are known already (max_names)")
        if self._budget is None:
            self._budget = _Budget(self._rules.max_new_names, now)
        budgets = (self._budget, self._budget_of(source, now))
        if not all(budget.has_one(now) for budget in budgets):
            raise PacketError("too many new names come at once (max_new_names)")
        for budget in budgets:
            budget.take_one()

    def _budget_of(self, source: str, now: float) -> _Budget:
        budget = self._budgets.pop(source, None) or _Budget(self._rules.max_new_names / 2, now)
        self._budgets[source] = budget  # the latest is the last
        if len(self._budgets) > MAX_SOURCES:
            self._budgets.popitem(last=False)
        return budget
