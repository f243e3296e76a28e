"""A cluster that is discovered by an API server of Kubernetes, real or not, which goes and comes.

Every node listens on one agreed port of a loopback address of its own, as pods do on theirs.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from barnacle_trio import (
    Barnacle,
    FixedPort,
    Node,
    NodeDown,
    NodeUp,
    RefreshFailed,
    open_barnacle,
    open_node,
)
from barnacle_trio.strategies import _kube_watch
from barnacle_trio.testing import EventRecorder
from tests.beam import COOKIE
from tests.cluster_lab import PATIENCE
from tests.kube_fake import FakeKube
from tests.kube_lab import Lab, open_lab
from tests.kube_server import require_kube
from tests.ports import free_port

POLL = 0.5
OTHERS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")


@dataclass
class Cluster:
    lab: Lab
    barnacle: Barnacle
    recorder: EventRecorder
    port: int

    def open_pod(self, address: str) -> AbstractAsyncContextManager[Node]:
        return open_node(f"app@{address}", cookie=COOKIE, epmd=FixedPort(self.port))

    async def wait_pods(self, *addresses: str) -> None:
        pods = {f"app@{address}" for address in addresses}
        with trio.fail_after(PATIENCE):
            await self.barnacle.nodes.wait_value(lambda nodes: nodes == pods)


@pytest.fixture(params=["fake", "real"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "real":
        require_kube()
    return str(request.param)


@pytest.fixture
async def cluster(
    kind: str, tmp_path: Path, kube_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Cluster]:
    monkeypatch.setattr(_kube_watch, "LONGEST_PAUSE", 1.0)
    port = free_port()
    recorder = EventRecorder()
    async with open_lab(kind, tmp_path, kube_folder, monkeypatch) as lab:
        lab.allow_pods()
        async with (
            open_node("app@127.0.0.1", cookie=COOKIE, epmd=FixedPort(port)) as node,
            open_barnacle(
                lab.strategy(),
                node,
                poll_interval=POLL,
                prune_after=POLL,
                max_prune=1.0,
                listener=recorder.send,
            ) as barnacle,
        ):
            yield Cluster(lab, barnacle, recorder, port)


async def test_a_new_pod_is_connected_at_once_and_pruned_when_it_is_gone(
    cluster: Cluster,
) -> None:
    namespace = cluster.lab.namespace
    async with cluster.open_pod(OTHERS[0]), cluster.open_pod(OTHERS[1]):
        with trio.fail_after(PATIENCE):
            await cluster.barnacle.refresh()
        for number, address in enumerate(OTHERS[:2]):
            namespace.create_pod(f"pod-{number}")
            given_at = trio.current_time()
            namespace.set_pod(f"pod-{number}", address)
            await cluster.wait_pods(*OTHERS[: number + 1])
            took = trio.current_time() - given_at
            print(f"connected {1000 * took:.0f} ms after its address was set")
            assert took < PATIENCE
        namespace.delete_pod("pod-0", grace=300)
        await trio.sleep(4 * POLL)  # it is on its way out, and serves
        await cluster.wait_pods(*OTHERS[:2])
        namespace.set_pod("pod-0", OTHERS[0], ready=False)
        await cluster.wait_pods(OTHERS[1])
    downs = [(down.node, down.reason) for down in cluster.recorder.of(NodeDown)]
    assert downs[0] == (f"app@{OTHERS[0]}", "pruned")
    if isinstance(cluster.lab.server, FakeKube):
        assert len(cluster.lab.fake.lists()) == 1


async def test_a_server_that_is_down_for_three_polls_costs_no_connection(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    namespace = cluster.lab.namespace
    async with cluster.open_pod(OTHERS[0]), cluster.open_pod(OTHERS[1]):
        for number, address in enumerate(OTHERS[:2]):
            namespace.create_pod(f"pod-{number}", address)
        await cluster.wait_pods(*OTHERS[:2])
        caplog.set_level(logging.INFO)
        caplog.clear()
        await cluster.lab.kill()
        with trio.fail_after(PATIENCE):
            await cluster.recorder.wait_for(
                RefreshFailed, lambda _event: len(cluster.recorder.of(RefreshFailed)) >= 4
            )
        await cluster.lab.restart()
        async with cluster.open_pod(OTHERS[2]):
            namespace.create_pod("pod-2", OTHERS[2])
            await cluster.wait_pods(*OTHERS)
            assert cluster.recorder.of(NodeDown) == []
            assert len(cluster.recorder.of(NodeUp)) == 3
            assert cluster.barnacle.status().restarts == 0
            told = [text for text in caplog.messages if "discovery" in text]
            if not isinstance(cluster.lab.server, FakeKube):
                # One that has just started may say no for a moment: it has yet to read the rights.
                told = [text for text in told if "answers 403" not in text]
            assert len(told) == 2, told
            assert "cannot be reached: Connection refused" in told[0]
            assert "discovery works again" in told[1]
