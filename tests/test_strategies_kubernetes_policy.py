"""When an API server is asked, and how seldom: in virtual time, without a network."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.parse import parse_qs, urlsplit

import httpcore2
import pytest
import trio
from trio.testing import MockClock

from barnacle_trio import NodeDown, NodeUp
from barnacle_trio._names import NodeName
from barnacle_trio._strategy import discover
from barnacle_trio.strategies._ask import Naming
from barnacle_trio.strategies._kube_access import Access
from barnacle_trio.strategies._kube_api import Selection
from barnacle_trio.strategies._kube_hosts import HostRule
from barnacle_trio.strategies._kube_http import Http
from barnacle_trio.strategies._kube_strategy import Listed, Watched
from barnacle_trio.strategies._kube_watch import Source, Watcher
from barnacle_trio.testing import FakeTransport
from tests.barnacles import World, open_world
from tests.kube_lab import serving

LOCAL = NodeName("app@10.0.0.99")


@dataclass
class VirtualServer:
    """An API server that is called, not connected; ``refuse`` answers a ``list`` or ``watch``."""

    down: bool = False
    refuse: dict[str, Callable[[], httpcore2.Response]] = field(default_factory=dict)
    lists: list[float] = field(default_factory=list)
    watches: list[float] = field(default_factory=list)
    tries: list[float] = field(default_factory=list)
    _pods: dict[str, str] = field(default_factory=dict)
    _version: int = 1
    _news: list[str] = field(default_factory=list)
    _told: trio.Event = field(default_factory=trio.Event)

    def set_pod(self, name: str, address: str) -> None:
        self._version += 1
        self._pods[name] = address
        event = {"type": "MODIFIED", "object": {"kind": "Pod", **self._pod(name)}}
        self._news.append(json.dumps(event))
        self.wake()

    def wake(self) -> None:
        self._told.set()
        self._told = trio.Event()

    def go_down(self) -> None:
        self.down = True
        self.wake()

    def _pod(self, name: str) -> dict[str, object]:
        return {
            "metadata": {"name": name, "resourceVersion": str(self._version)},
            "status": {
                "podIP": self._pods[name],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        await trio.lowlevel.checkpoint()
        self.tries.append(trio.current_time())
        if self.down:
            raise httpcore2.ConnectError("no")
        params = parse_qs(urlsplit(request.url.target.decode()).query)
        what = "watch" if "watch" in params else "list"
        (self.watches if what == "watch" else self.lists).append(trio.current_time())
        if what in self.refuse:
            return self.refuse[what]()
        if what == "watch":
            seconds = float(params["timeoutSeconds"][0])
            return httpcore2.Response(200, content=self._watch(seconds))
        body = {
            "kind": "PodList",
            "metadata": {"resourceVersion": str(self._version)},
            "items": [self._pod(name) for name in self._pods],
        }
        return httpcore2.Response(200, content=_body(json.dumps(body)))

    async def _watch(self, seconds: float) -> AsyncIterator[bytes]:
        until = trio.current_time() + seconds
        bookmark = {"kind": "Pod", "metadata": {"resourceVersion": "1"}}
        while trio.current_time() < until:
            told = self._told
            while self._news:
                yield self._news.pop(0).encode() + b"\n"
            with trio.move_on_after(min(60, until - trio.current_time())) as scope:
                await told.wait()
            if self.down:
                raise httpcore2.ReadError("cut")
            if scope.cancelled_caught:
                yield json.dumps({"type": "BOOKMARK", "object": bookmark}).encode() + b"\n"

    @property
    def source(self) -> Source:
        async def access() -> Access:
            await trio.lowlevel.checkpoint()
            return Access(server="https://api", namespace="default", tls=None)

        @asynccontextmanager
        async def connect(access: Access) -> AsyncIterator[Http]:
            await trio.lowlevel.checkpoint()
            yield Http(access, self)

        selection = Selection(lookup="pods", labels="app=x")
        return Source(access=access, connect=connect, namespace=None, selection=selection)

    def strategy(self, kind: type[Listed] = Watched) -> Listed:
        rule = HostRule(mode="ip", service=None, cluster_domain="k8s", not_ready=False)
        return kind("kubernetes('app=x')", self.source, rule, Naming("app"))


async def _body(text: str) -> AsyncIterator[bytes]:
    await trio.lowlevel.checkpoint()
    yield text.encode()


def refusal(status: int, *headers: tuple[str, str]) -> Callable[[], httpcore2.Response]:
    return lambda: httpcore2.Response(status, headers=headers, content=_body("{}"))


def junk() -> httpcore2.Response:
    return httpcore2.Response(200, content=_body("junk\n"))


async def up(world: World, count: int) -> None:
    with trio.fail_after(60):
        await world.barnacle.wait_for_nodes(count)


async def test_a_quiet_hour_costs_one_list(autojump_clock: MockClock) -> None:
    server = VirtualServer()
    server.set_pod("a", "10.0.0.1")
    transport = FakeTransport(reachable=["app@10.0.0.1"])
    async with open_world(strategy=server.strategy(), transport=transport) as world:
        await up(world, 1)
        await trio.sleep(3600)
        assert world.barnacle.status().refreshes > 600
    assert len(server.lists) == 1
    # Each lasts from four to eight minutes.
    assert 3600 / 480 <= len(server.watches) <= 3600 / 240 + 1
    assert len(server.tries) == len(server.lists) + len(server.watches)


async def test_a_new_pod_is_connected_at_once(autojump_clock: MockClock) -> None:
    server = VirtualServer()
    transport = FakeTransport(reachable=["app@10.0.0.1"])
    async with open_world(
        strategy=server.strategy(), transport=transport, poll_interval=60
    ) as world:
        await trio.sleep(90)
        server.set_pod("a", "10.0.0.1")
        began = trio.current_time()
        await up(world, 1)
        assert trio.current_time() - began < 0.2
    assert len(server.lists) == 1


async def test_an_outage_of_three_polls_disconnects_nobody_and_is_told_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = VirtualServer()
    names = {f"app@10.0.0.{index}" for index in range(1, 4)}
    for index in range(1, 4):
        server.set_pod(f"pod-{index}", f"10.0.0.{index}")
    async with open_world(
        strategy=server.strategy(), transport=FakeTransport(reachable=names), prune_after=1
    ) as world:
        await up(world, 3)
        caplog.clear()
        server.go_down()
        await trio.sleep(15 + 5)
        assert world.barnacle.nodes.value == names
        assert "https://api breaks off: 'no'" in str(world.barnacle.status().last_error)
        server.down = False
        await trio.sleep(60)
        assert world.barnacle.nodes.value == names
        assert world.barnacle.status().last_error is None
        assert world.barnacle.status().restarts == 0
        assert len(world.recorder.of(NodeUp)) == 3
        assert world.recorder.of(NodeDown) == []
        told = [record.message for record in caplog.records]
    assert len(told) == 2, told
    assert "discovery failed: " in told[0]
    assert "discovery works again" in told[1]
    assert len(server.lists) == 1  # it went on where it was


async def test_pauses_double_to_a_limit_and_are_forgotten(autojump_clock: MockClock) -> None:
    server = VirtualServer(down=True)
    watcher = Watcher(server.source, changed=lambda: None, rng=lambda: 1.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watcher.run)
        await trio.sleep(60)
        gaps = [after - before for before, after in pairwise(server.tries)]
        assert gaps == pytest.approx([0.5, 1, 2, 4, 8, 15, 15])
        server.down = False
        await trio.sleep(30)
        server.go_down()
        first = len(server.tries)
        await trio.sleep(2)
        gaps = [after - before for before, after in pairwise(server.tries[first - 1 :])]
        assert gaps[1:] == pytest.approx([1])
        nursery.cancel_scope.cancel("seen enough")


async def test_nodes_do_not_come_back_all_at_once(autojump_clock: MockClock) -> None:
    server = VirtualServer(down=True)
    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(Watcher(server.source, changed=lambda: None).run)
        await trio.sleep(60)
        server.tries.clear()
        await trio.sleep(60)
        busiest = max(
            sum(second <= at < second + 1 for at in server.tries) for second in range(60, 120)
        )
        assert len(server.tries) < 200 * 60 / 5
        assert busiest < 80  # of 200; at even pace it would be 27
        nursery.cancel_scope.cancel("seen enough")


async def test_a_watch_that_is_told_to_wait_waits(autojump_clock: MockClock) -> None:
    server = VirtualServer()
    async with serving(server.strategy()) as served:
        assert (await served.answer()).kind == "complete"
        await trio.sleep(1)
        server.refuse["watch"] = refusal(429, ("Retry-After", "60"))
        server.go_down()
        await trio.testing.wait_all_tasks_blocked()
        server.down = False
        await trio.sleep(5)
        asked = len(server.tries)
        assert "answers 429" in str((await served.answer()).error)
        await trio.sleep(54)
        assert len(server.tries) == asked
        server.refuse.clear()
        await trio.sleep(15)
        assert (await served.answer()).kind == "complete"
    assert len(server.lists) == 1


@pytest.mark.parametrize("refused", [refusal(504), junk])
async def test_a_server_that_keeps_refusing_to_go_on_is_listed_anew(
    autojump_clock: MockClock, refused: Callable[[], httpcore2.Response]
) -> None:
    server = VirtualServer()
    watcher = Watcher(server.source, changed=lambda: None, rng=lambda: 1.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watcher.run)
        await trio.sleep(1)
        server.refuse["watch"] = refused
        server.go_down()
        await trio.testing.wait_all_tasks_blocked()
        server.down = False
        await trio.sleep(60)
        assert len(server.lists) >= 2
        # Not with each refusal, though.
        assert len(server.lists) - 1 <= (len(server.watches) - 1) / 3 + 1
        nursery.cancel_scope.cancel("seen enough")


async def test_asked_without_being_served_it_lists(autojump_clock: MockClock) -> None:
    server = VirtualServer()
    server.set_pod("a", "10.0.0.1")
    strategy = server.strategy()
    for _ in range(3):
        assert (await discover(strategy, LOCAL)).nodes == {"app@10.0.0.1"}
    assert len(server.lists) == 3
    async with serving(strategy):
        for _ in range(3):
            assert (await discover(strategy, LOCAL)).nodes == {"app@10.0.0.1"}
    assert len(server.lists) == 4
    assert (await discover(strategy, LOCAL)).nodes == {"app@10.0.0.1"}
    assert len(server.lists) == 5


async def test_two_barnacles_may_serve_one_strategy(autojump_clock: MockClock) -> None:
    server = VirtualServer()
    server.set_pod("a", "10.0.0.1")
    strategy = server.strategy()
    async with serving(strategy) as one:
        async with serving(strategy) as other:
            assert (await one.answer()).nodes == (await other.answer()).nodes
        assert (await one.answer()).nodes == {"app@10.0.0.1"}
    assert len(server.lists) == 2


async def test_polling_asks_once_for_each_round(autojump_clock: MockClock) -> None:
    server = VirtualServer()
    server.set_pod("a", "10.0.0.1")
    transport = FakeTransport(reachable=["app@10.0.0.1"])
    async with open_world(strategy=server.strategy(Listed), transport=transport) as world:
        await up(world, 1)
        await trio.sleep(100)
        assert len(server.lists) == pytest.approx(world.barnacle.status().refreshes, abs=1)
    assert server.watches == []
