"""The strategies that go by SRV records, against dnsmasq and Knot, and a server of a script."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import dns.message
import dns.rcode
import pytest
import trio
from dns.name import Name

from barnacle_trio import NodeName, Strategy, dns_srv
from barnacle_trio._errors import ConfigurationError
from barnacle_trio._strategy import Discovery, discover
from barnacle_trio.strategies import kubernetes_dns, kubernetes_dns_srv
from barnacle_trio.strategies._by_dns import host_name
from tests.dns_server import (
    DnsServer,
    free_dns_port,
    open_dns_server,
    open_scripted_dns,
    reply,
    resolver_for,
)
from tests.knot_server import KnotServer, open_knot_server

LOCAL = NodeName("my_app@pod-9.app.test")
APP = "_app._tcp.test"
Query = dns.message.QueryMessage


@pytest.fixture(params=["dnsmasq", "knot"])
async def server(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[DnsServer | KnotServer]:
    """A server of each kind, in which ``test`` is a zone."""
    if request.param == "dnsmasq":
        async with open_dns_server(tmp_path, zones=["cluster.local"]) as dnsmasq:
            yield dnsmasq
    else:
        async with open_knot_server("test", "cluster.local") as knot:
            yield knot


async def ask(strategy: Strategy) -> Discovery:
    with trio.fail_after(10):
        return await discover(strategy, LOCAL)


def nodes(*hosts: str, basename: str = "my_app") -> set[str]:
    return {f"{basename}@{host}" for host in hosts}


def told(answer: Discovery) -> tuple[str, set[str]]:
    return answer.kind, set(answer.nodes)


def complaint(answer: Discovery) -> str:
    assert answer.error is not None
    return answer.error.reason


class TestRealServers:
    async def test_each_target_is_a_host(self, server: DnsServer) -> None:
        await server.set_targets(APP, "pod-0.app.test", "pod-1.app.test", "10-0-0-7.app.test")
        resolver = resolver_for(server.port)
        hosts = ("pod-0.app.test", "pod-1.app.test", "10-0-0-7.app.test")
        assert told(await ask(dns_srv(APP, resolver=resolver))) == ("complete", nodes(*hosts))
        answer = await ask(dns_srv(APP, basename=["a", "b"], match="b@pod*", resolver=resolver))
        assert told(answer) == ("complete", nodes(*hosts[:2], basename="b"))

    async def test_changes_are_seen_at_once(self, server: DnsServer) -> None:
        strategy = dns_srv(APP, resolver=resolver_for(server.port))
        assert (await ask(strategy)).kind == "failed"
        for last in range(3):
            hosts = [f"pod-{number}.app.test" for number in range(last + 1)]
            await server.set_targets(APP, *hosts)
            assert told(await ask(strategy)) == ("complete", nodes(*hosts))
        await server.set_targets(APP, "pod-2.app.test")
        assert told(await ask(strategy)) == ("complete", nodes("pod-2.app.test"))

    async def test_no_such_records_and_no_such_name_are_told_apart(self, server: DnsServer) -> None:
        resolver = resolver_for(server.port)
        empty = await ask(dns_srv("empty.test", resolver=resolver))
        assert told(empty) == ("complete", set())
        typo = await ask(dns_srv("tpyo.test", resolver=resolver))
        assert (typo.kind, complaint(typo)) == ("failed", "tpyo.test: no such name")
        both = await ask(dns_srv("empty.test", "tpyo.test", resolver=resolver))
        assert (told(both), complaint(both)) == (("partial", set()), complaint(typo))

    async def test_a_zone_of_others_is_refused(self, server: DnsServer) -> None:
        answer = await ask(dns_srv("app.example", resolver=resolver_for(server.port)))
        assert answer.kind == "failed"
        assert "REFUSED" in complaint(answer)

    async def test_a_frozen_server_is_a_failure_until_it_thaws(self, server: DnsServer) -> None:
        await server.set_targets(APP, "pod-0.app.test")
        server.freeze()
        frozen = await ask(dns_srv(APP, resolver=resolver_for(server.port), timeout=0.3))
        assert (frozen.kind, complaint(frozen)) == ("failed", f"{APP} SRV: no answer in time")
        server.thaw()
        assert (await ask(dns_srv(APP, resolver=resolver_for(server.port)))).kind == "complete"

    async def test_a_thousand_targets_come_over_tcp(self, server: DnsServer) -> None:
        hosts = [f"pod-{number}.app.test" for number in range(1000)]
        await server.set_targets(APP, *hosts)
        answer = await ask(dns_srv(APP, resolver=resolver_for(server.port)))
        assert told(answer) == ("complete", nodes(*hosts))

    async def test_the_search_list_completes_a_name(self, server: DnsServer) -> None:
        await server.set_targets("app.test", "pod-0.app.test")
        resolver = resolver_for(server.port, search=["missing.test", "test"])
        assert told(await ask(dns_srv("app", resolver=resolver))) == (
            "complete",
            nodes("pod-0.app.test"),
        )

    async def test_pods_of_a_stateful_set_are_named_by_their_host_names(
        self, server: DnsServer
    ) -> None:
        service = "web.default.svc.cluster.local"
        hosts = [f"web-{number}.{service}" for number in range(3)]
        await server.set_targets(service, *hosts)
        strategy = kubernetes_dns_srv("web", "default", resolver=resolver_for(server.port))
        assert told(await ask(strategy)) == ("complete", nodes(*hosts))
        assert repr(strategy) == "kubernetes_dns_srv('web', 'default')"

    @pytest.mark.parametrize("form", [("web", "default"), ("web",), ("web.default",)])
    async def test_pods_of_a_headless_service_are_named_by_their_addresses(
        self, server: DnsServer | KnotServer, form: tuple[str, ...]
    ) -> None:
        service = "web.default.svc.cluster.local"
        if isinstance(server, DnsServer):
            await server.set_records(service, "10.0.0.1", "10.0.0.2", "fd00::7")
        else:
            await server.set_records(service, "A", "10.0.0.1", "10.0.0.2")
            await server.set_records(service, "AAAA", "fd00::7")
        search = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]
        resolver = resolver_for(server.port, search=search, ndots=5)  # as every pod has it
        strategy = kubernetes_dns(*form, resolver=resolver)
        assert told(await ask(strategy)) == (
            "complete",
            nodes("10.0.0.1", "10.0.0.2", "fd00::7"),
        )
        assert repr(strategy) == f"kubernetes_dns({', '.join(map(repr, form))})"


async def test_no_server_at_all_is_a_failure() -> None:
    resolver = resolver_for(free_dns_port())
    answer = await ask(dns_srv(APP, resolver=resolver, timeout=0.3))
    assert (answer.kind, complaint(answer)) == ("failed", f"{APP} SRV: no answer in time")


def srv(*targets: str) -> list[str]:
    return [f"app.test 60 IN SRV 0 0 4000 {target}" for target in targets]


async def ask_script(*targets: str, **how: object) -> Discovery:
    def script(query: Query, _tcp: bool) -> Iterable[dns.message.Message]:
        return [reply(query, *srv(*targets))]

    async with open_scripted_dns(script) as port:
        return await ask(dns_srv("app.test", resolver=resolver_for(port), **how))  # type: ignore[arg-type]


class TestTargets:
    async def test_a_target_that_says_there_is_none_is_a_complete_empty_answer(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert told(await ask_script(".")) == ("complete", set())
        assert not caplog.records

    async def test_one_host_of_several_records_is_one_node(self) -> None:
        # A server may give names back in whatever case they were asked for in.
        answer = await ask_script("pod-0.app.test.", "POD-0.App.Test.", "pod-1.app.test.")
        assert told(answer) == ("complete", nodes("pod-0.app.test", "pod-1.app.test"))

    async def test_what_is_no_host_is_left_out_and_told_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        odd = [r"a\@b.test.", r"a\032b.test.", r"a\000b.test.", r"a\.b.test.", "0.0.0.0.", "0x0."]

        def script(query: Query, _tcp: bool) -> Iterable[dns.message.Message]:
            return [reply(query, *srv("pod-0.test.", *odd))]

        with caplog.at_level(logging.WARNING, "barnacle_trio.strategies"):
            async with open_scripted_dns(script) as port:
                strategy = dns_srv("app.test", resolver=resolver_for(port))
                for _ in range(2):
                    assert told(await ask(strategy)) == ("complete", nodes("pod-0.test"))
        (line,) = [record.getMessage() for record in caplog.records]
        assert line.startswith("dns_srv('app.test'): left out what is no node's host: '0.0.0.0.'")
        assert "\0" not in line

    @pytest.mark.parametrize(
        ("target", "host"),
        [
            ("pod-0.Web.test.", "pod-0.web.test"),
            ("my_host.", "my_host"),
            ("1-2-3-4.web.test.", "1-2-3-4.web.test"),
            ("3com.test.", "3com.test"),
            ("10.0.0.7.", "10.0.0.7"),  # no host's name, yet it is clear what is meant
            ("0.0.0.0.", None),
            ("255.255.255.255.", None),
            ("224.0.0.1.", None),
            ("0.", None),  # resolvers of systems read these four as addresses, too
            ("0x0.", None),
            ("127.1.", None),
            ("010.0.0.1.", None),
            (".", None),
            (r"\228bc.test.", None),
            ("*.test.", None),
        ],
    )
    def test_the_forms_that_a_host_may_have(self, target: str, host: str | None) -> None:
        assert host_name(dns.name.from_text(target)) == host

    async def test_more_than_the_bound_are_a_partial_answer(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("barnacle_trio.strategies._by_dns.MAX_HOSTS", 2)
        answer = await ask_script("a.test.", "b.test.", "c.test.")
        assert told(answer) == ("partial", nodes("a.test", "b.test"))
        assert complaint(answer) == "more than 2 hosts, the others are left out"

    async def test_a_name_too_long_for_a_node_is_reported(self) -> None:
        long = ".".join(["x" * 60] * 4)
        answer = await ask_script(f"{long}.", "b.test.", basename="a_name_of_its_own")
        assert told(answer) == ("complete", nodes("b.test", basename="a_name_of_its_own"))
        assert len(answer.rejected) == 1


@pytest.mark.parametrize(
    "rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.FORMERR]
)
async def test_a_server_that_fails_is_a_failure(rcode: dns.rcode.Rcode) -> None:
    async with open_scripted_dns(lambda query, _tcp: [reply(query, rcode=rcode)]) as port:
        answer = await ask(dns_srv("app.test", resolver=resolver_for(port)))
    assert answer.kind == "failed"
    assert dns.rcode.to_text(rcode) in complaint(answer)


async def test_one_name_that_fails_makes_the_answer_partial() -> None:
    def script(query: Query, _tcp: bool) -> Iterable[dns.message.Message]:
        if query.question[0].name == Name(("other", "test", "")):
            return [reply(query, rcode=dns.rcode.SERVFAIL)]
        return [reply(query, *srv("pod-0.test."))]

    async with open_scripted_dns(script) as port:
        answer = await ask(dns_srv("app.test", "other.test", resolver=resolver_for(port)))
    assert told(answer) == ("partial", nodes("pod-0.test"))
    assert "other.test. SRV: " in complaint(answer)


class TestCalls:
    @pytest.mark.parametrize("queries", [(), ("",), ("a..b",), ("app@a.test",), ("10.0.0.1",)])
    def test_what_is_no_name_is_refused(self, queries: tuple[str, ...]) -> None:
        with pytest.raises(ConfigurationError):
            dns_srv(*queries)

    @pytest.mark.parametrize(
        "parts", [("", "default"), ("web", ""), ("web", "."), ("a@b", "c"), ("web", None)]
    )
    def test_what_is_no_service_is_refused(self, parts: tuple[str, str]) -> None:
        with pytest.raises(ConfigurationError):
            kubernetes_dns_srv(*parts)
        if parts[1] is not None:
            with pytest.raises(ConfigurationError):
                kubernetes_dns(*parts)

    @pytest.mark.parametrize("domain", ["", ".", "a..b", "a b@"])
    def test_what_is_no_domain_is_refused(self, domain: str) -> None:
        with pytest.raises(ConfigurationError):
            kubernetes_dns_srv("web", "default", cluster_domain=domain)

    def test_its_repr_is_its_call(self) -> None:
        assert repr(dns_srv("_a._tcp.test", "b.test")) == "dns_srv('_a._tcp.test', 'b.test')"
