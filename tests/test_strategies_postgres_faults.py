"""The `postgres` strategy while its server fails it in every way: real ones, where one can."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from barnacle_trio import (
    DiscoveryError,
    Event,
    NodeDown,
    NodeName,
    Refreshed,
    RefreshFailed,
    Strategy,
    open_barnacle,
    postgres,
)
from barnacle_trio._strategy import ServedStrategy
from barnacle_trio.strategies import _postgres_connection, _postgres_dsn, _postgres_service
from barnacle_trio.strategies._postgres_connection import Connection, connect
from barnacle_trio.strategies._postgres_dsn import conninfo
from barnacle_trio.testing import EventRecorder, MemoryNetwork
from tests.checkpoints import cancel_at_every_checkpoint
from tests.ports import free_port
from tests.postgres_server import HOST, PASSWORD, USER, PostgresServer, postgres_cluster, running

DEADLINE = 30
ME = NodeName("me@10.0.0.1")
FRIEND = NodeName("friend@10.0.0.2")


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgresServer]:
    with postgres_cluster() as server:
        yield server


@pytest.fixture
async def server(cluster: PostgresServer) -> AsyncIterator[PostgresServer]:
    async with running(cluster):
        with trio.fail_after(DEADLINE):
            yield cluster


IMPATIENCE = 1.5
"""Seconds; a server that recovers on a machine that is busy answers within them."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every deadline of the strategy's own, shortened."""
    monkeypatch.setattr(_postgres_connection, "ANSWER_WITHIN", IMPATIENCE)
    monkeypatch.setattr(_postgres_service, "ANSWER_WITHIN", IMPATIENCE)
    monkeypatch.setattr(_postgres_service, "LONGEST_PAUSE", 1.0)
    monkeypatch.setattr(_postgres_dsn, "CONNECT_WITHIN", IMPATIENCE)


@asynccontextmanager
async def serving(strategy: Strategy, local: NodeName = ME) -> AsyncIterator[Strategy]:
    assert isinstance(strategy, ServedStrategy)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(strategy.serve, local, changed=lambda: None))
        yield strategy
        nursery.cancel_scope.cancel("the test is over")


async def refusal(strategy: Strategy) -> str:
    async with serving(strategy):
        with pytest.raises(DiscoveryError) as caught:
            await strategy(ME)
    assert caught.value.partial is None
    return caught.value.reason


async def complaint(strategy: Strategy) -> str:
    try:
        await strategy(ME)
    except DiscoveryError as error:
        return error.reason
    return ""


async def until_answered(strategy: Strategy) -> set[str]:
    while await complaint(strategy):  # noqa: ASYNC110 - as a barnacle does
        await trio.sleep(0.02)
    return set(await strategy(ME))


def lines(caplog: pytest.LogCaptureFixture, barnacle: str) -> list[str]:
    """What one barnacle's log says of discovery."""
    mark = f"[{barnacle}] discovery"
    return [
        text.removeprefix(f"[{barnacle}] ")
        for text in (record.getMessage() for record in caplog.records)
        if text.startswith(mark)
    ]


# -- outages --------------------------------------------------------------------------------------


def _is_from(barnacle: str, after: float, event: Event) -> bool:
    return event.barnacle == barnacle and event.at > after


