"""Nodes by the addresses of a DNS name."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from ipaddress import ip_address

import trio
from dns.asyncresolver import Resolver
from dns.exception import DNSException
from dns.name import Name, from_text, root

from barnacle_trio._errors import ConfigurationError, DiscoveryError
from barnacle_trio._names import NodeName, shorten
from barnacle_trio._strategy import Strategy
from barnacle_trio.strategies._addresses import erlang_text, is_nobodys
from barnacle_trio.strategies._lookup import Lookup, system_resolver
from barnacle_trio.strategies._parts import because_of
from barnacle_trio.strategies._time import time_to_answer

logger = logging.getLogger("barnacle_trio.strategies")

MAX_ADDRESSES = 10_000
"""How many addresses of one answer are named; a longer one counts as partial."""

_RECORDS = ("A", "AAAA")
_LONGEST_ADDRESS = ":".join(["ffff"] * 8)


def dns(
    *queries: str,
    basename: str | Iterable[str] | None = None,
    records: Iterable[str] = _RECORDS,
    resolver: Resolver | None = None,
    timeout: float = 5.0,
) -> Strategy:
    """Discover ``basename@address`` for each address of one or more DNS names.

    All queries and record types are asked for at once. No records of any type is a complete, empty
    answer. A name that does not exist, a server that fails, refuses or stays silent is a failed
    one, and what the others answered makes it partial. (A server that denies a name for one type
    and has records of it for another contradicts itself: the records count, and are complete.)

    Addresses are written as Erlang writes them. The unspecified, multicast and broadcast ones (a
    blocked name, a slip in a zone) are left out and logged; the answer stays complete. The local
    node's own address is not left out. Only the DNS is asked, not ``/etc/hosts``, and nothing is
    cached here.

    Args:
      queries: DNS names; with a dot at the end they are taken as they are, without one the search
        list of the host applies, as for every other program.
      basename: what stands before the ``@``, one or several; None is the local node's own.
      records: the record types to ask for, of ``A`` and ``AAAA``.
      resolver: a `dns.asyncresolver.Resolver`, whose own search setting then counts
        (``use_search_by_default``) and whose cache, if it has one, may hide changes. By default
        the system's, its configuration read anew for each answer.
      timeout: seconds for one whole answer, in place of the resolver's own ``lifetime``; what
        was answered by then is kept.

    Raises:
      ConfigurationError: nothing to ask for, or something that cannot be asked for.
    """
    return _Dns(queries, basename, records, resolver, timeout)


class _Dns:
    def __init__(
        self,
        queries: tuple[str, ...],
        basename: str | Iterable[str] | None,
        records: Iterable[str],
        resolver: Resolver | None,
        timeout: float,
    ) -> None:
        if not queries:
            raise ConfigurationError("dns() needs at least one name to ask for")
        if resolver is not None and not isinstance(resolver, Resolver):
            raise ConfigurationError(
                f"resolver is a dns.asyncresolver.Resolver, not {type(resolver).__name__}"
            )
        if not timeout > 0:
            raise ConfigurationError(f"timeout is a positive number of seconds, not {timeout!r}")
        self._queries = {query: _parsed(query) for query in queries}
        self._basenames = _checked_basenames(basename)
        self._rdtypes = _checked_records(records)
        self._resolver = resolver
        self._timeout = timeout
        self._left_out: frozenset[str] = frozenset()  # for the log: told once, not in each round

    def __repr__(self) -> str:
        return f"dns({', '.join(map(repr, self._queries))})"

    async def __call__(self, local: NodeName) -> frozenset[str]:
        lookups = [Lookup(query, name, self._rdtypes) for query, name in self._queries.items()]
        with trio.move_on_after(min(self._timeout, time_to_answer())):
            resolver = self._resolver or await system_resolver(self._timeout)
            async with trio.open_nursery() as nursery:
                for lookup in lookups:
                    nursery.start_soon(lookup.run, resolver)

        errors = [error for lookup in lookups for error in lookup.errors]
        addresses = self._usable(lookups)
        if len(addresses) > MAX_ADDRESSES:
            errors.append(
                DiscoveryError(f"more than {MAX_ADDRESSES} addresses, the others are left out")
            )
        basenames = self._basenames or (local.basename,)
        names = frozenset(
            f"{basename}@{address}"
            for address in addresses[:MAX_ADDRESSES]
            for basename in basenames
        )
        if not errors:
            return names
        reason = "; ".join(error.reason for error in errors)
        answered = any(lookup.exists for lookup in lookups)
        raise DiscoveryError(reason, partial=names if answered else None) from because_of(errors)

    def _usable(self, lookups: list[Lookup]) -> list[str]:
        """The addresses that nodes can have, sorted: servers like to rotate them."""
        found = {ip_address(record.to_text()) for each in lookups for record in each.records}
        left_out = frozenset(erlang_text(address) for address in found if is_nobodys(address))
        if left_out - self._left_out:
            examples = ", ".join(sorted(left_out)[:5])
            logger.warning("%r: left out what is no node's address: %s", self, examples)
        self._left_out = left_out
        return sorted(erlang_text(address) for address in found if not is_nobodys(address))


def _parsed(query: str) -> Name:
    if not isinstance(query, str):
        raise ConfigurationError(f"a DNS name is a str, not {type(query).__name__}")
    if "@" in query:
        raise ConfigurationError(
            f"{shorten(query)} is not a DNS name: write the base name as basename=..."
        )
    try:
        ip_address(query)
    except ValueError:
        pass
    else:
        raise ConfigurationError(
            f"{shorten(query)} is an address, which needs no DNS: use epmd([...])"
        )
    try:
        name = from_text(query, None)
        whole = name if name.is_absolute() else name.concatenate(root)
    except (DNSException, ValueError) as error:
        raise ConfigurationError(f"{shorten(query)} is not a DNS name: {error}") from error
    if whole == root:
        raise ConfigurationError(f"{shorten(query)} is not a DNS name: it is empty")
    return name


def _checked_basenames(basename: str | Iterable[str] | None) -> tuple[str, ...] | None:
    if basename is None:
        return None
    given = (basename,) if isinstance(basename, str) else tuple(basename)
    if not given:
        raise ConfigurationError("basename is empty; None is the local node's own")
    for each in given:
        try:
            NodeName(f"{each}@{_LONGEST_ADDRESS}")
        except ValueError as error:
            raise ConfigurationError(f"{shorten(each)} is not a base name: {error}") from error
    return given


def _checked_records(records: Iterable[str]) -> tuple[str, ...]:
    given = () if isinstance(records, str) else tuple(dict.fromkeys(records))
    if not given or any(each not in _RECORDS for each in given):
        raise ConfigurationError(
            f"records is a tuple of one or both of {_RECORDS}, not {shorten(records)}"
        )
    return given
