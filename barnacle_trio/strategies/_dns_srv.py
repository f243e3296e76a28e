"""Nodes by the SRV records of a DNS name."""

from __future__ import annotations

from collections.abc import Iterable

from dns.asyncresolver import Resolver

from barnacle_trio._names import Match
from barnacle_trio._strategy import Strategy
from barnacle_trio.strategies._ask import Basename, Naming
from barnacle_trio.strategies._by_dns import ByTarget
from barnacle_trio.strategies._queries import Questions, query


def dns_srv(
    *queries: str,
    basename: Basename = None,
    match: Match | Iterable[Match] | None = None,
    resolver: Resolver | None = None,
    timeout: float = 5.0,
) -> Strategy:
    """Discover ``basename@target`` for each SRV record of one or more DNS names.

    So nodes are found that are named by their hosts' names, not by addresses: those of a
    StatefulSet, say. A target is written in lower case and without the dot at its end. The target
    ``.`` says that there is nobody (RFC 2782). Targets that are no host's name are left out and
    logged. Priority, weight and port of a record do not count: all nodes of a cluster are wanted,
    and where each one listens its port mapper knows.

    What makes an answer complete, partial or failed, and the search list, is as for `dns`.

    Args:
      queries: DNS names, ``_erlang._tcp.example.com`` or any other; with a dot at the end they
        are taken as they are.
      basename: what stands before the ``@``, one or several; None is the local node's own; `ASK`
        is whatever the port mapper at each target lists (the system resolves the target's name,
        as it does when the node is dialled).
      match: a choice among the names found: a glob (``"worker*"``), a predicate, or several.
      resolver: a `dns.asyncresolver.Resolver`; by default the system's.
      timeout: seconds for one whole answer of the DNS; what was answered by then is kept.

    Raises:
      ConfigurationError: nothing to ask for, or something that cannot be asked for.
    """
    return ByTarget(
        f"dns_srv({', '.join(map(repr, queries))})",
        Questions([query(each, "SRV") for each in queries], resolver, timeout),
        Naming(basename, match),
    )
