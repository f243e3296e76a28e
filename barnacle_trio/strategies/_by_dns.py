"""What the strategies that ask the DNS share: hosts out of its answers, nodes out of hosts."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from dns.name import Name
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA
from dns.rdtypes.IN.SRV import SRV

from barnacle_trio._errors import DiscoveryError
from barnacle_trio._names import NodeName, shorten
from barnacle_trio.strategies._addresses import erlang_text, is_nobodys
from barnacle_trio.strategies._ask import Naming, settle
from barnacle_trio.strategies._lookup import Lookup
from barnacle_trio.strategies._queries import Questions

logger = logging.getLogger("barnacle_trio.strategies")

MAX_HOSTS = 10_000
"""How many addresses or targets of one answer are used; a longer one counts as partial."""

_SHOWN = 5  # of what was left out
_LABEL = re.compile(r"[a-z0-9_-]+")
# What the system's resolver takes for an IPv4 address, shortened, octal and hexadecimal ones too.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class ByDns(ABC):
    """A strategy that finds hosts by the DNS, and then what the nodes there are called.

    ``shown`` is how it was called, for logs. ``own_hosts``: what else this host is known as; a
    node there of the local node's base name is itself.
    """

    def __init__(
        self, shown: str, questions: Questions, naming: Naming, *, own_hosts: Iterable[str] = ()
    ) -> None:
        self._shown = shown
        self._questions = questions
        self._naming = naming
        self._own_hosts = tuple(own_hosts)
        self._left_out: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return self._shown

    async def __call__(self, local: NodeName) -> frozenset[str]:
        lookups = await self._questions.ask(steps=self._naming.steps)
        errors = self._errors(lookups)
        hosts = sorted(self._hosts(lookups))  # servers like to rotate them
        if len(hosts) > MAX_HOSTS:
            errors.append(DiscoveryError(f"more than {MAX_HOSTS} hosts, the others are left out"))
        named = await self._naming.names_at(hosts[:MAX_HOSTS], local)
        own_names = {f"{local.basename}@{host}" for host in self._own_hosts}
        names = (name for name in named.names if name not in own_names)
        answered = named.answered and any(lookup.exists for lookup in lookups)
        return settle(names, [*errors, *named.errors], answered=answered)

    @abstractmethod
    def _hosts(self, lookups: Sequence[Lookup]) -> Iterable[str]:
        """The hosts that were found, each of them once."""

    def _errors(self, lookups: Sequence[Lookup]) -> list[DiscoveryError]:
        """Why there may be more."""
        return [error for lookup in lookups for error in lookup.errors]

    def _leave_out(self, things: Iterable[str], *, no: str) -> None:
        """Tell the log of what is of no use: when it changes, not in each round."""
        left_out = frozenset(things)
        if left_out - self._left_out:
            examples = ", ".join(sorted(left_out)[:_SHOWN])
            logger.warning("%r: left out what is no node's %s: %s", self, no, examples)
        self._left_out = left_out


class ByAddress(ByDns):
    """The hosts are addresses, but for those that no node can have."""

    def _hosts(self, lookups: Sequence[Lookup]) -> Iterable[str]:
        records = [record for each in lookups for record in each.records]
        found = {ip_address(each.address) for each in records if isinstance(each, (A, AAAA))}
        nobodys = {address for address in found if is_nobodys(address)}
        self._leave_out(map(erlang_text, nobodys), no="address")
        return map(erlang_text, found - nobodys)


class ByTarget(ByDns):
    """The hosts are the targets of SRV records, but for those that are no host's name."""

    def _hosts(self, lookups: Sequence[Lookup]) -> Iterable[str]:
        targets = {
            record.target
            for each in lookups
            for record in each.records
            if isinstance(record, SRV) and len(record.target) > 1  # "." says: there is none
        }
        hosts = {target: host_name(target) for target in targets}
        self._leave_out((shorten(target) for target in hosts if hosts[target] is None), no="host")
        return {host for host in hosts.values() if host is not None}


def host_name(name: Name) -> str | None:
    """An absolute DNS name as the host of a node, None if it cannot be one.

    It is written in lower case: the case in which a name comes says nothing, servers change it
    (RFC 4343), and two names of one node would be two nodes.
    """
    labels = [label.decode("latin-1").lower() for label in name.labels[:-1]]
    if not labels or not all(_LABEL.fullmatch(label) for label in labels):
        return None
    text = ".".join(labels)
    if not _NUMBER.fullmatch(labels[-1]):
        return text
    address = _address(text)
    return None if address is None or is_nobodys(address) else text


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
