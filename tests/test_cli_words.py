"""Strategies as words of a command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from barnacle_trio import ASK, ConfigurationError, Strategy, epmd
from barnacle_trio.cli import _words
from barnacle_trio.cli._words import KINDS, Chosen, parse_words


def strategy_of(*words: str, **more: Any) -> str:
    return repr(parse_words(words, **more).strategy)


@pytest.mark.parametrize(
    ("word", "strategy"),
    [
        ("local-epmd", "local_epmd()"),
        ("local-epmd:my_app*", "local_epmd(match=('my_app*',))"),
        ("local-epmd:a*,b*", "local_epmd(match=('a*', 'b*'))"),
        ("epmd:a@127.0.0.1", "epmd(['a@127.0.0.1'])"),
        ("epmd:b@h,a@fdaa:0:1::3", "epmd(['a@fdaa:0:1::3', 'b@h'])"),
        ("erlang-hosts", "erlang_hosts()"),
        ("erlang-hosts:/etc/hosts.erlang", "erlang_hosts('/etc/hosts.erlang')"),
        ("dns:my-app.internal", "dns('my-app.internal')"),
        ("postgres", "postgres('', channel='barnacle')"),
        ("postgres:my_cluster", "postgres('', channel='my_cluster')"),
        (
            "postgres:my_cluster@postgresql://me:secret@h/my_app",
            "postgres('host=h dbname=my_app', channel='my_cluster')",
        ),
        ("dns:app@a.internal,app@b.internal", "dns('a.internal', 'b.internal')"),
        ("dns:*@my-app.internal", "dns('my-app.internal')"),
        ("dns-srv:_app._tcp.a.internal", "dns_srv('_app._tcp.a.internal')"),
        ("dns-srv:x@a,x@b", "dns_srv('a', 'b')"),
        ("kubernetes-dns:web", "kubernetes_dns('web')"),
        (
            "kubernetes-dns:a@web.prod,a@db",
            "merge(kubernetes_dns('web.prod'), kubernetes_dns('db'))",
        ),
        ("kubernetes-dns-srv:web.prod", "kubernetes_dns_srv('web', 'prod')"),
        ("fly:my-app", "fly('my-app')"),
        ("fly:my-app,x@other", "merge(fly('my-app'), fly('other'))"),
        ("fly:shop-*@my-app,shop-*@other", "fly('my-app', 'other')"),
    ],
)
def test_a_word_is_a_strategy(word: str, strategy: str) -> None:
    assert strategy_of(word) == strategy


def test_fly_is_for_the_app_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLY_APP_NAME", "my-app")
    assert strategy_of("fly") == "fly('my-app')"
    monkeypatch.delenv("FLY_APP_NAME")
    with pytest.raises(ConfigurationError, match="FLY_APP_NAME"):
        parse_words(["fly"])


async def test_a_glob_in_place_of_a_base_name_is_for_what_is_listed_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[dict[str, object]] = []

    def taken(*queries: str, **options: object) -> Strategy:
        given.append({"queries": queries, **options})
        return epmd([])

    monkeypatch.setattr(_words, "fly", taken)
    for word in ("fly:shop-*@a", "fly:x@a", "fly:a"):
        parse_words([word])
    assert given == [
        {"queries": (("a",),), "basename": ASK, "match": "shop-*"},
        {"queries": (("a",),), "basename": "x"},
        {"queries": (("a",),)},
    ]


def test_several_words_are_one_answer() -> None:
    assert strategy_of("local-epmd", "epmd:a@h") == "merge(local_epmd(), epmd(['a@h']))"


def test_queries_of_different_base_names_are_asked_at_once() -> None:
    assert strategy_of("dns:x@a,y@b") == "merge(dns('a'), dns('b'))"


GOSSIP_SECRET = "correct horse battery staple"


@pytest.mark.parametrize(
    ("word", "strategy"),
    [
        ("gossip", "gossip('233.252.1.32:45892', secret=..., wire='libcluster')"),
        (
            "gossip:sealed,interface=eth0,port=4000",
            "gossip('233.252.1.32:4000 on eth0', secret=..., wire='sealed')",
        ),
        (
            "gossip:insecure,group=ff15::7a,match=a@*,match=b@*",
            "gossip('[ff15::7a]:45892', insecure=True, match=('a@*', 'b@*'))",
        ),
        ("gossip:insecure,broadcast", "gossip('255.255.255.255:45892', insecure=True)"),
    ],
)
def test_gossip_takes_options_and_a_secret_from_the_environment(
    word: str, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BARNACLE_GOSSIP_SECRET", GOSSIP_SECRET)
    assert strategy_of(word) == strategy


@pytest.mark.parametrize("word", ["gossip", "gossip:sealed", "gossip:match=a"])
def test_gossip_without_a_secret_is_asked_for_by_name(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BARNACLE_GOSSIP_SECRET", raising=False)
    with pytest.raises(ConfigurationError, match="set BARNACLE_GOSSIP_SECRET, or write"):
        parse_words([word])


@pytest.mark.parametrize(
    ("word", "strategy"),
    [
        ("kubernetes:selector=app=my-app", "kubernetes('app=my-app')"),
        ("kubernetes:selector=app%3Dmy-app", "kubernetes('app=my-app')"),
        (
            "kubernetes:selector=a=b%2Cc!=d,lookup=pods,namespace=n,watch=no,basename=x",
            "kubernetes('a=b,c!=d', lookup='pods', namespace='n')",
        ),
        (
            "kubernetes:service=web,mode=hostname,cluster-domain=k8s,not_ready=yes,basename=x*",
            "kubernetes(service='web')",
        ),
    ],
)
def test_kubernetes_takes_options(word: str, strategy: str) -> None:
    assert strategy_of(word) == strategy
    assert bool(parse_words([word]).by_own_name) is ("basename=" not in word)


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("kubernetes", "something is missing: write kubernetes:OPTION=VALUE,..."),
        ("kubernetes:", "'' is no option of kubernetes"),
        ("kubernetes:lookup=pods", "something is missing"),
        ("kubernetes:app=my-app", "'app=my-app' is no option of kubernetes"),
        ("kubernetes:selector=", "'selector=' is no option"),
        ("kubernetes:selector=a=b,c=d", "'c=d' is no option"),
        ("kubernetes:selector=a=b,watch=maybe", "'watch=maybe' is no option"),
        ("kubernetes:selector=a=b,lookup=nodes", "lookup is one of"),
    ],
)
def test_what_kubernetes_does_not_take(word: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_words([word])
    assert complaint in str(caught.value)


def test_fallbacks_and_globs_surround_the_words() -> None:
    told = strategy_of("dns:x@a", fallbacks=["epmd:x@h"], match=["x@*"])
    assert told == "only(fallback(dns('a'), epmd(['x@h'])), ('x@*',))"


def test_a_memory_is_around_them_all() -> None:
    told = repr(parse_words(["dns:x@a"], match=["x@*"], memory=Path("nodes.json")).strategy)
    assert told == "remember(only(dns('a'), ('x@*',)), 'nodes.json')"


async def test_the_globs_choose() -> None:
    chosen = parse_words(["epmd:x@a,y@a,z@a"], match=["x", "z@*"])
    from barnacle_trio import NodeName

    assert set(await chosen.strategy(NodeName("me@a"))) == {"x@a", "z@a"}


@pytest.mark.parametrize(
    ("words", "unnamed"),
    [
        (["dns:a"], ("dns:a",)),
        (["dns:x@a", "local-epmd"], ()),
        (["dns:*@a", "dns-srv:x@a", "fly:my-app"], ()),
        (["dns-srv:a"], ("dns-srv:a",)),
        (["gossip:insecure", "gossip:insecure,match=a@*"], ("gossip:insecure",)),
        (["kubernetes-dns:web", "kubernetes-dns-srv:x@a.b"], ("kubernetes-dns:web",)),
        (["epmd:a@h", "dns:x@a,b"], ("dns:x@a,b",)),
    ],
)
def test_words_that_need_ones_own_base_name_are_known(
    words: list[str], unnamed: tuple[str, ...]
) -> None:
    chosen: Chosen = parse_words(words)
    assert chosen.by_own_name == unnamed


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "no strategy is given"),
        (["nonsense"], "'nonsense' is not a strategy: write local-epmd"),
        (["local_epmd"], "'local_epmd' is not a strategy: did you mean local-epmd[:GLOB,...]?"),
        (["kubernetes_dns:web"], "is not a strategy: did you mean kubernetes-dns:["),
        ([""], "'' is not a strategy: write local-epmd"),
        (["a@127.0.0.1"], "write epmd:a@127.0.0.1"),
        (["epmd"], "write epmd:NODE,..."),
        (["epmd:"], "write epmd:NODE,..."),
        (["epmd:a@h,,b@h"], "write epmd:NODE,..."),
        (["epmd:nonsense"], "'nonsense' is not a node name"),
        (["local-epmd:"], "write local-epmd"),
        (["erlang-hosts:"], "write erlang-hosts[:FILE]"),
        (["dns"], "write dns:"),
        (["postgres:"], "write postgres[:CHANNEL"),
        (["postgres:@host=h"], "write postgres[:CHANNEL"),
        (["postgres:my_cluster@"], "write postgres[:CHANNEL"),
        (["postgres:my_cluster@secret"], "not a PostgreSQL connection string"),
        (["dns:@a.internal"], "write dns:"),
        (["dns:app@"], "write dns:"),
        (["dns-srv:app@"], "write dns-srv:"),
        (["kubernetes-dns"], "write kubernetes-dns:"),
        (["kubernetes-dns-srv:web"], "'web' has no namespace: write kubernetes-dns-srv:"),
        (["fly:"], "write fly["),
        (["gossip:"], "write gossip[:OPTION,...]"),
        (["gossip:insecure,secret=x"], "'secret=x' is no option of gossip"),
        (["gossip:insecure,port=x"], "'port=x' is no option of gossip"),
        (["gossip:insecure,group=10.0.0.1"], "no multicast address"),
        (["fly:not an app"], "'not an app'"),
    ],
)
def test_what_is_not_understood_is_answered_by_how_to_write_it(
    words: list[str], complaint: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_words(words)
    assert complaint in str(caught.value)


def test_the_help_names_every_kind_as_it_is_written() -> None:
    for name, kind in KINDS.items():
        assert kind.form.startswith(name)
