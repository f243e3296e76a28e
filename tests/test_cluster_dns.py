"""A cluster that is discovered by a real DNS server, whose records change while it lives.

Every node listens on one agreed port of a loopback address of its own, as pods do on theirs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from barnacle_trio import (
    Barnacle,
    FixedPort,
    Node,
    NodeDown,
    NodeUp,
    Refreshed,
    RefreshFailed,
    dns,
    open_barnacle,
    open_node,
)
from barnacle_trio.testing import EventRecorder
from tests.beam import COOKIE, open_beam
from tests.cluster_lab import PATIENCE
from tests.dns_server import DnsServer, open_dns_server, resolver_for
from tests.erlang import Erlang
from tests.ports import free_port

PODS = "pods.test"
OTHERS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
PRUNE_AFTER = 1.0


@dataclass
class Cluster:
    server: DnsServer
    barnacle: Barnacle
    recorder: EventRecorder
    port: int
    query: str

    def open_pod(self, address: str) -> AbstractAsyncContextManager[Node]:
        return open_node(f"app@{address}", cookie=COOKIE, epmd=FixedPort(self.port))

    async def set_records(self, *addresses: str) -> None:
        await self.server.set_records(self.query, *addresses)

    async def wait_pods(self, *addresses: str) -> None:
        pods = {f"app@{address}" for address in addresses}
        with trio.fail_after(PATIENCE):
            await self.barnacle.nodes.wait_value(lambda nodes: nodes == pods)

    def downs(self) -> list[tuple[str, str]]:
        return [(down.node, down.reason) for down in self.recorder.of(NodeDown)]


@asynccontextmanager
async def open_cluster(folder: Path, *addresses: str, query: str = PODS) -> AsyncIterator[Cluster]:
    """A barnacle that asks a DNS server in which these addresses stand."""
    port = free_port()
    recorder = EventRecorder()
    async with (
        open_dns_server(folder) as server,
        open_node("app@127.0.0.1", cookie=COOKIE, epmd=FixedPort(port)) as node,
    ):
        await server.set_records(query, *addresses)
        strategy = dns(query, resolver=resolver_for(server.port), timeout=0.5)
        async with open_barnacle(
            strategy,
            node,
            poll_interval=0.2,
            prune_after=PRUNE_AFTER,
            max_prune=1.0,
            listener=recorder.send,
        ) as barnacle:
            yield Cluster(server, barnacle, recorder, port, query)


async def test_pods_come_and_go(tmp_path: Path, erlang: Erlang) -> None:
    async with (
        open_cluster(tmp_path, "127.0.0.1", "127.0.0.2") as cluster,
        cluster.open_pod("127.0.0.2"),
        cluster.open_pod("127.0.0.3") as third,
    ):
        await cluster.wait_pods("127.0.0.2")
        await cluster.set_records("127.0.0.1", "127.0.0.2", "127.0.0.3")
        await cluster.wait_pods("127.0.0.2", "127.0.0.3")
        async with open_beam(
            erlang,
            "app@127.0.0.4",
            flags=(
                *("-erl_epmd_port", str(cluster.port)),
                *("-kernel", "inet_dist_use_interface", "{127,0,0,4}"),
            ),
        ) as beam:
            await cluster.set_records("127.0.0.2", "127.0.0.3", "127.0.0.4")
            await cluster.wait_pods("127.0.0.2", "127.0.0.3", "127.0.0.4")
            assert cluster.downs() == []
            await beam.kill()
            await cluster.wait_pods("127.0.0.2", "127.0.0.3")
        removed_at = trio.current_time()
        await cluster.set_records("127.0.0.2")
        await cluster.wait_pods("127.0.0.2")
        assert trio.current_time() - removed_at >= PRUNE_AFTER
        with trio.fail_after(PATIENCE):
            await third.nodes.wait_value(frozenset())  # it lives on, without us
        assert cluster.downs() == [("app@127.0.0.4", "lost"), ("app@127.0.0.3", "pruned")]
        assert len(cluster.recorder.of(NodeUp)) == 3


async def test_a_server_that_is_down_for_three_polls_costs_no_connection(tmp_path: Path) -> None:
    async with (
        open_cluster(tmp_path, *OTHERS) as cluster,
        cluster.open_pod(OTHERS[0]),
        cluster.open_pod(OTHERS[1]),
    ):
        async with cluster.open_pod(OTHERS[2]):
            await cluster.wait_pods(*OTHERS)
            await cluster.server.stop()
            await rounds(cluster, RefreshFailed, 3)
            await trio.sleep(PRUNE_AFTER)
            assert cluster.barnacle.nodes.value == {f"app@{pod}" for pod in OTHERS}
            assert cluster.downs() == []
        # While the server is down, the last good answer heals.
        await cluster.wait_pods(*OTHERS[:2])
        async with cluster.open_pod(OTHERS[2]):
            await cluster.wait_pods(*OTHERS)
            await cluster.server.start()
            await cluster.server.set_records(PODS, *OTHERS)
            await rounds(cluster, Refreshed, 3)
            assert cluster.barnacle.nodes.value == {f"app@{pod}" for pod in OTHERS}
            assert cluster.barnacle.status().last_error is None
            assert cluster.downs() == [(f"app@{OTHERS[2]}", "left")]


async def rounds(cluster: Cluster, kind: type[Refreshed] | type[RefreshFailed], more: int) -> None:
    """Wait for so many more rounds that ended like this."""
    wanted = len(cluster.recorder.of(kind)) + more
    with trio.fail_after(PATIENCE):
        await cluster.recorder.wait_for(
            kind, lambda _event: len(cluster.recorder.of(kind)) >= wanted
        )


async def test_an_answer_that_becomes_empty_prunes_nobody(tmp_path: Path) -> None:
    # This name exists all along, so that it is an empty answer and not a failed one.
    async with (
        open_cluster(tmp_path, *OTHERS[:2], query="empty.test") as cluster,
        cluster.open_pod(OTHERS[0]),
        cluster.open_pod(OTHERS[1]),
    ):
        await cluster.wait_pods(*OTHERS[:2])
        await cluster.set_records()
        failed = len(cluster.recorder.of(RefreshFailed))
        await rounds(cluster, Refreshed, 3)
        await trio.sleep(PRUNE_AFTER)
        await rounds(cluster, Refreshed, 3)
        assert cluster.barnacle.nodes.value == {f"app@{pod}" for pod in OTHERS[:2]}
        assert cluster.downs() == []
        assert len(cluster.recorder.of(RefreshFailed)) == failed
