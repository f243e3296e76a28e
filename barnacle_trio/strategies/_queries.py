"""What is asked of the DNS: names as users write them, and one round of asking for them all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

import trio
from dns.asyncresolver import Resolver
from dns.exception import DNSException
from dns.name import Name, from_text, root

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import shorten
from barnacle_trio.strategies._lookup import Lookup, system_resolver
from barnacle_trio.strategies._time import time_to_answer


@dataclass(frozen=True, slots=True)
class Query:
    """A DNS name as it was written, and the types of records that it is asked for."""

    text: str
    name: Name
    rdtypes: tuple[str, ...]


def query(text: str, *rdtypes: str) -> Query:
    """Read a DNS name; with a dot at its end it is absolute, without one the search list applies.

    Raises:
      ConfigurationError: it is no name that could be asked for.
    """
    if not isinstance(text, str):
        raise ConfigurationError(f"a DNS name is a str, not {type(text).__name__}")
    if "@" in text:
        raise ConfigurationError(
            f"{shorten(text)} is not a DNS name: write the base name as basename=..."
        )
    try:
        ip_address(text)
    except ValueError:
        pass
    else:
        raise ConfigurationError(
            f"{shorten(text)} is an address, which needs no DNS: use epmd([...])"
        )
    try:
        name = from_text(text, None)
        whole = name if name.is_absolute() else name.concatenate(root)
    except (DNSException, ValueError) as error:
        raise ConfigurationError(f"{shorten(text)} is not a DNS name: {error}") from error
    if whole == root:
        raise ConfigurationError(f"{shorten(text)} is not a DNS name: it is empty")
    return Query(text, name, rdtypes)


class Questions:
    """Queries that are asked at once, of the system's servers or of those of a resolver given.

    Raises:
      ConfigurationError: nothing to ask for, no such resolver, or not a time.
    """

    def __init__(self, queries: Iterable[Query], resolver: Resolver | None, timeout: float) -> None:
        self._queries = {query.name: query for query in queries}
        if not self._queries:
            raise ConfigurationError("there is no name to ask the DNS for")
        if resolver is not None and not isinstance(resolver, Resolver):
            raise ConfigurationError(
                f"resolver is a dns.asyncresolver.Resolver, not {type(resolver).__name__}"
            )
        if not timeout > 0:
            raise ConfigurationError(f"timeout is a positive number of seconds, not {timeout!r}")
        self._resolver = resolver
        self._timeout = timeout

    async def ask(self, *, steps: int = 1) -> list[Lookup]:
        """Ask until all is answered or the time is over; what is known by then can be read.

        This is the first of ``steps``, which share the time until the caller's deadline.

        Raises:
          DiscoveryError: the system's resolver has no usable configuration.
        """
        lookups = [Lookup(each.text, each.name, each.rdtypes) for each in self._queries.values()]
        with trio.move_on_after(min(self._timeout, time_to_answer(steps))):
            resolver = self._resolver or await system_resolver(self._timeout)
            async with trio.open_nursery() as nursery:
                for lookup in lookups:
                    nursery.start_soon(lookup.run, resolver)
        return lookups
