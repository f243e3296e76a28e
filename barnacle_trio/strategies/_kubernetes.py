"""Nodes by what the API of a Kubernetes cluster says: listed, and watched."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import get_args

from barnacle_trio._errors import ConfigurationError, DiscoveryError
from barnacle_trio._names import Match, show
from barnacle_trio._strategy import Strategy
from barnacle_trio.strategies._ask import Basename, Naming
from barnacle_trio.strategies._kube_access import SERVICE_ACCOUNT, Access, read_service_account
from barnacle_trio.strategies._kube_config import kubeconfig_paths, read_kubeconfig
from barnacle_trio.strategies._kube_hosts import HostRule, Mode
from barnacle_trio.strategies._kube_objects import SERVICE_LABEL, Lookup

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DOMAIN = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")


def kubernetes(
    selector: str | None = None,
    *,
    namespace: str | None = None,
    lookup: Lookup = "endpointslices",
    mode: Mode = "ip",
    service: str | None = None,
    cluster_domain: str = "cluster.local",
    basename: Basename = None,
    match: Match | Iterable[Match] | None = None,
    not_ready: bool = False,
    watch: bool = True,
    service_account: str | os.PathLike[str] = SERVICE_ACCOUNT,
    kubeconfig: str | os.PathLike[str] | None = None,
    context: str | None = None,
) -> Strategy:
    """Discover the pods of a Kubernetes cluster by its API.

    In a barnacle they are listed once and then *watched*: a new pod is known within moments, and
    a quiet cluster costs no requests but one every few minutes to go on. Where the server is away
    the answer is a failed one, and attempts to reach it come after pauses that grow, with jitter,
    and as late as it asks for (``Retry-After``). Asked alone, or with ``watch=False``, it lists
    for each answer; a list that breaks off is a partial answer.

    A pod is named while it serves, even when it is on its way out, so that nobody is cut in
    mid-drain. (``"endpoints"`` drops those at once; all the better that `open_barnacle` prunes
    late.) Pods that have ended, and those without an address, are not named. Of a pod with
    addresses of both families the one counts that is of the local node's own family, if its name
    has an address for a host; else a pod's first, or the IPv4 one of a service.

    In a pod, its service account is used: a Role must allow ``list`` and ``watch`` on the kind of
    objects. The token is read anew for each request. Elsewhere, and with ``kubeconfig`` or
    ``context``, the files of ``kubectl`` are used: certificates, tokens and ``kubectl proxy``, but
    no helper programs. The server is always verified, redirects are not followed.

    Args:
      selector: a label selector as ``kubectl -l`` takes it, of pods or, for the other two kinds,
        of services, which hand their labels on: ``"app=my-app"``.
      namespace: by default the pod's own, or that of the kubeconfig's context.
      lookup: the kind of objects to ask for: ``"endpointslices"`` and ``"endpoints"`` of a
        service, or ``"pods"``.
      mode: what stands after the ``@``: ``"ip"``, the address; ``"hostname"``,
        ``pod.service.namespace.svc.cluster.local``, for a StatefulSet; ``"dns"``,
        ``10-0-0-7.namespace.pod.cluster.local``.
      service: the name of a service, in place of or beside ``selector``. With ``"pods"``, the
        service of those that tell none (``subdomain``), for the mode ``"hostname"``.
      cluster_domain: what the cluster's names end in.
      basename: what stands before the ``@``, one or several; None is the local node's own; `ASK`
        is whatever the port mapper of each pod lists.
      match: a choice among the names found: a glob (``"worker*"``), a predicate, or several.
      not_ready: name pods that do not serve yet, or for now, as well. (A service that has
        ``publishNotReadyAddresses: true`` does the same.)
      watch: False lists for each answer: for a cluster whose Role allows no more.
      service_account: the folder in which a pod finds its token, CA and namespace.
      kubeconfig: a file to use in place of the service account.
      context: one of its contexts, in place of its current one.

    Raises:
      ConfigurationError: neither selector nor service, something that cannot be asked for, or the
        extra ``kubernetes`` is not installed.
    """
    try:
        from barnacle_trio.strategies._kube_api import Selection
        from barnacle_trio.strategies._kube_connect import open_http
        from barnacle_trio.strategies._kube_strategy import Listed, Watched
        from barnacle_trio.strategies._kube_watch import Source
    except ImportError as error:
        raise ConfigurationError(
            "kubernetes() needs an extra: pip install 'barnacle-trio[kubernetes]'"
        ) from error
    _check_choice("lookup", lookup, Lookup)
    _check_choice("mode", mode, Mode)
    _check_name("service", service, _LABEL)
    _check_name("namespace", namespace, _LABEL)
    domain = str(cluster_domain).strip(".")
    _check_name("cluster_domain", domain, _DOMAIN)
    labels, fields = _selectors(lookup, selector, service)
    kind = Watched if watch else Listed
    return kind(
        _shown(selector, namespace, lookup, service),
        Source(
            access=partial(_read_access, Path(service_account), kubeconfig, context),
            connect=open_http,
            namespace=namespace,
            selection=Selection(lookup=lookup, labels=labels, fields=fields),
        ),
        HostRule(mode=mode, service=service, cluster_domain=domain, not_ready=bool(not_ready)),
        Naming(basename, match),
    )


async def _read_access(
    service_account: Path, kubeconfig: str | os.PathLike[str] | None, context: str | None
) -> Access:
    in_pod = bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    if in_pod and kubeconfig is None and context is None:
        return await read_service_account(service_account)
    paths = kubeconfig_paths(None if kubeconfig is None else Path(kubeconfig))
    try:
        return await read_kubeconfig(paths, context)
    except DiscoveryError as error:
        if in_pod or kubeconfig is not None or context is not None:
            raise
        raise DiscoveryError(
            f"this is not a pod (KUBERNETES_SERVICE_HOST is not set), and {error.reason}"
        ) from error


def _selectors(lookup: Lookup, selector: str | None, service: str | None) -> tuple[str, str]:
    """The label and the field selector to ask with."""
    if selector is not None and not (str(selector).strip() and str(selector).isprintable()):
        raise ConfigurationError(
            f"selector is a label selector, e.g. 'app=my-app', not {show(selector)}"
        )
    labels = [] if selector is None else [selector]
    fields = ""
    if service is not None and lookup == "endpointslices":
        labels.append(f"{SERVICE_LABEL}={service}")
    elif service is not None and lookup == "endpoints":
        fields = f"metadata.name={service}"
    if not labels and not fields:
        raise ConfigurationError(
            "kubernetes() needs a selector, or a service whose endpoints to look up; by neither "
            "it would find whatever runs in the namespace"
        )
    return ",".join(labels), fields


def _shown(selector: str | None, namespace: str | None, lookup: Lookup, service: str | None) -> str:
    shown = [] if selector is None else [repr(selector)]
    if lookup != "endpointslices":
        shown.append(f"lookup={lookup!r}")
    if service is not None:
        shown.append(f"service={service!r}")
    if namespace is not None:
        shown.append(f"namespace={namespace!r}")
    return f"kubernetes({', '.join(shown)})"


def _check_choice(what: str, given: object, choices: object) -> None:
    known = get_args(choices)
    if given not in known:
        raise ConfigurationError(
            f"{what} is one of {', '.join(map(repr, known))}, not {show(given)}"
        )


def _check_name(what: str, given: object, form: re.Pattern[str]) -> None:
    if given is not None and not (isinstance(given, str) and form.fullmatch(given)):
        raise ConfigurationError(f"{what} is a name, not {show(given)}")
