"""Nodes by the addresses of a DNS name."""

from __future__ import annotations

from collections.abc import Iterable

from dns.asyncresolver import Resolver

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import Match, shorten
from barnacle_trio._strategy import Strategy
from barnacle_trio.strategies._ask import Basename, Naming
from barnacle_trio.strategies._by_dns import ByAddress
from barnacle_trio.strategies._queries import Questions, query

_RECORDS = ("A", "AAAA")


def dns(
    *queries: str,
    basename: Basename = None,
    records: Iterable[str] = _RECORDS,
    match: Match | Iterable[Match] | None = None,
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
      basename: what stands before the ``@``, one or several; None is the local node's own; `ASK`
        is whatever the port mapper at each address lists.
      records: the record types to ask for, of ``A`` and ``AAAA``.
      match: a choice among the names found: a glob (``"worker*"``), a predicate, or several.
      resolver: a `dns.asyncresolver.Resolver`, whose own search setting then counts
        (``use_search_by_default``) and whose cache, if it has one, may hide changes. By default
        the system's, its configuration read anew for each answer.
      timeout: seconds for one whole answer of the DNS, in place of the resolver's own
        ``lifetime``; what was answered by then is kept.

    Raises:
      ConfigurationError: nothing to ask for, or something that cannot be asked for.
    """
    rdtypes = _checked_records(records)
    return ByAddress(
        f"dns({', '.join(map(repr, queries))})",
        Questions([query(each, *rdtypes) for each in queries], resolver, timeout),
        Naming(basename, match),
    )


def _checked_records(records: Iterable[str]) -> tuple[str, ...]:
    given = () if isinstance(records, str) else tuple(dict.fromkeys(records))
    if not given or any(each not in _RECORDS for each in given):
        raise ConfigurationError(
            f"records is a tuple of one or both of {_RECORDS}, not {shorten(records)}"
        )
    return given
