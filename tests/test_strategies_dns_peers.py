"""Where other libraries' DNS strategies break, and a source that goes away and comes back.

Each strategy runs under a barnacle, against a DNS server; the transport alone is a fake one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import dns.message
import dns.rcode
import pytest
import trio
from dns.asyncresolver import Resolver

from barnacle_trio import (
    ASK,
    Barnacle,
    NodeDown,
    Refreshed,
    RefreshFailed,
    Strategy,
    dns_srv,
    fly,
    kubernetes_dns,
    kubernetes_dns_srv,
    local_epmd,
    open_barnacle,
)
from barnacle_trio._errors import ConfigurationError
from barnacle_trio.epmd import open_registration
from barnacle_trio.strategies import dns as by_dns
from barnacle_trio.testing import EventRecorder, FakeTransport
from tests.cluster_lab import PATIENCE
from tests.dns_server import (
    DnsServer,
    Script,
    open_dns_server,
    open_scripted_dns,
    reply,
    resolver_for,
)
from tests.epmd_lab import real_epmd

Query = dns.message.QueryMessage
POLL = 0.1
WEB = "web.default.svc.cluster.local"
HOSTS = ("10.0.0.1", "fdaa:0:1::3")
PODS = tuple(f"web-{number}.{WEB}" for number in range(2))

STRATEGIES: dict[str, tuple[Callable[[Resolver], Strategy], tuple[str, ...]]] = {
    "dns": (lambda to: by_dns("app.test", basename="app", resolver=to, timeout=1), HOSTS),
    "dns_srv": (lambda to: dns_srv(WEB, basename="app", resolver=to, timeout=1), PODS),
    "kubernetes_dns": (
        lambda to: kubernetes_dns(
            "app", "x", cluster_domain="test", basename="app", resolver=to, timeout=1
        ),
        HOSTS,
    ),
    "kubernetes_dns_srv": (
        lambda to: kubernetes_dns_srv("web", "default", basename="app", resolver=to, timeout=1),
        PODS,
    ),
    "fly": (lambda to: fly("shop", basename="app", resolver=to, timeout=1), HOSTS[1:]),
}
"""Each with the hosts that it finds at `open_lab`'s server."""


class Watched:
    """A barnacle, and all that it did."""

    def __init__(self, barnacle: Barnacle, transport: FakeTransport, told: EventRecorder) -> None:
        self.barnacle = barnacle
        self.transport = transport
        self.told = told

    async def wait_for(self, nodes: Iterable[str]) -> None:
        wanted = set(nodes)
        with trio.fail_after(PATIENCE):
            await self.barnacle.nodes.wait_value(lambda found: found == wanted)

    async def rounds(self, kind: type[Refreshed] | type[RefreshFailed], more: int) -> None:
        wanted = len(self.told.of(kind)) + more
        with trio.fail_after(PATIENCE):
            await self.told.wait_for(kind, lambda _event: len(self.told.of(kind)) >= wanted)

    def assert_nobody_was_cut(self) -> None:
        assert self.transport.disconnects == []
        assert self.told.of(NodeDown) == []


@asynccontextmanager
async def watched(
    strategy: Strategy, nodes: Iterable[str], *, prune_after: float = 0.2
) -> AsyncIterator[Watched]:
    transport = FakeTransport("app@127.0.0.1", nodes)
    told = EventRecorder()
    async with open_barnacle(
        strategy,
        transport,
        poll_interval=POLL,
        prune_after=prune_after,
        max_prune=1.0,
        listener=told.send,
    ) as barnacle:
        yield Watched(barnacle, transport, told)


