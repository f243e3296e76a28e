"""The ports of two demos on one host."""

from __future__ import annotations

import random

import pytest

from barnacle_trio.cli import _demo_cluster
from barnacle_trio.cli._demo_cluster import open_cluster
from tests.ports import free_port


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ports that every demo draws."""
    ports = [free_port(), free_port()]
    monkeypatch.setattr(random, "sample", lambda *_args: ports)
    return ports


async def test_two_demos_never_share_a_port(drawn: list[int]) -> None:
    """Though nobody listens there: a port mapper is yet to start, or was just killed."""
    async with open_cluster(["acorn"]) as one, open_cluster(["acorn"]) as other:
        assert [one.port, other.port] == drawn


async def test_a_demo_that_is_over_gives_its_port_back(drawn: list[int]) -> None:
    async with open_cluster(["acorn"]) as one:
        pass
    async with open_cluster(["acorn"]) as other:
        assert [one.port, other.port] == [drawn[0]] * 2


async def test_a_host_without_ipv6_will_do(
    drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, the second of these is as absent as this one is here."""
    monkeypatch.setattr(_demo_cluster, "LOOPBACK", ("127.0.0.1", "2001:db8::1"))
    async with open_cluster(["acorn"]) as one:
        assert one.port == drawn[0]
