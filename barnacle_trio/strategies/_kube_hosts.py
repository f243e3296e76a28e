"""From instances to hosts: who is named, and by what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal, TypeAlias

from barnacle_trio.strategies._addresses import Address, erlang_text, is_nobodys
from barnacle_trio.strategies._kube_objects import Instance

Mode: TypeAlias = Literal["ip", "hostname", "dns"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRule:
    """How instances become hosts.

    ``service`` stands in for a service that an instance does not tell; ``not_ready`` names those
    too that do not serve yet, or for now.
    """

    mode: Mode
    service: str | None
    cluster_domain: str
    not_ready: bool

    def hosts(self, instances: Iterable[Instance], local_host: str) -> tuple[set[str], set[str]]:
        """The hosts by which to name instances, and, for the log, who could not be named and why.

        An instance with addresses of both families is named by the one of ``local_host``'s family,
        where that is an address; otherwise by a pod's first, or the IPv4 one of several slices.
        """
        family = _family(local_host)
        hosts: set[str] = set()
        left_out: set[str] = set()
        for each in self._chosen(instances):
            host = self._host(each, family)
            if host is None:
                if self.mode == "hostname":
                    left_out.add(f"{each.target} (no host name of its own in a service)")
            elif isinstance(host, str):
                hosts.add(host)
            else:
                left_out.add(f"{each.target} ({erlang_text(host)})")
        return hosts, left_out

    def _chosen(self, instances: Iterable[Instance]) -> Iterator[Instance]:
        """Those to be named, each once with all its addresses."""
        by_target: dict[str, Instance] = {}
        for each in instances:
            if not (each.serves or (self.not_ready and not each.terminating)):
                continue
            known = by_target.get(each.target)
            by_target[each.target] = each if known is None else _joined(known, each)
        return iter(by_target.values())

    def _host(self, instance: Instance, family: int | None) -> str | Address | None:
        """The host, or an address that is nobody's, or None where there is nothing to go by."""
        if self.mode == "hostname":
            service = instance.service or self.service
            if instance.hostname is None or service is None:
                return None
            place = f"{service}.{instance.namespace}.svc.{self.cluster_domain}"
            return f"{instance.hostname}.{place}"
        if not instance.addresses:
            return None  # a pod that has not been given one yet
        of_family = [each for each in instance.addresses if each.version == family]
        address = (of_family or instance.addresses)[0]
        if is_nobodys(address):
            return address
        if self.mode == "ip":
            return erlang_text(address)
        label = address.compressed.replace(".", "-").replace(":", "-")
        return f"{label}.{instance.namespace}.pod.{self.cluster_domain}"


def _joined(one: Instance, other: Instance) -> Instance:
    addresses = dict.fromkeys((*one.addresses, *other.addresses))
    # A host name is known to the service alone that tells it: the two are taken together.
    home = min(one, other, key=_rank_of_home)
    return Instance(
        target=one.target,
        # The order of slices means nothing, and every node must come to the same one.
        addresses=tuple(sorted(addresses, key=lambda address: (address.version, int(address)))),
        hostname=home.hostname,
        service=home.service,
        namespace=one.namespace,
        serves=one.serves or other.serves,
        terminating=one.terminating and other.terminating,
    )


def _rank_of_home(instance: Instance) -> tuple[bool, bool, str, str]:
    """The order in which host names are preferred; it does not depend on that of slices either."""
    hostname, service = instance.hostname, instance.service
    return hostname is None, service is None, service or "", hostname or ""


def _family(host: str) -> int | None:
    try:
        return ip_address(host).version
    except ValueError:
        return None
