"""A cluster of nodes that are named by their hosts' names, as the pods of a StatefulSet are.

Knot serves the records of a headless service, which change while the nodes live.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import trio

from barnacle_trio import (
    FixedPort,
    Node,
    NodeDown,
    RefreshFailed,
    kubernetes_dns_srv,
    open_barnacle,
    open_node,
)
from barnacle_trio.testing import EventRecorder
from tests.beam import COOKIE, open_beam
from tests.cluster_lab import PATIENCE
from tests.dns_server import resolver_for
from tests.erlang import Erlang
from tests.knot_server import open_knot_server
from tests.ports import free_port
from tests.test_strategies_ask import Hosts

SERVICE = "web.default.svc.cluster.local"
ADDRESSES = {f"web-{number}.{SERVICE}": f"127.0.0.{number + 1}" for number in range(4)}
PODS = tuple(ADDRESSES)


def hosts_file(folder: Path) -> Path:
    """What Erlang is told of the pods' addresses, which no resolver of this machine knows."""
    file = folder / "inetrc"
    lines = [
        f'{{host, {{{address.replace(".", ",")}}}, ["{pod}"]}}.\n'
        for pod, address in ADDRESSES.items()
    ]
    file.write_text("".join(["{lookup, [file]}.\n", *lines]))
    return file


async def test_pods_come_go_and_outlive_the_dns(tmp_path: Path, erlang: Erlang) -> None:
    port = free_port()
    recorder = EventRecorder()
    trio.socket.set_custom_hostname_resolver(Hosts(ADDRESSES))

    def open_pod(pod: str) -> AbstractAsyncContextManager[Node]:
        return open_node(
            f"app@{pod}", cookie=COOKIE, listen=(ADDRESSES[pod], port), epmd=FixedPort(port)
        )

    beam_flags = (
        *("-erl_epmd_port", str(port)),
        *("-kernel", "inet_dist_use_interface", f"{{{ADDRESSES[PODS[3]].replace('.', ',')}}}"),
    )
    async with open_knot_server("cluster.local") as server, open_pod(PODS[0]) as node:
        await server.set_targets(SERVICE, *PODS[:2])
        strategy = kubernetes_dns_srv(
            "web", "default", resolver=resolver_for(server.port), timeout=0.5
        )
        async with open_barnacle(
            strategy,
            node,
            poll_interval=0.2,
            prune_after=1.0,
            max_prune=1.0,
            listener=recorder.send,
        ) as barnacle:

            async def wait_for(*pods: str) -> None:
                with trio.fail_after(PATIENCE):
                    await barnacle.nodes.wait_value(
                        lambda nodes: nodes == {f"app@{pod}" for pod in pods}
                    )

            async with open_pod(PODS[1]), open_pod(PODS[2]):
                await wait_for(PODS[1])
                await server.set_targets(SERVICE, *PODS)
                await wait_for(*PODS[1:3])
                async with open_beam(
                    erlang,
                    f"app@{PODS[3]}",
                    flags=beam_flags,
                    env={"ERL_INETRC": str(hosts_file(tmp_path))},
                ):
                    await wait_for(*PODS[1:])
                    server.freeze()
                    failed = len(recorder.of(RefreshFailed))
                    with trio.fail_after(PATIENCE):
                        await recorder.wait_for(
                            RefreshFailed,
                            lambda _event: len(recorder.of(RefreshFailed)) >= failed + 3,
                        )
                    server.thaw()
                    await server.set_targets(SERVICE, PODS[0], PODS[3])
                    await wait_for(PODS[3])
                    downs = [(down.node, down.reason) for down in recorder.of(NodeDown)]
    assert sorted(downs) == [(f"app@{pod}", "pruned") for pod in PODS[1:3]]
