"""What is wrong with certificates, and what else than TLS comes to a node that speaks it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from barnacle_trio import (
    CookieRejected,
    FixedPort,
    HandshakeRefused,
    PeerUnreachable,
    RemoteProtocolError,
    TlsOptions,
    open_node,
)
from barnacle_trio.distribution import _acceptor
from tests.beam import COOKIE, unique
from tests.tls_lab import DIAL, SERVE, YESTERDAY, Lab, eventually, port_of, two

pytestmark = pytest.mark.usefixtures("epmd_port")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def stranger(tmp_path: Path) -> Lab:
    """Another authority."""
    return Lab(tmp_path / "stranger")


Wrong = Callable[[Lab, Lab], TlsOptions]

WRONG: dict[str, tuple[Wrong, str, str]] = {
    "expired": (
        lambda lab, _: lab.special(addresses=["127.0.0.1"], not_after=YESTERDAY),
        "certificate has expired",
        "certificate expired",
    ),
    "not yet valid": (
        lambda lab, _: lab.special(
            addresses=["127.0.0.1"], not_before=YESTERDAY.replace(year=2999)
        ),
        "certificate is not yet valid",
        "bad certificate",
    ),
    "of another authority": (
        lambda lab, stranger: stranger.options(ca=lab.ca_file),
        "unable to get local issuer certificate",
        "unknown ca",
    ),
    "self-signed": (
        lambda lab, _: lab.special(addresses=["127.0.0.1"], self_signed=True),
        "self-signed certificate",
        "unknown ca",
    ),
    "for the other role": (
        lambda lab, _: TlsOptions(
            *pair(lab.special("dial", addresses=["127.0.0.1"], usage=[DIAL])),
            lab.ca_file,
            client_cert=lab.special("serve", addresses=["127.0.0.1"], usage=[SERVE]).cert,
            client_key=lab.special("serve", addresses=["127.0.0.1"], usage=[SERVE]).key,
        ),
        "unsuitable certificate purpose",
        "unsupported certificate",
    ),
}
"""Certificates, what is wrong with each in one's own words, and in the peer's alert."""


def pair(tls: TlsOptions) -> tuple[Any, Any]:
    return tls.cert, tls.key


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("minimum", ["1.2", "1.3"])
async def test_a_wrong_certificate_of_who_is_dialled(
    lab: Lab, stranger: Lab, caplog: pytest.LogCaptureFixture, what: str, minimum: str
) -> None:
    make, in_words, alert = WRONG[what]
    async with two(lab.options(minimum_version=minimum), make(lab, stranger)) as (one, other):
        with trio.fail_after(5), pytest.raises(HandshakeRefused, match=in_words) as caught:
            await one.connect(other.name)
        assert other.name in str(caught.value)
        assert caught.value.location is not None
        await said(caplog, f"the peer refused this node's TLS: {alert}")
        assert in_words in caplog.text, "a node tries its own certificate when it opens"


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("minimum", ["1.2", "1.3"])
async def test_a_wrong_certificate_of_who_dials(
    lab: Lab, stranger: Lab, caplog: pytest.LogCaptureFixture, what: str, minimum: str
) -> None:
    make, in_words, alert = WRONG[what]
    async with two(make(lab, stranger), lab.options(minimum_version=minimum)) as (one, other):
        caplog.clear()
        with trio.fail_after(5), pytest.raises(HandshakeRefused, match=alert) as caught:
            await one.connect(other.name)
        assert "refused this node's TLS" in str(caught.value)
        assert caught.value.location is not None
        await said(caplog, f"the peer: its certificate is refused: {in_words}")


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"]
)
async def test_who_dials_without_a_certificate(
    lab: Lab, caplog: pytest.LogCaptureFixture, version: ssl.TLSVersion
) -> None:
    context = ssl.create_default_context(cafile=lab.ca_file)
    context.maximum_version = version
    async with open_node(unique("py"), cookie=COOKIE, tls=lab.options()) as node:
        stream = await trio.open_ssl_over_tcp_stream(
            "127.0.0.1", await port_of(node), ssl_context=context
        )
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some(1)
        assert "alert" in str(caught.value.__cause__)
        await trio.aclose_forcefully(stream)
        await said(caplog, "the peer shows no certificate")


async def test_a_name_that_its_certificate_is_not_for_when_dialled(lab: Lab) -> None:
    async with two(lab.options(), lab.options("10.0.0.7", file="other")) as (one, other):
        with pytest.raises(HandshakeRefused, match=r"is for '10\.0\.0\.7', not for '127\.0\.0\.1'"):
            await one.connect(other.name)


async def test_a_name_that_its_certificate_is_not_for_when_dialling(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    async with two(lab.options("10.0.0.7", file="other"), lab.options()) as (one, other):
        with trio.fail_after(5), pytest.raises(HandshakeRefused, match="does not allow"):
            await one.connect(other.name)
        await said(
            caplog,
            f"{one.name} may not connect: its certificate is for '10.0.0.7', not for '127.0.0.1'",
        )


async def test_a_wrong_cookie_inside_tls(lab: Lab) -> None:
    tls = lab.options()
    async with (
        open_node(unique("one"), cookie="a_cookie_of_others", tls=tls) as one,
        open_node(unique("other"), cookie=COOKIE, tls=tls) as other,
    ):
        with pytest.raises(CookieRejected) as caught:
            await one.connect(other.name)
        assert caught.value.location == await one.locate(other.name)


async def test_no_version_in_common(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    context = ssl.create_default_context(cafile=lab.ca_file)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    tls = lab.options(minimum_version="1.3")
    async with open_node(unique("py"), cookie=COOKIE, tls=tls) as node:
        stream = await trio.open_ssl_over_tcp_stream(
            "127.0.0.1", await port_of(node), ssl_context=context
        )
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError) as caught:
            await stream.do_handshake()
        assert "protocol version" in str(caught.value.__cause__)
        await trio.aclose_forcefully(stream)
        await said(caplog, "have no TLS in common")


# -- plain against TLS, and strangers -------------------------------------------------------------


async def test_tls_dials_plain(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    async with two(lab.options(), None) as (one, other):
        with trio.fail_after(5), pytest.raises(PeerUnreachable, match="as a node without TLS does"):
            await one.connect(other.name)
        assert "the peer seems to speak TLS, which this node was not told to" in caplog.text


async def test_plain_dials_tls(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    async with two(None, lab.options()) as (one, other):
        with trio.fail_after(5), pytest.raises(RemoteProtocolError, match="speak TLS, which this"):
            await one.connect(other.name)
        await said(caplog, "the peer speaks no TLS, as a node without it does not")


async def test_something_else_than_tls_answers(lab: Lab) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n")
        await stream.receive_some()
        await stream.aclose()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.2")
    agreed = FixedPort(listeners[0].socket.getsockname()[1])
    async with (
        trio.open_nursery() as nursery,
        open_node(unique("py"), cookie=COOKIE, tls=lab.options(), epmd=agreed) as node,
    ):
        nursery.start_soon(trio.serve_listeners, answer, listeners)
        with pytest.raises(RemoteProtocolError, match="speaks no TLS"):
            await node.connect("ssh@127.0.0.2")
        nursery.cancel_scope.cancel()


async def test_who_is_silent_in_the_handshake_is_given_up(lab: Lab) -> None:
    async def hold(stream: trio.SocketStream) -> None:
        async with stream:
            async for _ in stream:
                pass

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.2")
    agreed = FixedPort(listeners[0].socket.getsockname()[1])
    node_options: dict[str, Any] = {"cookie": COOKIE, "tls": lab.options(), "epmd": agreed}
    async with (
        trio.open_nursery() as nursery,
        open_node(unique("py"), connect_timeout=0.3, **node_options) as node,
    ):
        nursery.start_soon(trio.serve_listeners, hold, listeners)
        with trio.fail_after(5), pytest.raises(PeerUnreachable, match="as a node without TLS does"):
            await node.connect("mute@127.0.0.2")
        nursery.cancel_scope.cancel()


GARBAGE = {
    "nothing": b"",
    "plain node": b"\x00\x20N" + bytes(31),
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "half a hello": bytes.fromhex("16030100a5010000a10303") + bytes(20),
    "broken hello": bytes.fromhex("1603010005") + b"hello",
    "endless hello": bytes.fromhex("16030140000100ffff0303") + bytes(16_000),
    "alert": bytes.fromhex("15030300020228"),
    "data first": bytes.fromhex("1703030010") + bytes(16),
    "zeros": bytes(100_000),
}


@pytest.mark.parametrize("what", GARBAGE)
async def test_garbage_instead_of_tls_closes_its_connection_alone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(_acceptor, "HANDSHAKE_TIMEOUT", 1.0)
    tls = lab.options()
    async with two(tls, tls) as (one, node):
        stream = await trio.open_tcp_stream("127.0.0.1", await port_of(node))
        with trio.fail_after(5):
            try:
                await stream.send_all(GARBAGE[what])
                answer = b"".join([bytes(part) async for part in stream])
            except trio.BrokenResourceError:
                answer = b""
        assert answer in (b"",) or answer[0] in (0x15, 0x16), "an alert, or a hello"
        await stream.aclose()
        await eventually(lambda: not node._doorkeeper.strangers)
        await one.connect(node.name)


async def test_half_open_handshakes_count_as_strangers_and_keep_nobody_out(lab: Lab) -> None:
    tls = lab.options()
    async with two(tls, tls) as (one, node):
        port = await port_of(node)
        strangers = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(300)]
        hello = bytes.fromhex("16030100a5010000a10303") + bytes(20)
        for stream in strangers[::2]:
            try:
                await stream.send_all(hello)
            except trio.BrokenResourceError:
                continue
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert 0 < node._doorkeeper.strangers <= _acceptor.MAX_STRANGERS
        with trio.fail_after(3):
            await one.connect(node.name)
        for stream in strangers:
            await trio.aclose_forcefully(stream)


async def said(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Wait for a line that the other node, in this process too, is about to log."""
    await eventually(lambda: text in caplog.text)
