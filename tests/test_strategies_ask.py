"""`ASK`: nodes found by what the port mappers at discovered addresses list."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio import ASK, NodeName, Strategy, dns, dns_srv, open_barnacle, open_node
from barnacle_trio._errors import ConfigurationError, PeerUnreachable, RemoteProtocolError
from barnacle_trio._names import matcher
from barnacle_trio._strategy import Discovery, discover
from barnacle_trio.epmd._wire import NamesAnswer
from barnacle_trio.strategies import _ask
from barnacle_trio.strategies._ask import Named, Naming, names_at
from tests.beam import COOKIE, open_beam
from tests.cluster_lab import PATIENCE, sees
from tests.dns_server import DnsServer, open_dns_server, resolver_for
from tests.epmd_lab import real_epmd
from tests.epmd_members import registered
from tests.erlang import Erlang

LOCAL = NodeName("my_app@127.0.0.1")
HERE, THERE, ELSEWHERE = "127.0.0.1", "127.0.0.2", "127.0.0.3"


@pytest.fixture
async def mapper(epmd_port: int) -> AsyncIterator[trio.Process]:
    """OTP's own port mapper, at two addresses (it listens at the first in any case)."""
    async with real_epmd(epmd_port, "-address", THERE) as process:
        yield process


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[DnsServer]:
    async with open_dns_server(tmp_path) as server:
        yield server


async def ask(strategy: Strategy) -> Discovery:
    with trio.fail_after(PATIENCE):
        return await discover(strategy, LOCAL)


async def ask_at(*hosts: str) -> Named:
    with trio.fail_after(PATIENCE):
        return await names_at(hosts, LOCAL, wanted=matcher(None))


def told(answer: Discovery) -> tuple[str, set[str]]:
    return answer.kind, set(answer.nodes)


class TestWhatIsListed:
    async def test_every_node_at_every_address_save_oneself(
        self, mapper: trio.Process, server: DnsServer
    ) -> None:
        await server.set_records("app.test", HERE, THERE)
        strategy = dns("app.test", basename=ASK, resolver=resolver_for(server.port))
        async with registered("my_app", "shop-01JAB3"):
            # my_app at the other address is somebody else: only whole names are names
            assert told(await ask(strategy)) == (
                "complete",
                {f"shop-01JAB3@{HERE}", f"my_app@{THERE}", f"shop-01JAB3@{THERE}"},
            )
        async with registered("shop-01JAB4"):  # a new image, another name
            assert told(await ask(strategy)) == (
                "complete",
                {f"shop-01JAB4@{HERE}", f"shop-01JAB4@{THERE}"},
            )
        assert told(await ask(strategy)) == ("complete", set())

    @pytest.mark.parametrize("match", ["shop-*", f"shop-*@{HERE}", lambda name: "s" in name])
    async def test_a_match_chooses(
        self, mapper: trio.Process, server: DnsServer, match: str
    ) -> None:
        await server.set_records("app.test", HERE)
        resolver = resolver_for(server.port)
        strategy = dns("app.test", basename=ASK, match=match, resolver=resolver)
        async with registered("shop-1", "rem-b2", "other"):
            assert told(await ask(strategy)) == ("complete", {f"shop-1@{HERE}"})

    async def test_nobody_to_ask_is_a_complete_empty_answer(
        self, epmd_port: int, server: DnsServer
    ) -> None:
        strategy = dns("empty.test", basename=ASK, resolver=resolver_for(server.port))
        assert told(await ask(strategy)) == ("complete", set())

    async def test_hosts_of_srv_records_are_asked_by_their_names(
        self, mapper: trio.Process, server: DnsServer
    ) -> None:
        await server.set_targets("app.test", "pod-0.app.test")
        trio.socket.set_custom_hostname_resolver(Hosts({"pod-0.app.test": THERE}))
        strategy = dns_srv("app.test", basename=ASK, resolver=resolver_for(server.port))
        async with registered("shop-1", "snake"):
            assert told(await ask(strategy)) == (
                "complete",
                {"shop-1@pod-0.app.test", "snake@pod-0.app.test"},
            )

    async def test_a_host_that_the_system_cannot_resolve_is_a_failure(
        self, mapper: trio.Process, server: DnsServer
    ) -> None:
        await server.set_targets("app.test", "pod-0.app.test", "pod-1.app.test")
        trio.socket.set_custom_hostname_resolver(Hosts({"pod-1.app.test": THERE}))
        strategy = dns_srv("app.test", basename=ASK, resolver=resolver_for(server.port))
        async with registered("snake"):
            answer = await ask(strategy)
        assert told(answer) == ("partial", {"snake@pod-1.app.test"})
        assert "no address is known for 'pod-0.app.test'" in str(answer.error)