@asynccontextmanager
async def open_lab(folder: Path) -> AsyncIterator[DnsServer]:
    """A server at which each of `STRATEGIES` finds its hosts."""
    async with open_dns_server(folder, zones=["internal", "cluster.local"]) as server:
        await server.set_targets(WEB, *PODS)
        await server.set_records("app.test", *HOSTS)
        await server.set_records("app.x.svc.test", *HOSTS)
        await server.set_records("shop.internal", *HOSTS[1:])
        yield server


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What was logged of discovery."""
    return [
        (record.levelname, record.getMessage().partition("] ")[2].partition(":")[0])
        for record in caplog.records
        if "discovery" in record.getMessage() and record.levelno >= logging.INFO
    ]


@pytest.mark.parametrize(
    ("strategy", "how"),
    [*((strategy, "killed") for strategy in STRATEGIES), ("dns_srv", "frozen")],
)
async def test_a_source_that_is_away_for_three_polls_costs_nothing_but_two_lines(
    strategy: str, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, hosts = STRATEGIES[strategy]
    nodes = [f"app@{host}" for host in hosts]
    async with open_lab(tmp_path) as server:
        with caplog.at_level(logging.INFO, "barnacle_trio"):
            async with watched(make(resolver_for(server.port)), nodes) as lab:
                await lab.wait_for(nodes)
                await (server.stop() if how == "killed" else to_async(server.freeze))
                await lab.rounds(RefreshFailed, 3)
                await (server.start() if how == "killed" else to_async(server.thaw))
                await lab.rounds(Refreshed, 3)
                lab.assert_nobody_was_cut()
                assert lab.barnacle.status().restarts == 0
                assert lab.barnacle.status().last_error is None
    assert lines(caplog) == [("WARNING", "discovery failed"), ("INFO", "discovery works again")]


async def to_async(act: Callable[[], None]) -> None:
    await trio.lowlevel.checkpoint()
    act()


@pytest.mark.parametrize("asks", ["dns", "local_epmd"])
async def test_a_port_mapper_that_is_away_for_three_polls_costs_nothing_but_two_lines(
    asks: str, tmp_path: Path, epmd_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = ["shop@127.0.0.1"]
    async with open_dns_server(tmp_path) as server:
        await server.set_records("app.test", "127.0.0.1")
        strategy: Strategy = local_epmd()
        if asks == "dns":
            strategy = by_dns("app.test", basename=ASK, resolver=resolver_for(server.port))
        with caplog.at_level(logging.INFO, "barnacle_trio"):
            async with watched(strategy, nodes) as lab:
                async with real_epmd(epmd_port), open_registration("shop", 4000):
                    await lab.rounds(Refreshed, 1)
                    await lab.wait_for(nodes)
                await lab.rounds(RefreshFailed, 3)
                async with real_epmd(epmd_port), open_registration("shop", 4000):
                    await lab.rounds(Refreshed, 3)
                    lab.assert_nobody_was_cut()
    told = lines(caplog)
    if told[0] == ("WARNING", "discovery failed") and len(told) > 2:
        told = told[2:]  # the barnacle began to ask before there was a port mapper at all
    assert told == [("WARNING", "discovery failed"), ("INFO", "discovery works again")]


# -- libcluster's defects, by their numbers among ours --------------------------------------------


def counting(asked: Counter[str], *records: str) -> Script:
    def script(query: Query, _tcp: bool) -> Iterable[dns.message.Message]:
        question = query.question[0]
        asked[dns.rdatatype.to_text(question.rdtype)] += 1
        return [reply(query, *records)]

    return script


@pytest.mark.parametrize(
    ("make", "rdtypes"),
    [
        (lambda to: kubernetes_dns("web", "default", resolver=to), {"A", "AAAA"}),
        (lambda to: kubernetes_dns_srv("web", "default", resolver=to), {"SRV"}),
    ],
)
async def test_l5_there_is_one_chain_of_polls(
    make: Callable[[Resolver], Strategy], rdtypes: set[str]
) -> None:
    asked: Counter[str] = Counter()
    records = [f"{WEB} 60 IN A 10.0.0.1", f"{WEB} 60 IN SRV 0 0 4000 web-0.{WEB}."]
    nodes = ["app@10.0.0.1", f"app@{PODS[0]}"]
    async with (
        open_scripted_dns(counting(asked, *records)) as port,
        watched(make(resolver_for(port)), nodes) as lab,
    ):
        await lab.rounds(Refreshed, 6)
        rounds = len(lab.told.of(Refreshed))
        # One round may be under way; a second chain would ask twice as often.
        assert set(asked) == rdtypes
        assert all(rounds <= count <= rounds + 1 for count in asked.values())
        times = [event.at for event in lab.told.of(Refreshed)]
    apart = [later - sooner for sooner, later in pairwise(times)]
    assert min(apart[1:]) > POLL / 2


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_l6_one_timeout_disconnects_nobody(strategy: str, tmp_path: Path) -> None:
    make, hosts = STRATEGIES[strategy]
    nodes = [f"app@{host}" for host in hosts]
    async with (
        open_lab(tmp_path) as server,
        watched(make(resolver_for(server.port)), nodes, prune_after=0) as lab,
    ):
        await lab.wait_for(nodes)
        server.freeze()
        await lab.rounds(RefreshFailed, 1)
        server.thaw()
        await lab.rounds(Refreshed, 3)
        lab.assert_nobody_was_cut()
        assert len(lab.transport.dials) == len(nodes)


async def test_l7_aliases_and_ipv6_are_answers_as_any_other(tmp_path: Path) -> None:
    async with open_dns_server(tmp_path) as server:
        strategy = kubernetes_dns("alias", basename="app", resolver=to_test(server))
        for addresses in (["10.0.0.9"], ["fd00::9"], ["10.0.0.9", "fd00::9"]):
            await server.set_records("target.test", *addresses)
            nodes = [f"app@{address}" for address in addresses]
            async with watched(strategy, nodes) as lab:
                await lab.wait_for(nodes)
                assert lab.told.of(RefreshFailed) == []


def to_test(server: DnsServer) -> Resolver:
    return resolver_for(server.port, search=["test"])


async def test_l8_a_server_that_names_five_of_fifteen_by_turns_costs_nobody() -> None:
    """As load balancers and some hosters' servers do, whose answers are cut and rotated."""
    addresses = [f"10.0.0.{last}" for last in range(1, 16)]
    nodes = {f"app@{address}" for address in addresses}
    turn = 0

    def script(query: Query, _tcp: bool) -> Iterable[dns.message.Message]:
        nonlocal turn
        turn += 5
        some = [addresses[(turn + step) % 15] for step in range(5)]
        return [reply(query, *(f"app.test 60 IN A {address}" for address in some))]

    async with open_scripted_dns(script) as port:
        strategy = by_dns("app.test", basename="app", records=["A"], resolver=resolver_for(port))
        # No node is left out for as long as two seconds: that takes twenty rounds at this pace.
        async with watched(strategy, nodes, prune_after=2.0) as lab:
            await lab.wait_for(nodes)
            await lab.rounds(Refreshed, 30)
            lab.assert_nobody_was_cut()
            assert len(lab.transport.dials) == 15


