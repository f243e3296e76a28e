"""The ports of two demos on one host."""

from __future__ import annotations

import random

import pytest

from barnacle_trio.cli import _demo_cluster
from barnacle_trio.cli._demo_cluster import open_cluster
from tests.ports import free_port

DRAWN = [free_port(), free_port()]


@pytest.fixture(autouse=True)
def draw_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every demo draws the same ports."""
    monkeypatch.setattr(random, "sample", lambda *_args: DRAWN)


async def test_two_demos_never_share_a_port() -> None:
    """Though nobody listens there: a port mapper is yet to start, or was just killed."""
    async with open_cluster(["acorn"]) as one, open_cluster(["acorn"]) as other:
        assert [one.port, other.port] == DRAWN


async def test_a_demo_that_is_over_gives_its_port_back() -> None:
    async with open_cluster(["acorn"]) as one:
        pass
    async with open_cluster(["acorn"]) as other:
        assert [one.port, other.port] == [DRAWN[0]] * 2


async def test_a_host_without_ipv6_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, the second of these is as absent as this one is here."""
    monkeypatch.setattr(_demo_cluster, "LOOPBACK", ("127.0.0.1", "2001:db8::1"))
    async with open_cluster(["acorn"]) as one:
        assert one.port == DRAWN[0]
