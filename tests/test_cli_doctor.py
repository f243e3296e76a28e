"""`barnacle doctor`: each step's judgement, and what hosts and strangers on ports answer."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial

import pytest
import trio

from barnacle_trio import CookieRejected, NodeName, open_node
from barnacle_trio.cli._findings import (
    Finding,
    Shaken,
    Trouble,
    judge_addresses,
    judge_handshake,
    judge_mapper,
    judge_names,
    judge_port,
    judge_registration,
)
from barnacle_trio.distribution._challenges import digest
from barnacle_trio.distribution._flags import Flag
from barnacle_trio.distribution._handshake import Identity
from barnacle_trio.epmd import open_registration, serve_epmd
from tests.beam import COOKIE, unique
from tests.cli_lab import assert_fails, barnacle, running
from tests.doctors import examine
from tests.handshakes import FLAGS, OTP_25, OTP_29, challenge_message, framed, status
from tests.ports import free_port

PEER = NodeName("bob@127.0.0.1")


def told(finding: Finding) -> tuple[str, str]:
    return finding.step, finding.state


# --- what is judged without asking anybody ------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "own", "state", "fragment"),
    [
        ("a@10.0.0.7", None, "ok", "10.0.0.7 is an IPv4 address"),
        ("a@fd00::7", None, "ok", "fd00::7 is an IPv6 address"),
        ("a@web1", None, "ok", "web1 is a short name"),
        ("a@web1.example.com", None, "ok", "web1.example.com is a long name"),
        ("a@web1", "b@web2", "ok", "web1 is a short name, web2 a short name"),
        ("a@10.0.0.7", "b@web1.example.com", "ok", "a long name"),
        ("a@127.0.0.1", "b@127.0.0.1", "ok", "an IPv4 address"),
        ("a@web1", "b@10.0.0.7", "warning", "-sname"),
        ("a@web1.example.com", "b@localhost", "warning", "-name"),
        ("a@10.0.0.7", "b@fd00::7", "warning", "inet6_tcp"),
        ("a@127.0.0.1", "b@10.0.0.7", "warning", "another machine on each machine"),
        ("a@10.0.0.7", "a@10.0.0.7", "failed", "the same name"),
    ],
)
def test_names_are_compared(peer: str, own: str | None, state: str, fragment: str) -> None:
    finding = judge_names(NodeName(peer), None if own is None else NodeName(own))
    assert told(finding) == ("name", state)
    assert fragment in f"{finding.found} {finding.advice}"


@pytest.mark.parametrize(
    ("host", "addresses", "state"),
    [
        ("10.0.0.7", ["10.0.0.7"], "ok"),
        ("::1", ["::1"], "ok"),
        ("localhost", ["127.0.0.1", "::1"], "ok"),
        ("web1", ["10.0.0.7", "fd00::7"], "ok"),
        ("web1", ["127.0.1.1"], "warning"),
    ],
)
def test_addresses_are_told(host: str, addresses: list[str], state: str) -> None:
    finding = judge_addresses(host, addresses)
    assert told(finding) == ("host", state)
    assert all(address in finding.found for address in addresses)


@pytest.mark.parametrize("judge", [judge_mapper, judge_port])
def test_what_is_reached_at_some_addresses_is_a_warning_and_at_none_a_failure(
    judge: Callable[..., Finding],
) -> None:
    refused, silent = Trouble("refused", "nobody there"), Trouble("silent", "no answer")
    assert judge(4369, ["10.0.0.7"], {}).state == "ok"
    some = judge(4369, ["10.0.0.7"], {"fd00::7": silent})
    assert (some.state, "fd00::7: no answer" in some.found) == ("warning", True)
    none = judge(4369, [], {"fd00::7": silent, "10.0.0.7": refused})
    assert none.state == "failed"
    assert none.advice == judge(4369, [], {"10.0.0.7": refused}).advice
    assert "firewall" in str(judge(4369, [], {"10.0.0.7": silent}).advice)


def test_names_that_are_alike_are_suggested() -> None:
    peer = NodeName("my_app@10.0.0.7")
    assert judge_registration(peer, {"my_app": 4000}).found == "my_app listens on port 4000"
    finding = judge_registration(peer, {"my-app": 4000, "x": 4001})
    assert told(finding) == ("registration", "failed")
    assert str(finding.advice).startswith("did you mean my-app@10.0.0.7? Else start the node")
    many = judge_registration(peer, {f"n{number:02}": 4000 for number in range(15)})
    assert many.found.endswith("and 5 more")
    assert judge_registration(peer, {}).found.endswith("registered: nobody")


def test_a_version_is_told_by_what_it_can_do() -> None:
    for flags, fragment in (
        (FLAGS, "Erlang/OTP 25 can"),
        (OTP_25, "Erlang/OTP 25 can"),
        (FLAGS | Flag.ALTACT_SIG, "Erlang/OTP 28 can"),
        (OTP_29, "Erlang/OTP 29 can"),
        (FLAGS & ~Flag.MANDATORY_25_DIGEST, "Erlang/OTP 23 can"),
    ):
        findings = judge_handshake(PEER, Shaken(peer=Identity(PEER, int(flags), 1)))
        assert [told(each) for each in findings] == [
            ("handshake", "ok"),
            ("version", "ok"),
            ("cookie", "ok"),
        ]
        assert fragment in findings[1].found


def test_a_wrong_cookie_is_the_last_step() -> None:
    identity = Identity(PEER, FLAGS, 1)
    findings = judge_handshake(PEER, Shaken(peer=identity, error=CookieRejected("another cookie")))
    assert told(findings[-1]) == ("cookie", "failed")


# --- what answers on ports ----------------------------------------------------------------------

Answer = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def listening(answer: Answer) -> AsyncIterator[int]:
    """Answer whoever connects, on a port of loopback that is given."""
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, answer, 0, host="127.0.0.1")
        )
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel("the test is over")


def saying(*parts: bytes) -> Answer:
    """Read something, then say these bytes, one part after each thing that is read."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            for part in parts:
                if not await stream.receive_some():
                    return
                await stream.send_all(part)
            with suppress(trio.BrokenResourceError):
                async for _ in stream:
                    pass

    return answer