@pytest.mark.parametrize(
    "make", [by_dns, dns_srv, kubernetes_dns, fly, partial(kubernetes_dns_srv, namespace="x")]
)
def test_l9_an_option_that_there_is_not_is_refused(make: Callable[..., Strategy]) -> None:
    make("app")
    for unknown in ("polling_interval", "poll_interval", "node_basename"):
        with pytest.raises(TypeError, match=unknown):
            make("app", **{unknown: 60})


def test_l10_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLY_APP_NAME", raising=False)
    with pytest.raises(ConfigurationError, match="there is no name to ask the DNS for"):
        by_dns()
    with pytest.raises(ConfigurationError, match="there is no name to ask the DNS for"):
        dns_srv()
    with pytest.raises(TypeError, match="'service'"):
        kubernetes_dns()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'namespace'"):
        kubernetes_dns_srv("web")  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="FLY_APP_NAME"):
        fly()


@pytest.mark.parametrize("domain", ["corp.test", "corp.test."])
async def test_l11_the_domain_of_the_cluster_is_obeyed(tmp_path: Path, domain: str) -> None:
    service = "web.default.svc.corp.test"
    async with open_dns_server(tmp_path) as server:
        # A pod without a host name of its own, of either family: no colon can be in a label.
        targets = [f"10-0-0-7.{service}", f"fd00--7.{service}", f"web-0.{service}"]
        await server.set_targets(service, *targets)
        await server.set_records(service, "10.0.0.7", "fd00::7")
        to = resolver_for(server.port)
        by_name = kubernetes_dns_srv("web", "default", cluster_domain=domain, resolver=to)
        by_address = kubernetes_dns("web", "default", cluster_domain=domain, resolver=to)
        for strategy, hosts in ((by_name, targets), (by_address, ["10.0.0.7", "fd00::7"])):
            nodes = [f"app@{host}" for host in hosts]
            async with watched(strategy, nodes) as lab:
                await lab.wait_for(nodes)


# -- answers that are old, or not yet there -------------------------------------------------------


async def test_live_nodes_are_met_at_once_beside_fifty_dead_ones(tmp_path: Path) -> None:
    dead = [f"dead-{number}.{WEB}" for number in range(50)]  # fewer than are dialled at once
    async with open_dns_server(tmp_path, zones=["cluster.local"]) as server:
        await server.set_targets(WEB, *dead, *PODS)
        strategy = kubernetes_dns_srv("web", "default", resolver=resolver_for(server.port))
        nodes = [f"app@{pod}" for pod in PODS]
        async with watched(strategy, nodes) as lab:
            for host in dead:
                lab.transport.peer(f"app@{host}").delay = 3600
            await lab.wait_for(nodes)


async def test_a_service_that_becomes_empty_costs_nobody(tmp_path: Path) -> None:
    async with open_dns_server(tmp_path, zones=["cluster.local"]) as server:
        text = f"txt-record={WEB},it exists"
        await server.set_lines(text, *(f"srv-host={WEB},{pod},4000" for pod in PODS))
        strategy = kubernetes_dns_srv("web", "default", resolver=resolver_for(server.port))
        nodes = [f"app@{pod}" for pod in PODS]
        async with watched(strategy, nodes) as lab:
            await lab.wait_for(nodes)
            await server.set_lines(text)
            await lab.rounds(Refreshed, 4)
            await trio.sleep(0.2)
            await lab.rounds(Refreshed, 3)
            lab.assert_nobody_was_cut()


async def test_a_pod_that_is_gone_from_the_service_is_pruned_after_a_while(tmp_path: Path) -> None:
    async with open_dns_server(tmp_path, zones=["cluster.local"]) as server:
        await server.set_targets(WEB, *PODS)
        strategy = kubernetes_dns_srv("web", "default", resolver=resolver_for(server.port))
        nodes = [f"app@{pod}" for pod in PODS]
        async with watched(strategy, nodes) as lab:
            await lab.wait_for(nodes)
            await server.set_targets(WEB, PODS[0])
            await lab.wait_for(nodes[:1])
            assert [name for _at, name in lab.transport.disconnects] == nodes[1:]