@pytest.mark.parametrize("how", ["kill", "stop", "freeze"])
async def test_an_outage_of_three_rounds_costs_nobody_and_two_lines(
    server: PostgresServer, how: str, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    network, recorder = MemoryNetwork(), EventRecorder()
    # The pace of a test: whoever is forgotten for half a second would be pruned.
    strategy = partial(postgres, server.dsn(), interval=0.2, expire_after=0.5)
    open_impatient = partial(
        open_barnacle, poll_interval=0.3, prune_after=0.5, max_prune=1, listener=recorder.send
    )
    async with (
        network.open_node(ME) as me,
        network.open_node(FRIEND) as friend,
        open_impatient(strategy(), me, name="mine") as mine,
        open_impatient(strategy(), friend, name="theirs") as theirs,
    ):
        for barnacle in (mine, theirs):
            await barnacle.wait_for_nodes(1)
        if how == "freeze":
            server.freeze()
        elif how == "kill":
            await server.kill()
        else:
            await server.stop()
        for each in ("mine", "theirs"):
            await recorder.wait_for(RefreshFailed, partial(_is_from, each, 0))
        await trio.sleep(3 * 0.3)  # three rounds
        if how == "freeze":
            server.thaw()
        else:
            await server.start()
        back = trio.current_time()
        for each in ("mine", "theirs"):
            await recorder.wait_for(Refreshed, partial(_is_from, each, back))
        await trio.sleep(1.5)  # long enough for whoever was forgotten to be pruned
        assert mine.nodes.value == {FRIEND}
        assert theirs.nodes.value == {ME}
        assert mine.status().restarts == theirs.status().restarts == 0
    assert not recorder.of(NodeDown)[:-2]
    assert {event.reason for event in recorder.of(NodeDown)} <= {"left", "closed_by_us"}
    for name in ("mine", "theirs"):
        down, up = lines(caplog, name)
        assert down.startswith("discovery failed: 'PostgreSQL: ")
        assert up == "discovery works again"


async def test_sessions_that_are_ended_are_replaced_at_once(server: PostgresServer) -> None:
    async with serving(postgres(server.dsn())) as strategy:
        await strategy(ME)
        await server.execute("SELECT pg_notify('barnacle', %s)", FRIEND)
        for _ in range(3):
            (pid,) = await server.sessions()
            await server.execute("SELECT pg_terminate_backend(%s)", pid)
            with trio.fail_after(5):
                while (pids := await server.sessions()) == [pid] or not pids:  # noqa: ASYNC110
                    await trio.sleep(0.01)
        # It was heard before, and not since.
        assert await until_answered(strategy) == {FRIEND}
        assert len(await server.sessions()) == 1


async def test_nobodys_name_expires_by_an_outage(server: PostgresServer, impatient: None) -> None:
    async with serving(postgres(server.dsn(), interval=0.1, expire_after=1)) as strategy:
        await strategy(ME)
        await server.execute("SELECT pg_notify('barnacle', %s)", FRIEND)
        while not await strategy(ME):  # noqa: ASYNC110 - it is on its way
            await trio.sleep(0.01)
        await server.kill()
        await trio.sleep(1)
        await server.start()
        assert await until_answered(strategy) == {FRIEND}
        await trio.sleep(0.5)  # some heartbeats of one's own
        assert set(await strategy(ME)) == {FRIEND}
        while await strategy(ME):  # noqa: ASYNC110 - now it does
            await trio.sleep(0.02)


async def test_an_outage_is_no_storm(
    server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "barnacle_trio.strategies")
    async with serving(postgres(server.dsn())) as strategy:
        await strategy(ME)
        await server.kill()
        caplog.clear()
        await trio.sleep(3)
        tries = [record for record in caplog.records if "refused" in record.getMessage()]
    assert 1 <= len(tries) <= 20  # full jitter of 0.2 s, doubling


# -- servers that say no --------------------------------------------------------------------------


async def test_a_wrong_password_is_clear_and_never_shown(
    server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    network = MemoryNetwork()
    strategy = postgres(server.dsn(password="open-barley"))
    async with network.open_node(ME) as me, open_barnacle(strategy, me) as barnacle:
        with pytest.raises(DiscoveryError) as caught:
            await barnacle.refresh()
        told = [repr(strategy), str(caught.value), repr(caught.value), repr(barnacle.status())]
    told += [record.getMessage() for record in caplog.records]
    told += [str(error) for error in (caught.value.__cause__, caught.value.__context__)]
    assert f'password authentication failed for user "{USER}"' in caught.value.reason
    assert str(server.port) in caught.value.reason
    assert not [text for text in told if "open-barley" in text]


async def test_no_password_at_all_is_clear(server: PostgresServer) -> None:
    dsn = server.dsn().replace(f"password={PASSWORD}", "passfile=/nowhere")
    assert "no password supplied" in await refusal(postgres(dsn))


async def test_no_such_database_is_clear(server: PostgresServer) -> None:
    reason = await refusal(postgres(server.dsn(dbname="typo")))
    assert 'database "typo" does not exist' in reason


async def test_a_role_that_may_not_notify_is_clear(server: PostgresServer) -> None:
    await server.execute("REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM PUBLIC")
    await server.execute(f"DROP ROLE IF EXISTS poor; CREATE ROLE poor LOGIN PASSWORD '{PASSWORD}'")
    try:
        reason = await refusal(postgres(server.dsn(user="poor")))
    finally:
        with trio.move_on_after(5, shield=True):
            await server.execute("GRANT EXECUTE ON FUNCTION pg_notify(text, text) TO PUBLIC")
    assert "permission denied for function pg_notify" in reason


async def test_what_is_to_be_mended_is_told_even_during_an_outage(
    server: PostgresServer, impatient: None
) -> None:
    async with serving(postgres(server.dsn(), interval=0.2)) as strategy:
        await strategy(ME)
        await server.execute("ALTER ROLE my_user PASSWORD 'another'")
        await server.stop()
        await server.start()
        try:
            while "password authentication failed" not in await complaint(strategy):  # noqa: ASYNC110
                await trio.sleep(0.02)
        finally:
            with trio.move_on_after(5, shield=True):
                await server.execute(f"ALTER ROLE my_user PASSWORD '{PASSWORD}'")
        await until_answered(strategy)


async def test_a_standby_says_no_until_it_is_promoted(
    server: PostgresServer, impatient: None
) -> None:
    await server.stop()
    (server.folder / "data" / "standby.signal").touch()
    await server.start()
    async with serving(postgres(server.dsn())) as strategy:
        with pytest.raises(DiscoveryError, match="cannot execute LISTEN during recovery"):
            await strategy(ME)
        await server.execute("SELECT pg_promote()")
        assert await until_answered(strategy) == set()


async def test_a_pooler_that_shares_sessions_is_found_out_here_by_a_listen_that_is_lost(
    server: PostgresServer, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stands in for such a pooler: the statement succeeds, in a session that is not ours."""

    async def listen(_connection: Connection, _channel: str) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Connection, "listen", listen)
    assert "did not hand on a notification" in await refusal(postgres(server.dsn()))


# -- servers that are not there -------------------------------------------------------------------


async def test_the_first_server_that_takes_us_is_used(
    server: PostgresServer, impatient: None
) -> None:
    async with trio.open_nursery() as nursery:
        silent = (await nursery.start(trio.serve_tcp, _never, 0))[0].socket.getsockname()[1]
        ports = f"{free_port()},{silent},{server.port}"
        dsn = server.dsn(host=f"{HOST},{HOST},{HOST}", port=ports)
        async with serving(postgres(dsn)) as strategy:
            assert set(await strategy(ME)) == set()
        nursery.cancel_scope.cancel()


async def _never(_stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def test_one_that_accepts_and_never_answers_has_a_deadline(impatient: None) -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, _never, 0, host=HOST))
        port = listeners[0].socket.getsockname()[1]
        reason = await refusal(postgres(f"host={HOST} port={port} dbname=x"))
        nursery.cancel_scope.cancel()
    assert reason == f"PostgreSQL: {HOST} does not answer within {IMPATIENCE:g} s"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 100, b"E\x7f\xff"])
async def test_one_that_is_no_postgres(impatient: None, answer: bytes) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, talk, 0, host=HOST))
        port = listeners[0].socket.getsockname()[1]
        reason = await refusal(postgres(f"host={HOST} port={port} dbname=x"))
        nursery.cancel_scope.cancel()
    assert reason.isprintable()
    assert len(reason) < 400


async def test_a_name_that_nobody_knows(impatient: None) -> None:
    assert "db.invalid: " in await refusal(postgres("host=db.invalid"))


async def test_all_that_failed_are_told_once_each() -> None:
    port = free_port()
    reason = await refusal(postgres(f"host={HOST},{HOST} port={port} dbname=x"))
    assert reason.count("Connection refused") == 1


# -- TLS ------------------------------------------------------------------------------------------


async def test_tls_is_checked_as_the_dsn_says(cluster: PostgresServer, tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    stranger.cert_pem.write_to_path(tmp_path / "stranger.pem")
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    files = cluster.write_certificate(certificate)
    async with running(cluster, "ssl=on", *files):
        with trio.fail_after(DEADLINE):
            dsn = cluster.dsn(host="localhost", sslmode="verify-full")
            async with serving(postgres(f"{dsn} sslrootcert={tmp_path}/ca.pem")) as strategy:
                assert set(await strategy(ME)) == set()
                used = await cluster.execute("SELECT count(*) FROM pg_stat_ssl WHERE ssl")
            reason = await refusal(postgres(f"{dsn} sslrootcert={tmp_path}/stranger.pem"))
    assert used == [(1,)]
    assert "certificate verify failed" in reason


# -- cancellation ---------------------------------------------------------------------------------


def _sockets() -> int:
    return sum(1 for each in Path("/proc/self/fd").iterdir() if _is_socket(each))


def _is_socket(entry: Path) -> bool:
    try:
        return str(entry.readlink()).startswith("socket:")
    except OSError:
        return False


async def test_cancelled_anywhere_it_leaves_no_socket(server: PostgresServer) -> None:
    given = conninfo(
        {
            "host": HOST,
            "port": str(server.port),
            "user": USER,
            "password": PASSWORD,
            "dbname": "my_app",
        }
    )

    async def converse() -> None:
        connection = await connect(given, within=5)
        try:
            await connection.listen("barnacle")
            await connection.notify("barnacle", ME)
            assert [each.payload for each in connection.receive_nowait()] == [ME.encode()]
        finally:
            connection.close()

    await converse()
    before = _sockets()

    async def check() -> None:
        await trio.lowlevel.checkpoint()
        assert _sockets() == before

    assert await cancel_at_every_checkpoint(converse, check) > 5
