"""Nodes on the private network of Fly.io."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Literal

from dns.asyncresolver import Resolver
from dns.rdtypes.ANY.TXT import TXT

from barnacle_trio._errors import ConfigurationError, DiscoveryError
from barnacle_trio._names import Match, shorten, show
from barnacle_trio._strategy import Strategy
from barnacle_trio.strategies._addresses import erlang_text
from barnacle_trio.strategies._ask import ASK, Basename, Naming
from barnacle_trio.strategies._by_dns import ByAddress, ByDns
from barnacle_trio.strategies._lookup import Lookup, NoSuchName
from barnacle_trio.strategies._queries import Questions, query

_APP = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HERE = "here"
_REGION = re.compile(rf"[a-z]{{3}}|{_HERE}")
_LISTED = re.compile(r"(?P<machine>[0-9a-z]{1,63})\s+(?P<region>[a-z]{3})")


def fly(
    app: str | Iterable[str] | None = None,
    *,
    region: str | Iterable[str] | None = None,
    host: Literal["address", "machine"] = "address",
    basename: Basename = ASK,
    match: Match | Iterable[Match] | None = None,
    resolver: Resolver | None = None,
    timeout: float = 5.0,
) -> Strategy:
    """Discover the nodes of Fly.io apps on one private network (an organization's 6PN).

    The DNS there (Fly.io, "Private Networking") knows the machines of an app that are started:
    ``my-app.internal`` has their addresses, ``vms.my-app.internal`` their identifiers and
    regions. Nodes are named by addresses, ``my_app@fdaa:0:1:a7b:7d:f066:b83b:2``, as the
    releases that ``fly launch`` prepares name theirs; what stands before the ``@`` changes there
    with each image, so each machine's port mapper is asked for it.

    What makes an answer complete, partial or failed is as for `dns`. A region where an app has no
    started machine has no nodes, and that is complete.

    Args:
      app: the app whose nodes are wanted, or several; None is this machine's (``FLY_APP_NAME``).
      region: only machines there: ``"ams"``, several, or ``"here"`` (``FLY_REGION``); None is all.
      host: what stands behind the ``@``: the machine's address, or
        ``<machine>.vm.<app>.internal``, for nodes that are named so because a machine that moves
        to another server gets another address.
      basename: `ASK`; or what stands before the ``@``, one or several; or None for the local
        node's own.
      match: a choice among the names found: a glob (``"my-app-*"``), a predicate, or several.
      resolver: a `dns.asyncresolver.Resolver`; by default the system's, which on a machine of
        Fly.io is the network's own.
      timeout: seconds for one whole answer of the DNS; what was answered by then is kept.

    Raises:
      ConfigurationError: nothing names an app, or something is none, nor a region.
    """
    if host not in {"address", "machine"}:
        raise ConfigurationError(f"host is 'address' or 'machine', not {show(host)}")
    apps = _several("app", app, _APP) or (_environ("FLY_APP_NAME", _APP, "an app"),)
    regions = _several("region", region, _REGION)
    if _HERE in regions:
        here = _environ("FLY_REGION", _REGION, "this machine's region")
        regions = tuple(dict.fromkeys(here if each == _HERE else each for each in regions))
    shown = ", ".join(repr(each) for each in apps)
    shown = f"fly({shown}, region={list(regions)})" if regions else f"fly({shown})"
    naming = Naming(basename, match)
    own_hosts = tuple(_own_hosts())
    lists = [query(f"vms.{each}.internal.", "TXT") for each in apps]
    if host == "machine":
        questions = Questions(lists, resolver, timeout)
        return _Machines(shown, questions, naming, own_hosts=own_hosts, regions=regions)
    names = [f"{part}{each}.internal." for each in apps for part in _prefixes(regions)]
    queries = [query(name, "AAAA") for name in names]
    questions = Questions([*queries, *lists] if regions else queries, resolver, timeout)
    return _Addresses(shown, questions, naming, own_hosts=own_hosts)


def _prefixes(regions: Iterable[str]) -> list[str]:
    return [f"{region}." for region in regions] or [""]


class _List:
    """What ``vms.<app>.internal`` says: the started machines of an app, and their regions."""

    def __init__(self, lookup: Lookup) -> None:
        self.machines: dict[str, str] = {}
        self.odd: list[str] = []
        self._whole = not lookup.errors
        for record in lookup.records:
            if isinstance(record, TXT):  # one long text is sent as several short ones
                for entry in b"".join(record.strings).decode("latin-1").split(","):
                    self._read(entry.strip())

    def _read(self, entry: str) -> None:
        found = _LISTED.fullmatch(entry)
        if found is not None:
            self.machines[found["machine"]] = found["region"]
        elif entry:
            self.odd.append(entry)

    def knows_of_none_in(self, region: str) -> bool:
        """Whether it is certain that no machine is started there."""
        return self._whole and not self.odd and region not in self.machines.values()


def _lists(lookups: Iterable[Lookup]) -> dict[str, _List]:
    """The list of each app."""
    return {_parts(each)[-1]: _List(each) for each in lookups if each.rdtypes == ("TXT",)}


def _parts(lookup: Lookup) -> list[str]:
    """The app that was asked for, and the region before it, if any."""
    return lookup.query.removesuffix(".internal.").split(".")


class _Addresses(ByAddress):
    """The hosts are addresses of machines, of all or of those of some regions."""

    def _errors(self, lookups: Sequence[Lookup]) -> list[DiscoveryError]:
        # The name of a region without machines does not exist, as one that is misspelt does not.
        # It is no failure where the app's list, which is asked for beside it, is there to tell.
        lists = _lists(lookups)
        errors: list[DiscoveryError] = []
        for lookup in lookups:
            *region, app = _parts(lookup)
            empty = bool(region) and app in lists and lists[app].knows_of_none_in(region[0])
            if lookup.rdtypes != ("TXT",):
                errors += [
                    error
                    for error in lookup.errors
                    if not (empty and isinstance(error, NoSuchName))
                ]
        return errors


class _Machines(ByDns):
    """The hosts are the names of machines."""

    def __init__(
        self,
        shown: str,
        questions: Questions,
        naming: Naming,
        *,
        own_hosts: Iterable[str],
        regions: Collection[str],
    ) -> None:
        super().__init__(shown, questions, naming, own_hosts=own_hosts)
        self._regions = regions

    def _hosts(self, lookups: Sequence[Lookup]) -> Iterable[str]:
        lists = _lists(lookups)
        odd = [shorten(entry) for each in lists.values() for entry in each.odd]
        self._leave_out(odd, no="machine")
        return {
            f"{machine}.vm.{app}.internal"
            for app, each in lists.items()
            for machine, region in each.machines.items()
            if not self._regions or region in self._regions
        }


def _own_hosts() -> Iterator[str]:
    """What this machine is known as, if it is one of Fly.io's."""
    address = os.environ.get("FLY_PRIVATE_IP")
    if address:
        try:
            yield erlang_text(ip_address(address))
        except ValueError as error:
            raise ConfigurationError(f"FLY_PRIVATE_IP is no address: {error}") from error
    machine, app = os.environ.get("FLY_MACHINE_ID"), os.environ.get("FLY_APP_NAME")
    if machine and app:
        yield f"{machine}.vm.{app}.internal"


def _several(what: str, given: object, form: re.Pattern[str]) -> tuple[str, ...]:
    """What was given, checked; empty where nothing was."""
    if given is None:
        return ()
    several: tuple[object, ...] = (given,)
    if isinstance(given, Iterable) and not isinstance(given, (str, bytes)):
        several = tuple(given)
    found: dict[str, None] = {}
    for each in several:
        if not isinstance(each, str) or not form.fullmatch(each):
            raise ConfigurationError(f"{show(each)} is no {what} of Fly.io")
        found[each] = None
    if not found:
        raise ConfigurationError(f"{what} is empty; leave it out")
    return tuple(found)


def _environ(variable: str, form: re.Pattern[str], what: str) -> str:
    found = os.environ.get(variable)
    if not found:
        raise ConfigurationError(
            f"nothing names {what}: {variable} is not set, as it is on a machine of Fly.io"
        )
    if not form.fullmatch(found):
        raise ConfigurationError(f"{variable} does not name {what}: {shorten(found)}")
    return found
