"""What objects of Kubernetes say: which programs run, whether they serve, how to reach them.

Source: the Kubernetes API reference, "Pod", "Endpoints" and "EndpointSlice" (``v1`` and
``v1beta1``). The objects come from the server as parsed JSON; a field of another type than the
reference gives it counts as absent, and what lacks a name of its own is no object at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal, TypeAlias

from barnacle_trio.strategies._addresses import Address

Lookup: TypeAlias = Literal["endpointslices", "endpoints", "pods"]

SERVICE_LABEL = "kubernetes.io/service-name"
"""The label by which a slice tells the service it belongs to."""

_OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"

_OVER = frozenset({"Succeeded", "Failed"})  # phases of a pod that runs no more


class Junk(ValueError):
    """What was sent is not what a Kubernetes API server sends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One program that runs: a pod, or an endpoint that somebody wrote by hand.

    ``target`` tells who it is: a pod stands in one slice for each family of addresses. ``serves``
    is readiness, whether or not it is on its way out (``terminating``).
    """

    target: str
    addresses: tuple[Address, ...]
    hostname: str | None
    service: str | None
    namespace: str
    serves: bool
    terminating: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One object: its key among those of its kind, its version, and whom it names.

    ``cut`` tells that it does not name all: an Endpoints object has room for 1,000 addresses.
    """

    key: str
    version: str
    instances: tuple[Instance, ...]
    cut: bool = False


def read_entry(lookup: Lookup, thing: object) -> Entry:
    """Read a pod, an Endpoints object or a slice.

    Raises:
      Junk: it has no name.
    """
    content = mapping(thing)
    meta = mapping(content.get("metadata"))
    name, namespace = text(meta.get("name")), text(meta.get("namespace"))
    if not name:
        raise Junk("an object without a name")
    read = _READERS[lookup]
    return Entry(
        key=f"{namespace}/{name}",
        version=text(meta.get("resourceVersion")),
        instances=tuple(read(content, meta)),
        cut=lookup == "endpoints" and _is_cut(meta),
    )


def _pod(pod: Mapping[str, Any], meta: Mapping[str, Any]) -> Iterator[Instance]:
    spec, status = mapping(pod.get("spec")), mapping(pod.get("status"))
    if text(status.get("phase")) in _OVER:
        return
    # The first is the pod's own address; a dual-stack one has one of the other family too.
    stated = [mapping(each).get("ip") for each in sequence(status.get("podIPs"))]
    addresses = _addresses(stated or [status.get("podIP")])
    conditions = map(mapping, sequence(status.get("conditions")))
    yield Instance(
        target=f"Pod/{text(meta.get('namespace'))}/{text(meta.get('name'))}",
        addresses=addresses,
        hostname=text(spec.get("hostname")) or None,
        service=text(spec.get("subdomain")) or None,
        namespace=text(meta.get("namespace")),
        serves=any(
            each.get("type") == "Ready" and each.get("status") == "True" for each in conditions
        ),
        terminating=meta.get("deletionTimestamp") is not None,
    )


def _endpoints(thing: Mapping[str, Any], meta: Mapping[str, Any]) -> Iterator[Instance]:
    namespace = text(meta.get("namespace"))
    for subset in map(mapping, sequence(thing.get("subsets"))):
        for field, serves in (("addresses", True), ("notReadyAddresses", False)):
            for endpoint in map(mapping, sequence(subset.get(field))):
                addresses = _addresses([endpoint.get("ip")])
                yield Instance(
                    target=_target(endpoint, addresses, namespace),
                    addresses=addresses,
                    hostname=text(endpoint.get("hostname")) or None,
                    service=text(meta.get("name")),
                    namespace=namespace,
                    serves=serves,
                    terminating=False,  # this kind of object drops those at once
                )


def _is_cut(meta: Mapping[str, Any]) -> bool:
    # Before Kubernetes 1.22 it was "warning" there, and nothing was left out.
    return text(mapping(meta.get("annotations")).get(_OVER_CAPACITY)) == "truncated"


def _slice(thing: Mapping[str, Any], meta: Mapping[str, Any]) -> Iterator[Instance]:
    namespace = text(meta.get("namespace"))
    service = text(mapping(meta.get("labels")).get(SERVICE_LABEL)) or None
    for endpoint in map(mapping, sequence(thing.get("endpoints"))):
        # All addresses of one endpoint lead to the same place, and clients take the first. In a
        # slice of the type FQDN they are names, of which nothing is found here.
        addresses = _addresses(sequence(endpoint.get("addresses"))[:1])
        conditions = mapping(endpoint.get("conditions"))
        # Not known counts as true for `ready`, and as `ready` for `serving`. A service that
        # publishes addresses which are not ready says `ready` of all its endpoints.
        ready = conditions.get("ready") is not False
        serving = conditions.get("serving")
        terminating = conditions.get("terminating") is True
        serves = serving if isinstance(serving, bool) else ready
        yield Instance(
            target=_target(endpoint, addresses, namespace),
            addresses=addresses,
            hostname=text(endpoint.get("hostname")) or None,
            service=service,
            namespace=namespace,
            serves=serves or (ready and not terminating),
            terminating=terminating,
        )


_READERS = {"endpointslices": _slice, "endpoints": _endpoints, "pods": _pod}


def _target(endpoint: Mapping[str, Any], addresses: tuple[Address, ...], namespace: str) -> str:
    """Who an endpoint is. One that was written by hand refers to nothing, and is its address."""
    reference = mapping(endpoint.get("targetRef"))
    kind, name = text(reference.get("kind")), text(reference.get("name"))
    if kind and name:
        return f"{kind}/{text(reference.get('namespace')) or namespace}/{name}"
    return f"address/{', '.join(map(str, addresses))}/{text(endpoint.get('hostname'))}"


def _addresses(stated: Sequence[object]) -> tuple[Address, ...]:
    found: list[Address] = []
    for each in stated:
        try:
            found.append(ip_address(text(each)))
        except ValueError:
            continue  # none yet, or a name
    return tuple(dict.fromkeys(found))


# -- the types of JSON: what is of another counts as absent ---------------------------------------


def mapping(value: object) -> Mapping[str, Any]:
    """The object, or an empty one."""
    return value if isinstance(value, dict) else {}


def sequence(value: object) -> Sequence[object]:
    """The array, or an empty one: an empty list comes as null from a server written in Go."""
    return value if isinstance(value, list) else ()


def text(value: object) -> str:
    """The string, or an empty one."""
    return value if isinstance(value, str) else ""
