"""Asking the DNS for one name: which names to try, what each answer means."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

import trio
from dns.asyncbackend import get_backend
from dns.asyncresolver import Resolver
from dns.exception import DNSException
from dns.flags import AA
from dns.message import QueryMessage
from dns.name import Name, NameTooLong, root
from dns.rdata import Rdata
from dns.rdatatype import NS, SOA
from dns.resolver import NXDOMAIN

from barnacle_trio._errors import DiscoveryError

logger = logging.getLogger("barnacle_trio.strategies")

RESOLV_CONF = "/etc/resolv.conf"
MAX_ALIASES = 8
"""How often an alias is followed by another question, where a server does not follow it itself."""

# So many silent servers, or candidates of a search list with a silent first server, can be passed
# by before the time for the whole lookup is over.
_TRIES = 5
_MAX_REASON = 300


class NoSuchName(DiscoveryError):
    """The DNS says that the name does not exist: a typo, or a name that is not there yet."""


async def system_resolver(lifetime: float) -> Resolver:
    """A resolver for this host's configuration as it is now; nothing is kept between calls.

    ``lifetime`` (seconds) is for the whole lookup; each server gets a part of it, at most what the
    configuration says.

    Raises:
      DiscoveryError: the configuration cannot be read or names no server.
    """
    try:
        # Read in a thread: the file may lie on a slow disk, and Windows asks its registry.
        resolver = await trio.to_thread.run_sync(_configured_resolver, abandon_on_cancel=True)
    except (DNSException, OSError, ValueError) as error:
        raise DiscoveryError(f"no usable resolver configuration: {_brief(error)}") from error
    resolver.use_search_by_default = True
    resolver.timeout = min(resolver.timeout, lifetime / _TRIES)
    return resolver


def _configured_resolver() -> Resolver:
    return Resolver(RESOLV_CONF)


def candidates(resolver: Resolver, name: Name) -> list[Name]:
    """The absolute names to try for ``name``, in order, by the resolver's search list.

    A name with at least ``ndots`` dots is tried as it is first, others last (resolv.conf(5)).
    """
    if name.is_absolute():
        return [name]
    suffixes: list[Name] = []
    if resolver.use_search_by_default:
        domain = [] if resolver.domain == root else [resolver.domain]
        suffixes = resolver.search or domain
    dots = len(name) - 1
    ndots = 1 if resolver.ndots is None else resolver.ndots
    searched = [root, *suffixes] if dots >= ndots else [*suffixes, root]
    found: list[Name] = []
    for suffix in searched:
        try:
            found.append(name.concatenate(suffix))
        except NameTooLong:  # cannot exist
            continue
    return list(dict.fromkeys(found))


class Lookup:
    """The search for one name's records of some types. Read it after `run`, finished or cancelled.

    All types are asked for at once. The name in the search list that counts is the first one of
    which any type says that it exists, so that records of two different names never mix.
    """

    def __init__(self, query: str, name: Name, rdtypes: Iterable[str]) -> None:
        self.query = query
        self._name = name
        self.rdtypes = tuple(rdtypes)
        self._answers: dict[str, tuple[Rdata, ...] | DiscoveryError] = {}
        self._passed_by: list[DiscoveryError] = []

    async def run(self, resolver: Resolver) -> None:
        """Ask until the name is found or there is none. Sockets are closed when cancelled."""
        await trio.lowlevel.checkpoint()
        for candidate in candidates(resolver, self._name):
            self._note_trouble()
            self._answers = {}
            async with trio.open_nursery() as nursery:
                for rdtype in self.rdtypes:
                    nursery.start_soon(self._ask, resolver, candidate, rdtype)
            if self.exists:
                break

    async def _ask(self, resolver: Resolver, name: Name, rdtype: str) -> None:
        await trio.lowlevel.checkpoint()
        try:
            self._answers[rdtype] = await ask(resolver, name, rdtype)
        except DiscoveryError as error:
            logger.debug("%s", error)
            self._answers[rdtype] = error

    def _note_trouble(self) -> None:
        # Another program of this host would go on with the next name too; but what is found
        # there is not certain to be what was meant, and counts as partial.
        self._passed_by += [
            answer
            for answer in self._answers.values()
            if isinstance(answer, DiscoveryError) and not isinstance(answer, NoSuchName)
        ]

    @property
    def exists(self) -> bool:
        """Whether a server answered for the name, with records or with none (NODATA)."""
        return any(isinstance(answer, tuple) for answer in self._answers.values())

    @property
    def records(self) -> list[Rdata]:
        """What was found so far, of all types."""
        answers = self._answers.values()
        return [record for each in answers if isinstance(each, tuple) for record in each]

    @property
    def errors(self) -> list[DiscoveryError]:
        """Why the answer is not complete; empty if it is.

        Where a type has records, "no such name" for another type is read as "no records of that
        type": some load balancers answer so for every type that they do not serve (RFC 4074, 4.2),
        and RFC 8020 leaves no other meaning. Where there is no record, it is taken at its word.
        """
        errors = list(self._passed_by)
        for rdtype in self.rdtypes:
            answer = self._answers.get(rdtype)
            if answer is None:
                errors.append(DiscoveryError(f"{self.query} {rdtype}: no answer in time"))
            elif isinstance(answer, NoSuchName):
                if not self.records and not any(isinstance(each, NoSuchName) for each in errors):
                    errors.append(NoSuchName(f"{self.query}: no such name"))
            elif isinstance(answer, DiscoveryError):
                errors.append(answer)
        return errors


async def ask(resolver: Resolver, name: Name, rdtype: str) -> tuple[Rdata, ...]:
    """Ask for one type of records of one absolute name; none at all is an empty answer.

    There is no time limit: the caller's cancel scope is one, since dnspython's own go by the wall
    clock. Aliases are followed. Answers to other questions are passed over by dnspython.

    Raises:
      NoSuchName: there is no such name (NXDOMAIN).
      DiscoveryError: no server gave a usable answer (SERVFAIL, REFUSED, junk, a loop of aliases).
    """
    target = name
    for _ in range(MAX_ALIASES):
        try:
            answer = await resolver.resolve(
                target,
                rdtype,
                raise_on_no_answer=False,
                lifetime=math.inf,
                search=False,
                # dnspython remembers the first library that it met in this process
                backend=get_backend("trio"),
            )
        except NXDOMAIN as error:
            raise NoSuchName(f"{name} {rdtype}: no such name") from error
        except (DNSException, OSError) as error:
            raise DiscoveryError(f"{name} {rdtype}: {_brief(error)}") from error
        if answer.rrset is not None:
            return tuple(answer.rrset)
        if _is_referral(answer.response):
            raise DiscoveryError(f"{name} {rdtype}: the server only refers to other servers")
        if answer.canonical_name == target or _holds(answer.response, SOA):
            return ()
        target = answer.canonical_name
    raise DiscoveryError(f"{name} {rdtype}: more than {MAX_ALIASES} aliases in a row")


def _holds(response: QueryMessage, rdtype: int) -> bool:
    return any(rrset.rdtype == rdtype for rrset in response.authority)


def _is_referral(response: QueryMessage) -> bool:
    """Whether a server that is not asked for such names passes us on (RFC 2308, section 2.1)."""
    authoritative = bool(response.flags & AA)
    return not authoritative and _holds(response, NS) and not _holds(response, SOA)


def _brief(error: Exception) -> str:
    text = str(error) or type(error).__name__
    safe = text.encode("ascii", "backslashreplace").decode()
    return safe if len(safe) <= _MAX_REASON else f"{safe[:_MAX_REASON]}..."
