"""The `postgres` strategy beside a real server: who meets whom, what is said and what is heard."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from barnacle_trio import (
    ConfigurationError,
    DiscoveryError,
    NodeName,
    Strategy,
    epmd,
    merge,
    open_barnacle,
    open_node,
    postgres,
    run_once,
)
from barnacle_trio._strategy import ServedStrategy, asked_by_nobody
from barnacle_trio.strategies._postgres_connection import Connection
from barnacle_trio.testing import FakeTransport, MemoryNetwork, check_strategy
from tests.postgres_server import PostgresServer, postgres_cluster, program, running

DEADLINE = 20
ME = NodeName("me@10.0.0.1")
ELIXIR = "elixir@10.0.0.5"


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgresServer]:
    with postgres_cluster() as server:
        yield server


@pytest.fixture
async def server(
    cluster: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PostgresServer]:
    monkeypatch.delenv("PGHOST", raising=False)
    async with running(cluster):
        with trio.fail_after(DEADLINE):
            yield cluster


class Served:
    """A strategy that is served, and how often it told of a change."""

    def __init__(self, strategy: Strategy, local: NodeName) -> None:
        self._strategy = strategy
        self._local = local
        self.told = trio.Event()

    async def ask(self) -> set[str]:
        return {str(name) for name in await self._strategy(self._local)}

    async def until(self, *names: str) -> None:
        """Wait until the answer is just these, as a barnacle does: by what it is told."""
        while True:
            self.told = trio.Event()
            if await self.ask() == set(names):
                return
            await self.told.wait()


@asynccontextmanager
async def serving(strategy: Strategy, local: str = ME) -> AsyncIterator[Served]:
    assert isinstance(strategy, ServedStrategy)
    served = Served(strategy, NodeName(local))
    async with trio.open_nursery() as nursery:
        serve = partial(strategy.serve, NodeName(local), changed=lambda: served.told.set())
        await nursery.start(serve)
        yield served
        nursery.cancel_scope.cancel("the test is over")


class Psql:
    """Another client: statements go in, and what it hears comes out."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._heard = b""

    async def run(self, *statements: str) -> None:
        """Have statements executed, in order; that they were is certain after `heard`."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all("".join(f"{each};\n" for each in statements).encode())

    async def heard(self) -> list[tuple[str, str]]:
        """Each channel and payload that was heard so far."""
        assert self._process.stdout is not None
        mark = f"mark {len(self._heard)}"
        await self.run(f"\\echo {mark}")
        await self.run("SELECT")
        await self.run(f"\\echo {mark}")
        while self._heard.count(mark.encode()) < 2:
            data = await self._process.stdout.receive_some()
            assert data, "psql has ended"
            self._heard += data
        said = r'notification "([^"]*)" with payload "([^"]*)"'
        return re.findall(said, self._heard.decode())


@asynccontextmanager
async def open_psql(server: PostgresServer) -> AsyncIterator[Psql]:
    process = await trio.lowlevel.open_process(
        [program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", server.dsn()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield Psql(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.aclose()
        await process.stdout.aclose()


# -- meeting --------------------------------------------------------------------------------------


async def test_three_barnacles_meet(server: PostgresServer, epmd_port: int) -> None:
    names = [f"n{number}@127.0.0.1" for number in range(3)]
    async with (
        open_node(names[0], cookie="my_cookie") as node0,
        open_node(names[1], cookie="my_cookie") as node1,
        open_node(names[2], cookie="my_cookie") as node2,
        open_barnacle(postgres(server.dsn()), node0) as one,
        open_barnacle(postgres(server.dsn()), node1) as two,
        open_barnacle(postgres(server.dsn()), node2) as three,
    ):
        for own, barnacle in zip(names, (one, two, three), strict=True):
            assert await barnacle.wait_for_nodes(2) == set(names) - {own}


async def test_a_newcomer_knows_all_long_before_the_next_heartbeats(
    server: PostgresServer,
) -> None:
    old = [f"old{number}@h" for number in range(5)]
    quiet = partial(postgres, server.dsn(), interval=600, expire_after=700)
    async with trio.open_nursery() as nursery:
        for name in old:
            strategy = quiet()
            assert isinstance(strategy, ServedStrategy)
            await nursery.start(partial(strategy.serve, NodeName(name), changed=lambda: None))
            await strategy(NodeName(name))
        async with serving(quiet()) as served:
            with trio.fail_after(10):
                await served.until(*old)
        nursery.cancel_scope.cancel()


async def test_one_strategy_serves_several_nodes(server: PostgresServer) -> None:
    strategy = postgres(server.dsn())
    async with serving(strategy, "a@h") as one, serving(strategy, "b@h") as two:
        await one.until("b@h")
        await two.until("a@h")


async def test_as_a_part_of_others_it_is_served_too(server: PostgresServer) -> None:
    async with (
        serving(postgres(server.dsn()), "friend@h"),
        serving(merge(postgres(server.dsn()), epmd(["known@h"]))) as served,
    ):
        await served.until("friend@h", "known@h")


async def test_one_round_waits_for_everybody(server: PostgresServer) -> None:
    network = MemoryNetwork()
    async with (
        network.open_node("me@h") as me,
        network.open_node("friend@h") as friend,
        open_barnacle(postgres(server.dsn(), interval=0.5), friend),
    ):
        result = await run_once(postgres(server.dsn(), interval=0.5), me)
        assert result.nodes == {"friend@h"}
        assert result.discovery_error is None


async def test_who_merely_asks_is_not_named(server: PostgresServer) -> None:
    strategy = postgres(server.dsn(), interval=0.3)
    assert isinstance(strategy, ServedStrategy)
    async with serving(postgres(server.dsn(), interval=0.3), "friend@h") as friend:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(strategy.serve, ME, changed=asked_by_nobody))
            assert set(await strategy(ME)) == {"friend@h"}
            await strategy.leave(ME)  # type: ignore[attr-defined]
            nursery.cancel_scope.cancel()
        assert set(await strategy(ME)) == {"friend@h"}  # nobody serves it
        assert await friend.ask() == set()
        assert len(await server.sessions()) == 1


async def test_it_keeps_to_what_a_barnacle_relies_on(server: PostgresServer) -> None:
    async with serving(postgres(server.dsn()), "friend@h"):
        answer = await check_strategy(postgres(server.dsn()), ME)
    assert answer.kind == "complete"


async def test_no_threads_for_an_address(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_sync(*_anything: object, **_more: object) -> None:
        raise AssertionError("a thread was used")

    async with serving(postgres(server.dsn()), "friend@h") as friend:
        with monkeypatch.context() as patch:
            patch.setattr(trio.to_thread, "run_sync", run_sync)
            async with serving(postgres(server.dsn())) as served:
                await served.until("friend@h")
                await friend.until(ME)


# -- the wire of libcluster_postgres --------------------------------------------------------------


@pytest.mark.parametrize("channel", ["my_cluster", "MyCluster", "GVCUKRKCWPNFMZTPQMSM"])
@pytest.mark.parametrize("quote", ["", '"'])
async def test_psql_playing_libcluster_postgres_by_its_statements(
    server: PostgresServer, channel: str, quote: str
) -> None:
    """Stands in for a BEAM: it listens with quotes; versions of it notify with and without."""
    async with open_psql(server) as elixir:
        await elixir.run(f'LISTEN "{channel}"')
        assert await elixir.heard() == []
        strategy = postgres(server.dsn(), channel=channel, interval=0.2, expire_after=600)
        async with serving(strategy) as served:
            await served.ask()
            await elixir.run(f"NOTIFY {quote}{channel}{quote}, '{ELIXIR}'")
            await served.until(ELIXIR)
            assert isinstance(strategy, ServedStrategy)
            await strategy.leave(ME)  # type: ignore[attr-defined]
        heard = await elixir.heard()
    assert set(heard) - {(channel, ELIXIR)} == {(channel, ME)}  # no goodbye: it would be dialled


async def test_a_goodbye_is_heard_and_is_the_last_word(server: PostgresServer) -> None:
    strategy = postgres(server.dsn(), interval=0.1, expire_after=600)
    async with (
        open_psql(server) as psql,
        serving(postgres(server.dsn())) as served,
        serving(strategy, "friend@h"),
    ):
        await served.until("friend@h")
        await strategy.leave(NodeName("friend@h"))  # type: ignore[attr-defined]
        await served.until()
        await psql.run('LISTEN "barnacle"', 'LISTEN "barnacle_bye"')
        await psql.heard()  # it listens
        async with serving(postgres(server.dsn()), "newcomer@h") as newcomer:
            await newcomer.until(ME)
            await served.until("newcomer@h")
        names = {payload for _channel, payload in await psql.heard()}
        assert "newcomer@h" in names
        assert "friend@h" not in names


async def test_a_goodbye_is_said_though_the_word_before_it_is_not_answered_yet(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    notify = Connection.notify

    async def notify_slowly(self: Connection, channel: str, payload: str) -> None:
        await notify(self, channel, payload)
        await trio.sleep(0.5)

    strategy = postgres(server.dsn(), expire_after=600)
    async with serving(postgres(server.dsn(), expire_after=600)) as served:
        await served.ask()
        monkeypatch.setattr(Connection, "notify", notify_slowly)
        async with serving(strategy, "friend@h"):
            await served.until("friend@h")
            await strategy.leave(NodeName("friend@h"))  # type: ignore[attr-defined]
        await served.until()


async def test_draining_says_goodbye(server: PostgresServer) -> None:
    transport = FakeTransport("friend@h")
    async with (
        serving(postgres(server.dsn(), expire_after=600)) as served,
        open_barnacle(postgres(server.dsn()), transport) as barnacle,
    ):
        await served.until("friend@h")
        await barnacle.drain(grace=1)
        await served.until()


# -- who is heard ---------------------------------------------------------------------------------


async def test_who_falls_silent_expires(server: PostgresServer) -> None:
    async with serving(postgres(server.dsn(), interval=0.1, expire_after=0.4)) as served:
        await served.ask()
        await server.execute("SELECT pg_notify('barnacle', 'silent@h')")
        await served.until("silent@h")
        await served.until()


async def test_match_chooses(server: PostgresServer) -> None:
    async with serving(postgres(server.dsn(), match="worker_*")) as served:
        await served.ask()
        for name in ("stranger@h", "worker_1@h"):
            await server.execute("SELECT pg_notify('barnacle', %s)", name)
        await served.until("worker_1@h")


async def test_clusters_keep_apart_by_channels(server: PostgresServer) -> None:
    async with (
        serving(postgres(server.dsn(), channel="a")) as one,
        serving(postgres(server.dsn(), channel="b"), "other@h") as other,
        serving(postgres(server.dsn(), channel="a"), "third@h"),
    ):
        await one.until("third@h")
        assert await other.ask() == set()


async def test_junk_is_counted_and_told_of_once(
    server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(postgres(server.dsn())) as served:
        await served.ask()
        for junk in ("nonsense", "", "\n\x1b[31m@h", "x" * 7999, "{}"):
            await server.execute("SELECT pg_notify('barnacle', %s)", junk)
        await server.execute("SELECT pg_notify('barnacle', 'friend@h')")
        await served.until("friend@h")
    warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "'nonsense' is no node name" in warnings[0]


async def test_a_flood_of_names_is_bounded_and_partial(
    server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(postgres(server.dsn(), max_nodes=10)) as served:
        await served.ask()
        flood = "SELECT pg_notify('barnacle', 'n' || i || '@h') FROM generate_series(1, 20000) i"
        await server.execute(flood)
        await served.told.wait()
        with pytest.raises(DiscoveryError, match="more than 10 nodes") as caught:
            await served.ask()
    assert caught.value.partial is not None
    assert len(caught.value.partial) == 10
    warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "more than 10 nodes; 'n11@h' is left out" in warnings[0]


# -- calls that cannot work -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"channel": ""}, "channel is 1 to 63 printable ASCII characters"),
        ({"channel": "x" * 64}, "channel is 1 to 63"),
        ({"channel": "größe"}, "channel is 1 to 63"),
        ({"channel": "a\nb"}, "channel is 1 to 63"),
        ({"interval": 0}, "interval is a positive number of seconds, not 0"),
        ({"interval": float("inf")}, "interval is"),
        ({"interval": float("nan")}, "interval is"),
        ({"expire_after": 5}, "expire_after is more than the interval of 5 of seconds"),
        ({"max_nodes": 0}, "max_nodes is a whole number, at least 1, not 0"),
        ({"match": 7}, "match is a glob"),
    ],
)
def test_what_cannot_work_is_said_at_once(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(complaint)):
        postgres("", **options)  # type: ignore[arg-type]


async def test_a_channel_may_be_called_anything(server: PostgresServer) -> None:
    for channel in ('a "quoted" one; --', "x" * 63, "SELECT"):
        async with (
            serving(postgres(server.dsn(), channel=channel)) as one,
            serving(postgres(server.dsn(), channel=channel), "friend@h"),
        ):
            await one.until("friend@h")


def test_without_psycopg_it_says_what_to_install() -> None:
    program = """
import sys
sys.modules["psycopg"] = None
from barnacle_trio import ConfigurationError, postgres
assert not [name for name in sys.modules if "psycopg" in name and sys.modules[name]]
try:
    postgres("")
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pip install 'barnacle-trio[postgres]'" in done.stdout
