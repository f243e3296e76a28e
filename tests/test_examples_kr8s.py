"""The example on kr8s, which is another project's library: before a stand-in and a real server."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from barnacle_trio import open_node
from tests.kube_server import ADMIN_TOKEN, Namespace, require_kube, sharing_kube
from tests.test_examples import COOKIE, promised, run

EXAMPLE = "kr8s_strategy.py"
POD = {
    "kind": "Pod",
    "apiVersion": "v1",
    "metadata": {"name": "friend", "namespace": "default", "resourceVersion": "7"},
    "status": {"podIP": "127.0.0.1"},
}
ANSWERS = {
    "/version": {"gitVersion": "v1.33.0"},
    "/api": {"versions": ["v1"]},
    "/api/v1": {
        "resources": [{"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod"}]
    },
    "/apis": {"groups": []},
    "/api/v1/namespaces/default/pods": {"kind": "PodList", "metadata": {}, "items": [POD]},
}


def write_kubeconfig(folder: Path, url: str, *, ca: Path | None = None, namespace: str) -> Path:
    cluster = {"server": url} | ({} if ca is None else {"certificate-authority": str(ca)})
    file = folder / "kubeconfig"
    file.write_text(  # JSON is YAML
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": cluster}],
                "users": [{"name": "test", "user": {"token": ADMIN_TOKEN}}],
                "contexts": [
                    {
                        "name": "test",
                        "context": {"cluster": "test", "user": "test", "namespace": namespace},
                    }
                ],
            }
        )
    )
    return file


async def answer(stream: trio.SocketStream) -> None:
    """Answer what kr8s asks; a watch tells of the pod and stays open."""
    data = b""
    async with stream:
        while True:
            while b"\r\n\r\n" not in data:
                more = await stream.receive_some()
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            path, _, query = head.split()[1].decode().partition("?")
            if "watch=true" in query:
                event = json.dumps({"type": "ADDED", "object": POD}).encode() + b"\n"
                chunk = b"%x\r\n%s\r\n" % (len(event), event)
                await stream.send_all(
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk
                )
                await trio.sleep_forever()
            body = json.dumps(ANSWERS[path.rstrip("/")]).encode()
            length = b"Content-Length: %d\r\n\r\n" % len(body)
            await stream.send_all(b"HTTP/1.1 200 OK\r\n" + length + body)


@asynccontextmanager
async def open_stand_in() -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, answer, 0, host="127.0.0.1")
        [listener] = await nursery.start(serve)
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel("the test is over")


async def meet() -> list[str]:
    # Not with warnings as errors: kr8s leaves its connections to the garbage collector.
    command = [sys.executable, f"examples/{EXAMPLE}", "my_app@127.0.0.1", "app=my-app", "friend"]
    async with open_node("friend@127.0.0.1", cookie=COOKIE):
        printed, _told = await run(*command)
    return printed


async def test_pods_are_met_before_a_stand_in_for_the_api_server(
    epmd_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_stand_in() as url:
        file = write_kubeconfig(tmp_path, url, namespace="default")
        monkeypatch.setenv("KUBECONFIG", str(file))
        assert await meet() == promised(EXAMPLE)


async def test_pods_are_met_before_a_real_api_server(
    epmd_port: int, tmp_path: Path, kube_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_kube()
    with sharing_kube(kube_folder) as server:
        namespace = Namespace(server)
        namespace.create_pod("friend", "127.0.0.1")
        ca = tmp_path / "ca.crt"
        await trio.Path(ca).write_text(server.ca)
        file = write_kubeconfig(tmp_path, server.url, ca=ca, namespace=namespace.name)
        monkeypatch.setenv("KUBECONFIG", str(file))
        assert await meet() == promised(EXAMPLE)
