"""The manifests for Kubernetes: they fit each other, a real API server takes them, they suffice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

from barnacle_trio._strategy import discover
from tests.kube_fake import V1, open_fake_kube, write_kubeconfig
from tests.kube_lab import LOCAL, SELECTOR, Lab, open_lab, serving
from tests.kube_server import KubeServer, require_kube
from tests.ports import free_port

FOLDER = Path(__file__).parent.parent / "examples" / "kubernetes"
PATHS = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Service": "/api/v1/namespaces/{}/services",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
}


def manifests() -> dict[str, dict[str, Any]]:
    """All objects by their kinds, of which each comes once."""
    things = [
        thing
        for file in sorted(FOLDER.glob("*.yaml"))
        for thing in yaml.safe_load_all(file.read_text())
    ]
    found = {thing["kind"]: thing for thing in things}
    assert len(found) == len(things)
    return found


@pytest.fixture
async def lab(
    tmp_path: Path, kube_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Lab]:
    require_kube()
    async with open_lab("real", tmp_path, kube_folder, monkeypatch) as lab:
        yield lab


def test_they_fit_each_other() -> None:
    things = manifests()
    assert things.keys() == PATHS.keys()
    key, _, value = SELECTOR.partition("=")
    service = things["Service"]
    assert service["metadata"]["labels"] == service["spec"]["selector"] == {key: value}
    assert service["spec"]["clusterIP"] == "None"
    assert things["StatefulSet"]["spec"]["serviceName"] == service["metadata"]["name"]
    account = things["ServiceAccount"]["metadata"]["name"]
    binding = things["RoleBinding"]
    assert [subject["name"] for subject in binding["subjects"]] == [account]
    assert binding["roleRef"]["name"] == things["Role"]["metadata"]["name"]
    for kind in ("Deployment", "StatefulSet"):
        spec = things[kind]["spec"]
        template = spec["template"]
        assert spec["selector"]["matchLabels"] == template["metadata"]["labels"] == {key: value}
        assert template["spec"]["serviceAccountName"] == account
        assert environment(kind).keys() >= {"NODE_NAME", "COOKIE"}
    assert f'kubernetes("{SELECTOR}"' in (FOLDER / "main.py").read_text()


def environment(kind: str, **fields: str) -> dict[str, str]:
    """What a kubelet makes of a container's environment; ``fields`` are those of the pod."""
    [container] = manifests()[kind]["spec"]["template"]["spec"]["containers"]
    found: dict[str, str] = {}
    for each in container["env"]:
        value = each.get("value")
        if value is None:
            source = each["valueFrom"]
            path = source.get("fieldRef", {}).get("fieldPath", "cookie")
            value = fields.get(path.rpartition(".")[2], "")
        for name, known in found.items():
            value = value.replace(f"$({name})", known)
        found[each["name"]] = value
    return found


def test_the_names_in_them_are_those_that_the_strategy_makes() -> None:
    assert environment("Deployment", podIP="10.0.0.7")["NODE_NAME"] == "my_app@10.0.0.7"
    names = environment("StatefulSet", name="my-app-0", namespace="n")
    assert names["NODE_NAME"] == "my_app@my-app-0.my-app.n.svc.cluster.local"
    assert names["NODE_MODE"] == "hostname"


async def test_a_real_api_server_takes_them(lab: Lab) -> None:
    assert isinstance(lab.server, KubeServer)
    for kind, thing in manifests().items():
        path = f"{PATHS[kind].format(lab.namespace.name)}?dryRun=All&fieldValidation=Strict"
        status, answer = lab.server.status_of("POST", path, thing)
        assert status == 200, answer
        for key, value in thing.get("spec", {}).items():
            if key in {"replicas", "serviceName", "clusterIP", "publishNotReadyAddresses"}:
                assert answer["spec"][key] == value  # not dropped as unknown


async def test_the_role_gives_what_is_needed_and_no_more_by_a_real_api_server(lab: Lab) -> None:
    """The account of the tests stands in for the one of the manifests."""
    things = manifests()
    role, binding = things["Role"], things["RoleBinding"]
    binding["subjects"][0] |= {"name": "barnacle", "namespace": "default"}
    roles, bindings = (PATHS[kind].format(lab.namespace.name) for kind in ("Role", "RoleBinding"))
    lab.server.request("POST", bindings, binding)
    lab.namespace.put_slice("one", [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}])
    strategy = lab.strategy(lookup="endpointslices")

    async def served_kind() -> str:
        async with serving(strategy) as served:
            answer = await served.until(lambda answer: True)
        return answer.kind

    [rule] = role["rules"]
    verbs = rule["verbs"]
    lab.server.request("POST", roles, role)
    await _until(served_kind, "complete")
    for missing, kind in (("list", "failed"), ("watch", "partial")):
        rule["verbs"] = [verb for verb in verbs if verb != missing]
        lab.server.request("PUT", f"{roles}/{role['metadata']['name']}", role)
        await _until(served_kind, kind)
    for lookup in ("pods", "endpoints"):
        answer = await discover(lab.strategy(lookup=lookup), LOCAL)
        assert answer.kind == "failed"


async def _until(ask: Any, wanted: str) -> None:
    """A server takes some moments to know new rights."""
    with trio.fail_after(10):
        while await ask() != wanted:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.05)


# -- the program ----------------------------------------------------------------------------------


@asynccontextmanager
async def running(config: Path, port: int, **env: str) -> AsyncIterator[trio.Process]:
    own = {name: value for name, value in os.environ.items() if name != "KUBERNETES_SERVICE_HOST"}
    process = await trio.lowlevel.open_process(
        [sys.executable, "-W", "error", "main.py"],
        cwd=FOLDER,
        env={**own, **env, "KUBECONFIG": str(config), "NODE_PORT": str(port)},
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        with trio.move_on_after(5, shield=True):
            await process.wait()
        assert process.stdout is not None
        await trio.aclose_forcefully(process.stdout)


async def _line(process: trio.Process, wanted: str) -> None:
    seen = b""
    assert process.stdout is not None
    with trio.fail_after(20):
        while wanted.encode() not in seen:
            data = await process.stdout.receive_some()
            assert data, seen
            seen += data


async def test_two_pods_meet_and_part_by_a_fake_api_server(tmp_path: Path) -> None:
    port = free_port()
    names = [environment("Deployment", podIP=f"127.0.0.{index}") for index in (2, 3)]
    async with open_fake_kube() as fake:
        config = write_kubeconfig(fake, tmp_path)
        endpoints = [
            {"addresses": [f"127.0.0.{index}"], "conditions": {"ready": True}} for index in (2, 3)
        ]
        thing = {"metadata": {"labels": {"app": "my-app"}}, "endpoints": endpoints}
        fake.put(f"/apis/{V1}/namespaces/default/endpointslices/one", thing, "ADDED")
        cookie = "a-cookie-for-the-examples"
        one = running(config, port, **{**names[0], "COOKIE": cookie})
        other = running(config, port, **{**names[1], "COOKIE": cookie})
        async with one as first, other as second:
            await _line(first, "up: my_app@127.0.0.3\n")
            await _line(second, "up: my_app@127.0.0.2\n")
            second.send_signal(signal.SIGTERM)
            await _line(first, "down: my_app@127.0.0.3 (left)\n")
            await _line(second, "left\n")
            with trio.fail_after(20):
                assert await second.wait() == 0
