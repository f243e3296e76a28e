"""TLS between nodes of ours."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import trio

from barnacle_trio import (
    ConfigurationError,
    FixedPort,
    HandshakeRefused,
    NodeName,
    TlsOptions,
    open_node,
)
from barnacle_trio.distribution._tls_stream import TlsStream
from tests.beam import COOKIE, unique
from tests.ports import free_port
from tests.tls_lab import DIAL, SERVE, Lab, eventually, open_sockets, two

pytestmark = pytest.mark.usefixtures("epmd_port")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def stranger(tmp_path: Path) -> Lab:
    """Another authority."""
    return Lab(tmp_path / "stranger")


@pytest.mark.parametrize("minimum", ["1.2", "1.3"])
async def test_two_nodes(lab: Lab, minimum: str) -> None:
    tls = lab.options(minimum_version=minimum)
    async with two(tls, tls) as (one, other):
        await one.connect(other.name)
        await other.nodes.wait_value(frozenset({one.name}))
        assert await one.ping(other.name)
        assert await other.ping(one.name)
        async with one.open_mailbox("inbox") as box:
            large = bytes(range(256)) * 20_000
            await other.send(("inbox", one.name), large)
            with trio.fail_after(5):
                assert await box.receive() == large


async def test_both_dial_at_once(lab: Lab) -> None:
    tls = lab.options()
    async with two(tls, tls) as (one, other):
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.connect, other.name)
                nursery.start_soon(other.connect, one.name)
            with trio.fail_after(5):
                await one.nodes.wait_value(frozenset({other.name}))
                await other.nodes.wait_value(frozenset({one.name}))
                await one.disconnect(other.name)
                await other.nodes.wait_value(frozenset())


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("::1", ["::1"]),
        ("localhost", ["localhost"]),
        ("localhost", ["elsewhere.test", "LOCALHOST"]),
    ],
)
async def test_certificates_for_addresses_and_for_names(
    lab: Lab, host: str, names: list[str]
) -> None:
    tls = lab.options(*names)
    async with (
        open_node(unique("one", host), cookie=COOKIE, tls=tls) as one,
        open_node(unique("other", host), cookie=COOKIE, tls=tls) as other,
    ):
        await one.connect(other.name)


async def test_a_fixed_port(lab: Lab) -> None:
    tls = lab.options("127.0.0.1", "127.0.0.2")
    agreed = FixedPort(free_port())
    async with (
        open_node(unique("one"), cookie=COOKIE, tls=tls, epmd=agreed) as one,
        open_node(unique("other", "127.0.0.2"), cookie=COOKIE, tls=tls, epmd=agreed) as other,
    ):
        await one.connect(other.name)


async def test_a_pair_of_certificates_one_for_each_role(lab: Lab) -> None:
    serve = lab.special("serve", addresses=["127.0.0.1"], usage=[SERVE])
    dial = lab.special("dial", addresses=["127.0.0.1"], usage=[DIAL])
    tls = TlsOptions(serve.cert, serve.key, lab.ca_file, client_cert=dial.cert, client_key=dial.key)
    async with two(tls, tls) as (one, other):
        await one.connect(other.name)


async def test_the_acknowledged_bytes_are_those_of_the_socket_below(lab: Lab) -> None:
    tls = lab.options()
    async with two(tls, tls) as (one, other):
        await one.connect(other.name)
        [connection] = one._peers
        assert isinstance(connection.stream, TlsStream)
        assert isinstance(connection.stream.transport_stream, trio.SocketStream)
        before = one._network.acknowledged(connection.stream)
        assert before is not None
        assert before > 0
        assert await one.ping(other.name)
        after = one._network.acknowledged(connection.stream)
        assert after is not None
        assert after > before
        unheard = one._network.unheard(connection.stream)
        assert unheard is not None
        assert 0 <= unheard < 30


async def test_nothing_is_written_past_tls(lab: Lab) -> None:
    tls = lab.options()
    async with two(tls, tls) as (one, other):
        await one.connect(other.name)
        await other.nodes.wait_value(frozenset({one.name}))
        assert [connection._fd for connection in (*one._peers, *other._peers)] == [-1, -1]


async def test_a_certificate_of_any_name_where_names_do_not_count(lab: Lab) -> None:
    tls = lab.options("shared.test", check_name="any")
    async with two(tls, tls) as (one, other):
        await one.connect(other.name)


async def test_a_check_of_ones_own(lab: Lab) -> None:
    asked: list[tuple[str, object]] = []

    def check(name: NodeName, found: Any) -> bool:
        asked.append((name, found["subject"]))
        return name.basename.startswith("dialled")

    tls = lab.options("shared.test", check_name=check)
    async with two(tls, tls) as (one, other):
        with pytest.raises(HandshakeRefused, match="does not allow this node"):
            await one.connect(other.name)
        assert [name for name, _ in asked[-2:]] == [other.name, one.name]


async def test_who_dials_needs_no_certificate_where_none_is_demanded(
    lab: Lab, stranger: Lab
) -> None:
    lenient = lab.options(client_certificates=False)
    unknown = stranger.options(ca=lab.ca_file)
    async with two(unknown, lenient) as (one, other):
        await one.connect(other.name)


async def test_the_password_shows_nowhere(
    lab: Lab, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    tls = lab.encrypted("open sesame")
    assert "open " not in repr(tls)
    async with two(tls, tls) as (one, other):
        await one.connect(other.name)
        assert "open " not in repr(one)
    wrong = lab.encrypted("open sesame", password="open barley")
    with pytest.raises(ConfigurationError, match="password= does not fit") as caught:
        async with open_node(unique("py"), cookie=COOKIE, tls=wrong):
            raise AssertionError
    assert "open " not in str(caught.value)
    assert "open " not in caplog.text
    assert "PRIVATE KEY" not in caplog.text


async def test_a_dial_that_is_cancelled_at_any_point_leaves_no_socket(lab: Lab) -> None:
    tls = lab.options()
    async with two(tls, tls) as (one, other):
        await one.connect(other.name)
        await one.disconnect(other.name)
        await other.nodes.wait_value(frozenset())
        before = open_sockets()
        for number in range(40):
            with trio.move_on_after(number * 0.0005):
                await one.connect(other.name)
            await one.disconnect(other.name)
        await eventually(lambda: open_sockets() == before)
