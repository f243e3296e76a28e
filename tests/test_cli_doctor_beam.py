"""`barnacle doctor` before real BEAM nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trustme

from barnacle_trio.epmd import serve_epmd
from tests.beam import open_beam, unique
from tests.cli_lab import barnacle
from tests.cluster_lab import sees
from tests.doctors import examine
from tests.erlang import ERLANGS, Erlang


@pytest.fixture
async def mapper(epmd_port: int, nursery: trio.Nursery) -> None:
    """A port mapper, so that BEAM nodes start."""
    await nursery.start(serve_epmd)


Capture = pytest.CaptureFixture[str]


async def test_a_node_that_is_well(erlang: Erlang, mapper: None) -> None:
    async with open_beam(erlang) as beam:
        ended = await barnacle("doctor", beam.name, "--json")
        assert (ended.code, ended.err) == (0, "")
        findings = ended.objects()
        assert {each["state"] for each in findings} == {"ok"}
        version = next(each["found"] for each in findings if each["step"] == "version")
        able = {"26": "25", "27": "25"}.get(erlang.version, erlang.version)  # can no more than 25
        assert f"Erlang/OTP {able} can" in version
        await sees(beam)


async def test_another_cookie(erlang: Erlang, mapper: None, capfd: Capture) -> None:
    async with open_beam(erlang) as beam:
        examined = await examine(capfd, beam.name, cookie="another_cookie")
    step, found, _advice = examined.failure
    assert step == "cookie"
    assert "most likely another cookie" in found


async def test_another_name(erlang: Erlang, mapper: None, capfd: Capture) -> None:
    async with open_beam(erlang) as beam:
        step, found, advice = (await examine(capfd, f"x{beam.name}")).failure
    assert step == "registration"
    assert "is not registered there" in found
    assert f"did you mean {beam.name}?" in advice


async def test_short_and_long_names(erlang: Erlang, mapper: None, capfd: Capture) -> None:
    name = unique("short", "localhost")
    basename = name.partition("@")[0]
    async with open_beam(erlang, name, short=True) as beam:
        assert set((await examine(capfd, name)).states.values()) == {"ok"}
        step, found, advice = (await examine(capfd, f"{basename}@127.0.0.1")).failure
        assert step == "handshake"
        assert f"but {name} answered" in found
        assert advice.endswith(f"use {name}")
        warned = await examine(capfd, name, own="me@127.0.0.1")
        assert warned.reason is None
        assert [step for step, state in warned.states.items() if state != "ok"] == ["name"]
        await sees(beam)


async def test_a_list_of_who_may_connect(erlang: Erlang, mapper: None, capfd: Capture) -> None:
    async with open_beam(erlang) as beam:
        assert await beam.eval("net_kernel:allow(['friend@127.0.0.1'])") == "ok"
        step, found, advice = (await examine(capfd, beam.name)).failure
    assert step == "handshake"
    assert "does not allow this node to connect" in found
    assert "net_kernel:allow/1" in advice


async def test_a_frozen_node(erlang: Erlang, mapper: None, capfd: Capture) -> None:
    async with open_beam(erlang) as beam:
        beam.freeze()
        step, found, advice = (await examine(capfd, beam.name, patience=0.5)).failure
        beam.thaw()
    assert step == "handshake"
    assert found == "no answer within 0.5 s"
    assert "frozen" in advice


async def test_a_node_that_speaks_tls(mapper: None, tmp_path: Path, capfd: Capture) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "cert.pem")
    options = tmp_path / "ssl.conf"
    options.write_text(
        f'[{{server, [{{certfile, "{tmp_path}/cert.pem"}}]}},'
        f' {{client, [{{cacertfile, "{tmp_path}/ca.pem"}}, {{verify, verify_peer}}]}}].\n'
    )
    [erlang, *_] = ERLANGS  # the one that brings TLS along
    flags = ("-proto_dist", "inet_tls", "-ssl_dist_optfile", str(options))
    async with open_beam(erlang, flags=flags) as beam:
        step, found, advice = (await examine(capfd, beam.name)).failure
    assert (step, found) == ("handshake", "what listens there speaks TLS")
    assert "inet_tls" in advice
