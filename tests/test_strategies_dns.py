"""The `dns` strategy against a real server."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from dns.asyncresolver import Resolver

from barnacle_trio._errors import ConfigurationError, DiscoveryError
from barnacle_trio._names import NodeName
from barnacle_trio._strategy import Discovery, Strategy, discover
from barnacle_trio.strategies import _lookup, dns
from tests.dns_server import DnsServer, free_dns_port, open_dns_server, resolver_for

LOCAL = NodeName("my_app@10.0.0.1")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[DnsServer]:
    async with open_dns_server(tmp_path) as server:
        yield server


async def ask(strategy: Strategy) -> Discovery:
    with trio.fail_after(10):
        return await discover(strategy, LOCAL)


def nodes(*addresses: str, basename: str = "my_app") -> set[str]:
    return {f"{basename}@{address}" for address in addresses}


def told(answer: Discovery) -> tuple[str, set[str]]:
    return answer.kind, set(answer.nodes)


def complaint(answer: Discovery) -> str:
    assert answer.error is not None
    return answer.error.reason


@pytest.mark.parametrize(
    "addresses",
    [("10.0.0.1",), ("fd00::1",), ("10.0.0.1", "10.0.0.2", "fd00::1", "fdaa:0:1::3")],
    ids=["only IPv4", "only IPv6", "both"],
)
async def test_either_family_will_do(server: DnsServer, addresses: tuple[str, ...]) -> None:
    await server.set_records("app.test", *addresses)
    answer = await ask(dns("app.test", resolver=resolver_for(server.port)))
    assert answer.kind == "complete"
    assert answer.nodes == nodes(*addresses)


async def test_a_name_without_addresses_is_a_complete_empty_answer(server: DnsServer) -> None:
    answer = await ask(dns("empty.test", resolver=resolver_for(server.port)))
    assert told(answer) == ("complete", set())


async def test_a_family_that_is_not_asked_for_is_not_there(server: DnsServer) -> None:
    await server.set_records("app.test", "10.0.0.1", "fd00::1")
    resolver = resolver_for(server.port)
    four = await ask(dns("app.test", records=("A",), resolver=resolver))
    six = await ask(dns("app.test", records=["AAAA"], resolver=resolver))
    assert told(four) == ("complete", nodes("10.0.0.1"))
    assert told(six) == ("complete", nodes("fd00::1"))


async def test_a_name_that_does_not_exist_is_a_failure_that_says_so(server: DnsServer) -> None:
    answer = await ask(dns("tpyo.test", resolver=resolver_for(server.port)))
    assert (answer.kind, complaint(answer)) == ("failed", "tpyo.test: no such name")


async def test_a_refusal_is_a_failure(server: DnsServer) -> None:
    answer = await ask(dns("app.example", resolver=resolver_for(server.port)))
    assert answer.kind == "failed"
    assert "REFUSED" in complaint(answer)


async def test_no_server_at_all_is_a_failure() -> None:
    answer = await ask(dns("app.test", resolver=resolver_for(free_dns_port()), timeout=0.3))
    assert (answer.kind, complaint(answer)) == (
        "failed",
        "app.test A: no answer in time; app.test AAAA: no answer in time",
    )


async def test_a_frozen_server_is_a_failure_until_it_thaws(server: DnsServer) -> None:
    await server.set_records("app.test", "10.0.0.1")
    strategy = dns("app.test", resolver=resolver_for(server.port), timeout=0.3)
    server.freeze()
    start = trio.current_time()
    frozen = await ask(strategy)
    assert frozen.kind == "failed"
    assert trio.current_time() - start < 2
    server.thaw()
    assert (await ask(dns("app.test", resolver=resolver_for(server.port)))).kind == "complete"


async def test_the_second_server_answers_where_the_first_is_down(server: DnsServer) -> None:
    await server.set_records("app.test", "10.0.0.1")
    answer = await ask(dns("app.test", resolver=resolver_for(free_dns_port(), server.port)))
    assert told(answer) == ("complete", nodes("10.0.0.1"))


async def test_a_thousand_addresses_come_over_tcp(server: DnsServer) -> None:
    addresses = [f"10.1.{index // 250}.{index % 250 + 1}" for index in range(1000)]
    addresses += [f"fd00::1:{index:x}" for index in range(1, 1001)]
    await server.set_records("app.test", *addresses)
    answer = await ask(dns("app.test", resolver=resolver_for(server.port)))
    assert (answer.kind, len(answer.nodes)) == ("complete", 2000)
    assert nodes(addresses[0], addresses[999]) < answer.nodes


async def test_an_alias_is_followed(server: DnsServer) -> None:
    strategy = dns("alias.test", resolver=resolver_for(server.port))
    assert (await ask(strategy)).kind == "failed"  # it leads nowhere yet
    await server.set_records("target.test", "10.0.0.9")
    answer = await ask(strategy)
    assert told(answer) == ("complete", nodes("10.0.0.9"))


async def test_changes_are_seen_at_once(server: DnsServer) -> None:
    strategy = dns("app.test", resolver=resolver_for(server.port))
    assert (await ask(strategy)).kind == "failed"
    await server.set_records("app.test", "10.0.0.1")
    assert (await ask(strategy)).nodes == nodes("10.0.0.1")
    await server.set_records("app.test", "10.0.0.2", "fd00::2")
    assert (await ask(strategy)).nodes == nodes("10.0.0.2", "fd00::2")
    await server.set_records("app.test")
    assert (await ask(strategy)).kind == "failed"


async def test_several_names_make_one_answer(server: DnsServer) -> None:
    await server.set_records("a.test", "10.0.0.1", "10.0.0.2")
    await server.set_records("b.test", "10.0.0.2", "fd00::2")
    strategy = dns("a.test", "b.test", resolver=resolver_for(server.port))
    answer = await ask(strategy)
    assert told(answer) == ("complete", nodes("10.0.0.1", "10.0.0.2", "fd00::2"))
    await server.set_records("b.test")
    answer = await ask(strategy)
    assert told(answer) == ("partial", nodes("10.0.0.1", "10.0.0.2"))
    assert complaint(answer) == "b.test: no such name"


async def test_each_base_name_stands_at_each_address(server: DnsServer) -> None:
    await server.set_records("app.test", "10.0.0.1", "fd00::1")
    one = dns("app.test", basename="beam", resolver=resolver_for(server.port))
    two = dns("app.test", basename=["beam", "snake"], resolver=resolver_for(server.port))
    beams = nodes("10.0.0.1", "fd00::1", basename="beam")
    assert (await ask(one)).nodes == beams
    assert (await ask(two)).nodes == beams | nodes("10.0.0.1", "fd00::1", basename="snake")


async def test_what_is_no_nodes_address_is_left_out_and_told_once(
    server: DnsServer, caplog: pytest.LogCaptureFixture
) -> None:
    nobodys = ["0.0.0.0", "224.0.0.1", "::", "ff02::1"]  # noqa: S104 - read, not bound
    await server.set_records("app.test", "10.0.0.1", *nobodys)
    strategy = dns("app.test", resolver=resolver_for(server.port))
    with caplog.at_level(logging.WARNING, "barnacle_trio.strategies"):
        answers = [await ask(strategy), await ask(strategy)]
    for answer in answers:
        assert told(answer) == ("complete", nodes("10.0.0.1"))
    assert [record.getMessage() for record in caplog.records] == [
        f"dns('app.test'): left out what is no node's address: {', '.join(nobodys)}"
    ]


class TestSearchDomains:
    async def test_a_bare_name_is_completed(self, server: DnsServer) -> None:
        await server.set_records("app.test", "10.0.0.1")
        resolver = resolver_for(server.port, search=["missing.test", "test"])
        answer = await ask(dns("app", resolver=resolver))
        assert told(answer) == ("complete", nodes("10.0.0.1"))

    async def test_a_name_with_a_dot_at_its_end_is_not(self, server: DnsServer) -> None:
        await server.set_records("app.test.test", "10.0.0.1")
        resolver = resolver_for(server.port, search=["test"])
        assert (await ask(dns("app.test", resolver=resolver))).kind == "complete"
        assert (await ask(dns("app.test.", resolver=resolver))).kind == "failed"

    async def test_enough_dots_make_the_name_come_first(self, server: DnsServer) -> None:
        await server.set_records("a.test", "10.0.0.1")
        await server.set_records("a.test.test", "10.0.0.2")
        first = resolver_for(server.port, search=["test"])
        last = resolver_for(server.port, search=["test"], ndots=5)
        assert (await ask(dns("a.test", resolver=first))).nodes == nodes("10.0.0.1")
        assert (await ask(dns("a.test", resolver=last))).nodes == nodes("10.0.0.2")

    async def test_a_name_that_exists_without_addresses_ends_the_search(
        self, server: DnsServer
    ) -> None:
        await server.set_records("empty.sub.test", "10.0.0.1")
        resolver = resolver_for(server.port, search=["test", "sub.test"])
        answer = await ask(dns("empty", resolver=resolver))
        assert told(answer) == ("complete", set())

    async def test_nowhere_found_is_one_failure(self, server: DnsServer) -> None:
        resolver = resolver_for(server.port, search=["test", "sub.test"], ndots=9)
        answer = await ask(dns("x.test", resolver=resolver))
        assert (answer.kind, complaint(answer)) == ("failed", "x.test: no such name")

    async def test_what_is_found_behind_a_failure_is_partial(self, server: DnsServer) -> None:
        await server.set_records("app.test", "10.0.0.1")
        resolver = resolver_for(server.port, search=["refused.example", "test"])
        answer = await ask(dns("app", resolver=resolver))
        assert told(answer) == ("partial", nodes("10.0.0.1"))
        assert "REFUSED" in complaint(answer)


class TestSystemResolver:
    """The host's own configuration, here a file of the test with a port added."""

    @pytest.fixture
    def resolv_conf(
        self, server: DnsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Path:
        path = tmp_path / "resolv.conf"

        def configured(file: str) -> Resolver:
            assert file == "/etc/resolv.conf"
            resolver = Resolver(str(path))
            resolver.port = server.port
            return resolver

        monkeypatch.setattr(_lookup, "Resolver", configured)
        return path

    async def test_its_search_list_counts(self, server: DnsServer, resolv_conf: Path) -> None:
        await trio.Path(resolv_conf).write_text("search missing.test test\nnameserver 127.0.0.1\n")
        await server.set_records("app.test", "10.0.0.1")
        answer = await ask(dns("app"))
        assert told(answer) == ("complete", nodes("10.0.0.1"))

    async def test_it_is_read_anew_for_each_answer(
        self, server: DnsServer, resolv_conf: Path
    ) -> None:
        strategy = dns("app")
        await server.set_records("app.test", "10.0.0.1")
        assert (await ask(strategy)).kind == "failed"
        await trio.Path(resolv_conf).write_text("search test\nnameserver 127.0.0.1\n")
        assert (await ask(strategy)).kind == "complete"

    @pytest.mark.parametrize(
        "text", ["", "search test\n", "nameserver nonsense\n", f"search {'x' * 70}\n"]
    )
    async def test_an_unusable_one_is_a_failure(self, resolv_conf: Path, text: str) -> None:
        await trio.Path(resolv_conf).write_text(text)
        answer = await ask(dns("app"))
        assert answer.kind == "failed"
        assert "no usable resolver configuration" in complaint(answer)


@pytest.mark.parametrize(
    "queries",
    [
        (),
        ("",),
        (".",),
        ("a..b",),
        ("x" * 64,),
        (".".join(["x" * 60] * 5),),
        ("app@my-app.internal",),
        ("10.0.0.1",),
        ("fd00::1",),
        (b"app.test",),
    ],
)
def test_what_is_no_name_is_refused_at_the_call(queries: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError):
        dns(*queries)


@pytest.mark.parametrize("basename", ["", "a@b", "a b", "ä", "x" * 230, [], ["a", ""]])
def test_what_is_no_base_name_is_refused_at_the_call(basename: str | list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"base ?name"):
        dns("app.test", basename=basename)


@pytest.mark.parametrize("records", ["A", (), ("a",), ("A", "SRV")])
def test_other_record_types_are_refused_at_the_call(records: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="records"):
        dns("app.test", records=records)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_that_is_none_is_refused_at_the_call(timeout: float) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        dns("app.test", timeout=timeout)


def test_a_resolver_of_another_library_is_refused_at_the_call() -> None:
    with pytest.raises(ConfigurationError, match="resolver"):
        dns("app.test", resolver="127.0.0.1")  # type: ignore[arg-type]


def test_its_repr_is_its_call() -> None:
    assert repr(dns("my-app.internal", "b.internal")) == "dns('my-app.internal', 'b.internal')"


async def test_more_addresses_than_the_bound_are_a_partial_answer(
    server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("barnacle_trio.strategies._by_dns.MAX_HOSTS", 2)
    await server.set_records("app.test", "10.0.0.1", "10.0.0.2", "10.0.0.3")
    with pytest.raises(DiscoveryError, match="more than 2 hosts") as caught:
        await dns("app.test", resolver=resolver_for(server.port))(LOCAL)
    assert set(caught.value.partial or ()) == nodes("10.0.0.1", "10.0.0.2")
