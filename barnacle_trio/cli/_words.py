"""Strategies as words of a command line: ``local-epmd``, ``dns:my_app@my-app.internal``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from barnacle_trio import (
    ASK,
    ConfigurationError,
    NodeName,
    Strategy,
    dns,
    dns_srv,
    epmd,
    erlang_hosts,
    fallback,
    fly,
    kubernetes_dns,
    kubernetes_dns_srv,
    local_epmd,
    merge,
    only,
    postgres,
    remember,
)
from barnacle_trio._names import shorten
from barnacle_trio.cli import _gossip_word, _kubernetes_word


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of word: how it is written, what it discovers, and how its argument is read.

    ``build`` is given what follows the colon, None where there is no colon.
    """

    form: str
    meaning: str
    build: Callable[[str | None], Strategy]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The strategy that words stand for.

    ``by_own_name`` are the words whose answer depends on the local node's base name.
    """

    strategy: Strategy
    by_own_name: tuple[str, ...]


def parse_words(
    words: Sequence[str],
    *,
    fallbacks: Sequence[str] = (),
    match: Sequence[str] = (),
    memory: Path | None = None,
) -> Chosen:
    """Read the words of a command line.

    Args:
      words: asked at once; together they are one answer.
      fallbacks: words that are asked, in their order, only where those before cannot answer.
      match: globs, of which one must accept a node; none accepts all.
      memory: a file for the nodes that were named last, for when none can answer.

    Raises:
      ConfigurationError: a word is not understood; the message says how to write it.
    """
    if not words:
        raise ConfigurationError(f"no strategy is given: write {_known()}")
    parts = [_parse(word) for word in words]
    strategy = parts[0] if len(parts) == 1 else merge(*parts)
    if fallbacks:
        strategy = fallback(strategy, *map(_parse, fallbacks))
    if match:
        strategy = only(strategy, tuple(match))
    if memory is not None:
        strategy = remember(strategy, memory)
    return Chosen(
        strategy=strategy,
        by_own_name=tuple(word for word in (*words, *fallbacks) if _depends_on_own_name(word)),
    )


def _parse(word: str) -> Strategy:
    name, colon, argument = word.partition(":")
    kind = KINDS.get(name)
    if kind is None:
        if _is_node(word):
            raise ConfigurationError(
                f"{shorten(word)} is not a strategy: for a known node write epmd:{word}"
            )
        near = get_close_matches(name, KINDS, n=1)
        hint = f"did you mean {KINDS[near[0]].form}?" if near else f"write {_known()}"
        raise ConfigurationError(f"{shorten(word)} is not a strategy: {hint}")
    return kind.build(argument if colon else None)


def _known() -> str:
    *most, last = (kind.form for kind in KINDS.values())
    return f"{', '.join(most)} or {last}"


def _is_node(word: str) -> bool:
    try:
        NodeName(word)
    except ValueError:
        return False
    return True


def _items(argument: str | None, form: str) -> list[str]:
    items = [] if argument is None else argument.split(",")
    if not all(items) or not items:
        raise ConfigurationError(f"something is missing: write {form}")
    return items


def _local_epmd(argument: str | None) -> Strategy:
    if argument is None:
        return local_epmd()
    return local_epmd(match=_items(argument, KINDS["local-epmd"].form))


def _epmd(argument: str | None) -> Strategy:
    return epmd(_items(argument, KINDS["epmd"].form))


def _erlang_hosts(argument: str | None) -> Strategy:
    if argument == "":
        raise ConfigurationError(f"something is missing: write {KINDS['erlang-hosts'].form}")
    return erlang_hosts(argument)


def _by_query(
    kind: str, make: Callable[..., Strategy], *, at_once: bool = True
) -> Callable[[str | None], Strategy]:
    """How to read ``[BASENAME@]QUERY,...``; several queries ``at_once`` are one call."""

    def build(argument: str | None) -> Strategy:
        queries: dict[str, list[str]] = {}
        for item in _items(argument, KINDS[kind].form):
            basename, at, query = item.rpartition("@")
            if not query or (at and not basename):
                raise ConfigurationError(f"{shorten(item)} is no query: write {KINDS[kind].form}")
            queries.setdefault(basename, []).append(query)
        parts = [
            make(*asked, **_naming(basename))
            for basename, of_one in queries.items()
            for asked in ([of_one] if at_once else [[query] for query in of_one])
        ]
        return parts[0] if len(parts) == 1 else merge(*parts)

    return build


def _naming(basename: str) -> dict[str, object]:
    """A glob is for what the port mappers list; any other base name is known."""
    if set(basename) & set("*?["):
        return {"basename": ASK, "match": basename}
    return {"basename": basename} if basename else {}


def _of_namespace(service: str, **naming: Any) -> Strategy:
    name, _, namespace = service.rpartition(".")
    if not name or not namespace:
        form = KINDS["kubernetes-dns-srv"].form
        raise ConfigurationError(f"{shorten(service)} has no namespace: write {form}")
    return kubernetes_dns_srv(name, namespace, **naming)


def _apps(*apps: str, **naming: Any) -> Strategy:
    return fly(apps, **naming)


def _fly(argument: str | None) -> Strategy:
    return fly() if argument is None else _by_query("fly", _apps)(argument)


def _postgres(argument: str | None) -> Strategy:
    if argument is None:
        return postgres("")
    channel, at, dsn = argument.partition("@")
    if not channel or (at and not dsn):
        raise ConfigurationError(f"something is missing: write {KINDS['postgres'].form}")
    return postgres(dsn, channel=channel)


def _depends_on_own_name(word: str) -> bool:
    kind, _, argument = word.partition(":")
    if kind == "gossip":
        return _gossip_word.depends_on_own_name(argument)
    if kind == "kubernetes":
        return _kubernetes_word.depends_on_own_name(argument)
    by_query = {"dns", "dns-srv", "kubernetes-dns", "kubernetes-dns-srv"}
    return kind in by_query and not all("@" in item for item in argument.split(","))


KINDS: dict[str, Kind] = {
    "local-epmd": Kind(
        form="local-epmd[:GLOB,...]",
        meaning="what the port mapper on this host lists (of which the globs choose)",
        build=_local_epmd,
    ),
    "epmd": Kind(
        form="epmd:NODE,...",
        meaning="a known list of nodes; one's own name may be in it",
        build=_epmd,
    ),
    "erlang-hosts": Kind(
        form="erlang-hosts[:FILE]",
        meaning="what the port mappers of the hosts in .hosts.erlang list, found as Erlang does",
        build=_erlang_hosts,
    ),
    "dns": Kind(
        form="dns:[BASENAME@]QUERY,...",
        meaning="BASENAME@ADDRESS for each address (A, AAAA) of a DNS name; without BASENAME, "
        "the node's own; a glob in its place is for what the port mapper there lists",
        build=_by_query("dns", dns),
    ),
    "dns-srv": Kind(
        form="dns-srv:[BASENAME@]QUERY,...",
        meaning="BASENAME@TARGET for each SRV record of a DNS name; BASENAME as for dns",
        build=_by_query("dns-srv", dns_srv),
    ),
    "kubernetes": Kind(
        form=_kubernetes_word.FORM,
        meaning=_kubernetes_word.MEANING,
        build=_kubernetes_word.build,
    ),
    "kubernetes-dns": Kind(
        form="kubernetes-dns:[BASENAME@]SERVICE[.NAMESPACE],...",
        meaning="the pods of a headless service by their addresses; BASENAME as for dns",
        build=_by_query("kubernetes-dns", kubernetes_dns, at_once=False),
    ),
    "kubernetes-dns-srv": Kind(
        form="kubernetes-dns-srv:[BASENAME@]SERVICE.NAMESPACE,...",
        meaning="the pods of a headless service by their host names; BASENAME as for dns",
        build=_by_query("kubernetes-dns-srv", _of_namespace, at_once=False),
    ),
    "fly": Kind(
        form="fly[:[BASENAME@]APP,...]",
        meaning="the nodes of Fly.io apps, this machine's own if none is given; without BASENAME, "
        "whatever the port mappers there list",
        build=_fly,
    ),
    "gossip": Kind(
        form=_gossip_word.FORM,
        meaning=_gossip_word.MEANING,
        build=_gossip_word.build,
    ),
    "postgres": Kind(
        form="postgres[:CHANNEL[@DSN]]",
        meaning="who says its name on a channel of a PostgreSQL database (extra postgres); without "
        "DSN, the one of libpq's environment (PGHOST, PGPASSWORD, ...)",
        build=_postgres,
    ),
}
"""The kinds of words that there are. The help and the errors are written from this table."""
