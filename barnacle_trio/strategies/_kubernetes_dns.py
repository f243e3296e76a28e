"""Nodes by what the DNS of a Kubernetes cluster says of a headless service."""

from __future__ import annotations

from collections.abc import Iterable

from dns.asyncresolver import Resolver

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import Match, show
from barnacle_trio._strategy import Strategy
from barnacle_trio.strategies._ask import Basename, Naming
from barnacle_trio.strategies._by_dns import ByAddress, ByTarget
from barnacle_trio.strategies._queries import Query, Questions, query


def kubernetes_dns(
    service: str,
    namespace: str | None = None,
    *,
    cluster_domain: str = "cluster.local",
    basename: Basename = None,
    match: Match | Iterable[Match] | None = None,
    resolver: Resolver | None = None,
    timeout: float = 5.0,
) -> Strategy:
    """Discover ``basename@address`` for each pod of a headless service (``clusterIP: None``).

    The pods are named by their addresses of either family, and pods that are not ready are in
    the answer if the service says ``publishNotReadyAddresses: true`` (a cluster that must form
    before it is ready wants that). It takes no rights in the cluster; see `kubernetes` for an
    answer without delay.

    Args:
      service: the service's name; ``service.other-namespace`` is completed by the search list
        that every pod has, too.
      namespace: the service's namespace: then the whole name is asked for at once, in place of
        one after the other of the search list; needed where there is no such list.
      cluster_domain: what the cluster's names end in; counts with ``namespace`` alone.
      basename: what stands before the ``@``, one or several; None is the local node's own; `ASK`
        is whatever the port mapper of each pod lists.
      match: a choice among the names found: a glob (``"worker*"``), a predicate, or several.
      resolver: a `dns.asyncresolver.Resolver`; by default the system's.
      timeout: seconds for one whole answer of the DNS; what was answered by then is kept.

    Raises:
      ConfigurationError: the service, or what else is given, cannot be asked for.
    """
    rdtypes = ("A", "AAAA")
    if namespace is None:
        shown = f"kubernetes_dns({service!r})"
        asked = query(service, *rdtypes)
    else:
        shown = f"kubernetes_dns({service!r}, {namespace!r})"
        asked = _of_service(service, namespace, cluster_domain, rdtypes)
    return ByAddress(shown, Questions([asked], resolver, timeout), Naming(basename, match))


def kubernetes_dns_srv(
    service: str,
    namespace: str,
    *,
    cluster_domain: str = "cluster.local",
    basename: Basename = None,
    match: Match | Iterable[Match] | None = None,
    resolver: Resolver | None = None,
    timeout: float = 5.0,
) -> Strategy:
    """Discover ``basename@pod.service.namespace.svc.cluster.local`` for each pod of a service.

    For nodes that are named by host names, which outlive their addresses: the pods of a
    StatefulSet, whose ``serviceName`` is that of a headless service with at least one port (there
    is no SRV record without, and some DNS servers want it named). Pods without a host name of
    their own are named by their dashed addresses there (``10-0-0-7.service...``).

    Args:
      service: the headless service's name.
      namespace: its namespace.
      cluster_domain: what the cluster's names end in.
      basename: what stands before the ``@``, one or several; None is the local node's own; `ASK`
        is whatever the port mapper of each pod lists.
      match: a choice among the names found: a glob (``"worker*"``), a predicate, or several.
      resolver: a `dns.asyncresolver.Resolver`; by default the system's.
      timeout: seconds for one whole answer of the DNS; what was answered by then is kept.

    Raises:
      ConfigurationError: the service, or what else is given, cannot be asked for.
    """
    asked = _of_service(service, namespace, cluster_domain, ("SRV",))
    return ByTarget(
        f"kubernetes_dns_srv({service!r}, {namespace!r})",
        Questions([asked], resolver, timeout),
        Naming(basename, match),
    )


def _of_service(
    service: str, namespace: str, cluster_domain: str, rdtypes: tuple[str, ...]
) -> Query:
    parts: dict[str, object] = {
        "service": service,
        "namespace": namespace,
        "cluster_domain": cluster_domain,
    }
    for what, part in parts.items():
        if not isinstance(part, str) or not part.strip("."):
            raise ConfigurationError(f"{what} is a name, not {show(part)}")
    return query(f"{service}.{namespace}.svc.{cluster_domain.strip('.')}.", *rdtypes)