class Hosts(trio.abc.HostnameResolver):
    """Where hosts are, in place of the system's own knowledge."""

    def __init__(self, known: dict[str, str]) -> None:
        self._known = known

    async def getaddrinfo(  # type: ignore[override]  # of all that it may be asked, this is
        self, host: bytes, port: int, *_more: object
    ) -> list[tuple[object, ...]]:
        await trio.lowlevel.checkpoint()
        try:
            address = self._known[host.decode()]
        except KeyError:
            raise socket.gaierror(socket.EAI_NONAME, "no such host") from None
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    async def getnameinfo(self, sockaddr: object, flags: int) -> tuple[str, str]:
        raise NotImplementedError


Behaviour = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def scripted(address: str, port: int, behave: Behaviour) -> AsyncIterator[None]:
    """A port mapper at an address that does what a test says once it is asked."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            with suppress(trio.BrokenResourceError):
                await behave(stream)

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_tcp, handle, port, host=address))
        yield
        nursery.cancel_scope.cancel("the test is over")


async def silent(_stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


def says(*parts: bytes) -> Behaviour:
    async def behave(stream: trio.SocketStream) -> None:
        for part in parts:
            await stream.send_all(part)

    return behave


def listing(*basenames: str) -> bytes:
    lines = "".join(f"name {basename} at port 4000\n" for basename in basenames)
    return (4369).to_bytes(4) + lines.encode()


class TestFaults:
    """Port mappers that fail, beside one of OTP's that does not."""

    async def test_one_that_is_not_there_makes_the_answer_partial(
        self, mapper: trio.Process, server: DnsServer, epmd_port: int
    ) -> None:
        await server.set_records("app.test", THERE, ELSEWHERE)
        strategy = dns("app.test", basename=ASK, resolver=resolver_for(server.port))
        async with registered("snake"):
            answers = [await ask(strategy) for _ in range(2)]
        for answer in answers:
            assert told(answer) == ("partial", {f"snake@{THERE}"})
            assert answer.error is not None
            assert answer.error.reason == str(answers[0].error)  # one change of state, one line
            assert f"'{ELSEWHERE}', port {epmd_port}" in answer.error.reason
            assert isinstance(answer.error.__cause__, Exception)
            assert isinstance(answer.error.__cause__.__cause__, PeerUnreachable)

    async def test_if_none_is_there_it_failed(self, epmd_port: int, server: DnsServer) -> None:
        await server.set_records("app.test", *(f"127.0.0.{last}" for last in range(2, 10)))
        answer = await ask(dns("app.test", basename=ASK, resolver=resolver_for(server.port)))
        assert told(answer) == ("failed", set())
        assert str(answer.error).endswith("; and 5 more")

    @pytest.mark.parametrize(
        "behave",
        [
            says(),
            says(b"\0"),
            says(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            says(*([b"x" * 65536] * 40)),
        ],
        ids=["nothing", "one byte", "http", "endless"],
    )
    async def test_one_that_talks_nonsense_makes_it_partial(
        self, mapper: trio.Process, epmd_port: int, behave: Behaviour
    ) -> None:
        async with registered("snake"), scripted(ELSEWHERE, epmd_port, behave):
            named = await ask_at(THERE, ELSEWHERE)
        assert list(named.names) == [f"snake@{THERE}"]
        assert named.answered
        (error,) = named.errors
        assert isinstance(error.__cause__, (PeerUnreachable, RemoteProtocolError))

    async def test_one_that_stays_silent_holds_nobody_up(
        self, mapper: trio.Process, epmd_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_ask, "ASK_DEADLINE", 1.0)
        async with registered("snake"), scripted(ELSEWHERE, epmd_port, silent):
            named = await ask_at(ELSEWHERE, THERE)
        assert list(named.names) == [f"snake@{THERE}"]
        assert [error.reason for error in named.errors] == [
            f"the port mapper at '{ELSEWHERE}' gave no answer in time"
        ]

    async def test_many_silent_ones_leave_time_to_answer_in_virtual_time(
        self, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Functions are in the place of port mappers here, and of these there are a thousand."""

        async def ask_names(host: str, _port: int) -> NamesAnswer:
            if host != THERE:
                await trio.sleep_forever()
            await trio.lowlevel.checkpoint()
            return NamesAnswer({"snake": 4000}, 0)

        monkeypatch.setattr(_ask, "ask_names", ask_names)
        many = [f"127.0.{number // 250}.{number % 250 + 3}" for number in range(1000)]
        naming = Naming(ASK)
        answers = []
        for _ in range(5):
            with trio.fail_after(5):
                answers.append(await naming.names_at([*many, THERE], LOCAL))
        assert len(answers[0].errors) == 1001  # there was no time left for the last one
        # Those that were silent come last, so all the others have been asked after two rounds.
        for named in answers[1:]:
            assert list(named.names) == [f"snake@{THERE}"]
            assert len(named.errors) == 1000
            assert set(named.failing) == set(many)

    async def test_names_that_no_node_can_have_are_passed_over(
        self, mapper: trio.Process, epmd_port: int
    ) -> None:
        junk = b"name a@b at port 1\nname \0\xff at port 2\nnonsense\nname x at port 99999\n"
        behave = says(listing("good") + junk)
        async with scripted(ELSEWHERE, epmd_port, behave):
            named = await ask_at(ELSEWHERE)
        assert list(named.names) == [f"good@{ELSEWHERE}"]
        assert not named.errors

    async def test_more_names_than_the_bounds_make_it_partial(
        self, mapper: trio.Process, epmd_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_ask, "MAX_AT_ONE_HOST", 20)
        monkeypatch.setattr(_ask, "MAX_NAMES", 30)
        behave = says(listing(*(f"n{index}" for index in range(500))))
        async with AsyncExitStack() as stack:
            hosts = [f"127.0.1.{last}" for last in range(1, 4)]
            for host in hosts:
                await stack.enter_async_context(scripted(host, epmd_port, behave))
            named = await ask_at(*hosts)
        assert len(named.names) == 30
        assert sorted(int(error.reason.split()[-4]) for error in named.errors) == [480, 490, 500]

    async def test_a_port_that_is_none_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ERL_EPMD_PORT", "nonsense")
        with pytest.raises(ConfigurationError, match="ERL_EPMD_PORT"):
            await ask_at(HERE)


async def test_cancelled_it_leaves_no_connection(mapper: trio.Process, epmd_port: int) -> None:
    ended = trio.Event()

    async def wait_for_the_end(stream: trio.SocketStream) -> None:
        scope.cancel("it is asking")
        assert not await stream.receive_some()
        ended.set()

    async with scripted(ELSEWHERE, epmd_port, wait_for_the_end):
        with trio.CancelScope() as scope:
            await ask_at(ELSEWHERE)
        assert scope.cancelled_caught
        with trio.fail_after(PATIENCE):
            await ended.wait()


async def test_nodes_of_different_base_names_make_one_cluster(
    server: DnsServer, epmd_port: int, erlang: Erlang
) -> None:
    """A release that is deployed anew, under a name that nobody knew, beside nodes of ours."""

    def beam_at(address: str) -> tuple[str, ...]:
        tuple_form = address.replace(".", ",")
        return ("-kernel", "inet_dist_use_interface", f"{{{tuple_form}}}")

    await server.set_records("app.test", HERE, THERE, ELSEWHERE)
    strategy = dns("app.test", basename=ASK, resolver=resolver_for(server.port))
    async with (
        real_epmd(epmd_port),  # at all addresses of loopback, which are one host
        open_node(LOCAL, cookie=COOKIE) as node,
        open_node(f"snake@{THERE}", cookie=COOKIE) as snake,
        open_barnacle(strategy, node, poll_interval=0.2) as barnacle,
    ):

        async def wait_for(*names: str) -> None:
            with trio.fail_after(PATIENCE):
                await barnacle.nodes.wait_value(lambda nodes: nodes == set(names))

        for image in ("shop-01JAB3", "shop-01JAB4"):
            await wait_for(snake.name)
            name = f"{image}@{ELSEWHERE}"
            async with open_beam(erlang, name, flags=beam_at(ELSEWHERE)) as beam:
                await wait_for(snake.name, name)
                await sees(beam, LOCAL)
