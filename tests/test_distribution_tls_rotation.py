"""Certificates that are replaced while nodes use them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import trio

from barnacle_trio import Barnacle, HandshakeRefused, Node, NodeName, epmd, open_barnacle
from barnacle_trio.distribution import _tls_files
from barnacle_trio.distribution._tls_stream import TlsStream
from tests.tls_lab import YESTERDAY, Lab, eventually, two

pytestmark = pytest.mark.usefixtures("epmd_port")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def stranger(tmp_path: Path) -> Lab:
    """Another authority."""
    return Lab(tmp_path / "stranger")


def content(path: Path) -> bytes:
    return path.read_bytes()


def put(path: Path, content: bytes | None) -> None:
    """Write a file, or remove it."""
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


def serial(node: Node, peer: str) -> str:
    """The number of the certificate that a peer showed on a connection that is up."""
    connection = node._peers.get(NodeName(peer))
    assert connection is not None
    assert isinstance(connection.stream, TlsStream)
    found: dict[str, Any] = connection.stream._tls.getpeercert()
    return str(found["serialNumber"])


async def test_a_new_certificate_is_used_for_new_connections(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tls_files, "CHECK_EVERY", 0.0)
    tls = lab.options(file="one")
    async with two(tls, lab.options(file="other")) as (one, other):
        await one.connect(other.name)
        await other.nodes.wait_value(frozenset({one.name}))
        old_of_one = serial(other, one.name)
        old_of_other = serial(one, other.name)
        lab.options(file="one")
        lab.options(file="other")
        assert await one.ping(other.name), "connections that are up stay up"
        assert serial(one, other.name) == old_of_other
        await one.disconnect(other.name)
        await other.nodes.wait_value(frozenset())
        await one.connect(other.name)
        await other.nodes.wait_value(frozenset({one.name}))
        assert serial(other, one.name) != old_of_one
        assert serial(one, other.name) != old_of_other


async def test_files_that_do_not_fit_together_yet_leave_the_old_ones_in_use(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(_tls_files, "CHECK_EVERY", 0.0)
    tls = lab.options()
    async with two(tls, tls) as (one, other):
        key_file = Path(tls.key or "")
        key = content(key_file)
        for other_key in (b"", None, lab.ca.private_key_pem.bytes()):
            put(key_file, other_key)
            await one.connect(other.name)
            await one.disconnect(other.name)
            await other.nodes.wait_value(frozenset())
        assert caplog.text.count("the last good certificates stay in use") == 2 * 3
        put(key_file, key)
        await one.connect(other.name)
        assert "new connections use the new ones" in caplog.text


def state(barnacle: Barnacle, peer: str) -> str | None:
    found = barnacle.status().peers.get(NodeName(peer))
    return None if found is None else found.state


async def test_an_expired_certificate_is_replaced_and_the_cluster_heals_at_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tls_files, "CHECK_EVERY", 0.0)
    expired = lab.special("one", addresses=["127.0.0.1"], not_after=YESTERDAY)
    async with two(expired, lab.options(file="other")) as (one, other):
        nodes = [one.name, other.name]
        async with (
            open_barnacle(epmd(nodes), one, poll_interval=0.2) as barnacle,
            open_barnacle(epmd(nodes), other, poll_interval=0.2) as another,
        ):
            await eventually(
                lambda: state(barnacle, other.name) == state(another, one.name) == "quarantined"
            )
            lab.options(file="one")
            with trio.fail_after(4):  # a quarantine takes 5 s
                await barnacle.wait_for_nodes(1)


async def test_another_authority_is_believed_without_a_restart(
    lab: Lab, stranger: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tls_files, "CHECK_EVERY", 0.0)
    both = lab.folder / "both.pem"
    both.write_bytes(lab.ca_file.read_bytes())
    async with two(lab.options(ca=both), stranger.options(ca=both)) as (one, other):
        with pytest.raises(HandshakeRefused):
            await one.connect(other.name)
        before = await one.locate(other.name)
        both.write_bytes(lab.ca_file.read_bytes() + stranger.ca_file.read_bytes())
        assert await one.locate(other.name) != before
        await one.connect(other.name)


async def test_a_disk_that_hangs_holds_up_nobody(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = lab.options()
    async with two(tls, tls) as (one, other):
        monkeypatch.setattr(_tls_files, "CHECK_EVERY", 0.0)
        monkeypatch.setattr(_tls_files, "READ_PATIENCE", 0.05)
        hang = trio.Event()
        token = trio.lowlevel.current_trio_token()
        monkeypatch.setattr(
            _tls_files, "_load", lambda *_: trio.from_thread.run(hang.wait, trio_token=token)
        )
        with trio.fail_after(2):
            await one.connect(other.name)
        hang.set()