async def test_nobody_at_the_port(capfd: pytest.CaptureFixture[str]) -> None:
    step, found, _advice = (await examine(capfd, PEER, port=free_port())).failure
    assert step == "port"
    assert found == "127.0.0.1: nobody listens there (connection refused)"


async def test_no_port_mapper(capfd: pytest.CaptureFixture[str], epmd_port: int) -> None:
    step, found, advice = (await examine(capfd, PEER, port=None)).failure
    assert step == "port mapper"
    assert "connection refused" in found
    assert "start the node" in advice


async def test_something_else_where_the_port_mapper_should_be(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(saying(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        monkeypatch.setenv("ERL_EPMD_PORT", str(port))
        step, _found, _advice = (await examine(capfd, PEER, port=None, patience=0.5)).failure
    assert step == "port mapper"


async def test_a_node_that_is_not_registered(
    capfd: pytest.CaptureFixture[str], epmd_port: int
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_epmd)
        async with open_registration("bobby", 4000):
            step, _found, advice = (await examine(capfd, PEER, port=None)).failure
        nursery.cancel_scope.cancel("the test is over")
    assert step == "registration"
    assert "bobby@127.0.0.1" in advice


async def test_a_registration_whose_node_is_gone(
    capfd: pytest.CaptureFixture[str], epmd_port: int
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_epmd)
        async with open_registration("bob", free_port()):
            step, _found, _advice = (await examine(capfd, PEER, port=None)).failure
        nursery.cancel_scope.cancel("the test is over")
    assert step == "port"


async def test_a_host_without_an_address(capfd: pytest.CaptureFixture[str]) -> None:
    step, found, _advice = (await examine(capfd, "bob@no-such-host.invalid", port=None)).failure
    assert step == "host"
    assert "'no-such-host.invalid' has no address" in found


@contextmanager
def http_server() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_a_web_server_is_told_for_what_it_is(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http.server.BaseHTTPRequestHandler, "log_message", lambda *_args: None)
    with http_server() as port:
        step, found, advice = (await examine(capfd, PEER, port=port, patience=0.5)).failure
    assert step == "handshake"
    assert "is no node; it says '<!DOCTYPE HTML>" in found
    assert "another program has the port" in advice


@pytest.mark.parametrize(
    ("answers", "step", "fragment"),
    [
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], "handshake", "it says 'SSH-2.0-OpenSSH_9.2"),
        ([b"\x15\x03\x03\x00\x02\x02\x0a"], "handshake", "speaks TLS"),
        ([status(b"not_allowed")], "handshake", "does not allow this node to connect"),
        ([status(b"nok")], "handshake", "does not take a node of this name"),
        (
            [status(b"ok") + framed(b"n\0\5" + bytes(8) + b"bob@127.0.0.1")],
            "handshake",
            "before OTP 23",
        ),
        ([b""], "handshake", "no answer within 0.3 s"),
        ([status(b"ok")], "handshake", "no answer within 0.3 s"),
        (
            [status(b"ok") + challenge_message(name=b"bob@web1")],
            "handshake",
            "bob@127.0.0.1 was dialled, but bob@web1 answered",
        ),
        (
            [status(b"ok") + challenge_message(name=b"eve@127.0.0.1")],
            "handshake",
            "eve@127.0.0.1 answered",
        ),
        (
            [status(b"alive"), challenge_message(flags=int(Flag.HANDSHAKE_23 | Flag.FUN_TAGS))],
            "version",
            "it is too old, it lacks EXTENDED_REFERENCES",
        ),
        ([status(b"ok") + challenge_message(), framed(b"a" + bytes(16))], "cookie", "the cookie"),
        ([status(b"ok") + challenge_message(), b"\0\3xyz"], "cookie", "an acknowledgement was due"),
        ([status(b"ok") + challenge_message()], "cookie", "no answer within 0.3 s"),
    ],
)
async def test_each_way_to_fail_is_told_apart(
    capfd: pytest.CaptureFixture[str], answers: list[bytes], step: str, fragment: str
) -> None:
    async with listening(saying(*answers)) as port:
        at, found, _advice = (await examine(capfd, PEER, port=port, patience=0.3)).failure
    assert at == step
    assert fragment in found


async def test_a_node_that_takes_us_in_and_closes(capfd: pytest.CaptureFixture[str]) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            if not await stream.receive_some():
                return
            await stream.send_all(status(b"ok") + challenge_message(7))
            reply = await stream.receive_some()
            challenge = int.from_bytes(reply[3:7])
            await stream.send_all(framed(b"a" + digest(COOKIE.encode(), challenge)))

    async with listening(answer) as port:
        examined = await examine(capfd, PEER, port=port)
    step, found, _advice = examined.failure
    assert step == "answer"
    assert examined.states["cookie"] == "ok"
    assert found.startswith("it let us in, but does not answer")


async def test_a_port_that_answers_in_one_family_only_is_a_warning(
    capfd: pytest.CaptureFixture[str],
) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    with sock:
        port = sock.getsockname()[1]
        families = {entry[0] for entry in socket.getaddrinfo("localhost", None)}
        examined = await examine(capfd, "bob@localhost", port=port, patience=0.3)
    assert examined.states["port"] == ("warning" if len(families) > 1 else "ok")


# --- the command --------------------------------------------------------------------------------


async def test_a_node_that_is_well(epmd_port: int) -> None:
    name = unique("well")
    async with running("run", "--name", name, "--json", "epmd:nobody@127.0.0.1") as node:
        await node.event("Started")
        ended = await barnacle("doctor", name)
        steps = [line.split()[:2] for line in ended.out.splitlines()]
        assert (ended.code, ended.err) == (0, "")
        assert steps == [
            ["ok", "name"],
            ["ok", "host"],
            ["ok", "port"],
            ["ok", "registration"],
            ["ok", "port"],
            ["ok", "handshake"],
            ["ok", "version"],
            ["ok", "cookie"],
            ["ok", "answer"],
        ]
        other = await barnacle("doctor", name, "--cookie", "another", "--json")
        assert_fails(other, 1, f"{name} cannot be met: cookie: ")
        assert other.objects()[-1]["step"] == "cookie"
        assert_fails(await barnacle("doctor", name, "--name", name), 1, "the same name")
        assert_fails(await barnacle("doctor", "nonsense"), 2, "is not a node name")
        assert_fails(await barnacle("doctor", name, "--fixed-port", "70000"), 2, "70000")
        assert_fails(await barnacle("doctor", name, "--timeout", "0"), 2, "--timeout")


async def test_it_leaves_nothing_behind(capfd: pytest.CaptureFixture[str], epmd_port: int) -> None:
    name = unique("bob")
    async with open_node(name, cookie=COOKIE) as node:
        assert (await examine(capfd, name)).reason is None
        with trio.fail_after(20):
            await node.hidden_nodes.wait_value(frozenset())
        assert node.nodes.value == frozenset()
