"""A real Kubernetes API server for tests, and how tests make pods, services and rights in it.

It is found by the environment variable ``KUBE_APISERVER_START``: a program that runs one in a
folder, on two ports of loopback, and prints where it is. It takes some seconds and 400 MB, so that
there is one at a time, whatever the number of workers: who needs it holds a lock meanwhile. There
is neither a kubelet nor a controller behind it, so that tests play both.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError

import pytest

from tests.ports import free_port

START = "KUBE_APISERVER_START"
ADMIN_TOKEN = "admintoken"
POD_TOKEN = "podtoken"
POD_USER = "system:serviceaccount:default:barnacle"


def require_kube() -> None:
    """Skip the test, with a reason, where there is no server to be had."""
    if START not in os.environ:
        pytest.skip(f"{START} is not set: NOT tested against a real Kubernetes API server")


@dataclass
class KubeServer:
    """The server in a folder; its port and its certificate outlive restarts."""

    folder: Path
    port: int
    etcd_port: int
    slices_group: str = "discovery.k8s.io/v1beta1"
    _starter: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self) -> str:
        return (self.folder / "certs" / "apiserver.crt").read_text()

    def start(self) -> None:
        """Run it and wait until it answers."""
        self.folder.mkdir(exist_ok=True)
        if all(each is not self for each in _started):
            _started.append(self)
        program = self.folder.parent / "kube-apiserver"
        starter = os.environ[START]
        if not program.exists():  # unpacked once
            packed = Path(starter).with_name("kube-apiserver.xz")
            draft = program.with_suffix(".draft")
            with draft.open("wb") as file:
                subprocess.run(["xz", "-dc", packed], stdout=file, check=True)
            draft.chmod(0o755)
            draft.rename(program)
        self._starter = subprocess.Popen(
            [starter, str(self.folder), str(self.port), str(self.etcd_port)],
            env={**os.environ, "KUBE_APISERVER": str(program)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._starter.stdout is not None
        for line in self._starter.stdout:
            key, _, value = line.strip().partition("=")
            if key == "APISERVER_PID":
                (self.folder / "pid").write_text(value)
                break
        else:
            pytest.fail((self.folder / "api.log").read_text()[-2000:])
        deadline = time.monotonic() + 30
        while not self._ready():
            assert time.monotonic() < deadline, "the API server never became ready"
            time.sleep(0.05)

    def compact(self) -> None:
        """Have the store forget all versions but the present ones."""

        def ask(path: str, body: Mapping[str, str]) -> Any:
            url = f"http://127.0.0.1:{self.etcd_port}/v3/kv/{path}"
            with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=10) as answer:
                return json.loads(answer.read())

        revision = ask("range", {"key": "AA=="})["header"]["revision"]
        ask("compaction", {"revision": revision})

    def kill(self) -> None:
        """End it without a word; what it stored stays. Its starter then ends the store."""
        os.kill(int((self.folder / "pid").read_text()), signal.SIGKILL)
        self._reap()

    def end(self) -> None:
        """End what this process started, unless another worker did."""
        if self._starter is not None and self._starter.poll() is None:
            self.kill()
        self._reap()

    def _reap(self) -> None:
        if self._starter is not None:
            self._starter.wait(20)
            assert self._starter.stdout is not None
            self._starter.stdout.close()
            self._starter = None

    def _ready(self) -> bool:
        try:
            self.request("GET", "/readyz", text=True)
            self.request("GET", "/api/v1/namespaces/default")
        except (HTTPError, OSError):
            return False
        return True

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        text: bool = False,
    ) -> Any:
        """What the server answers the administrator, parsed; an error status raises."""
        asked = urllib.request.Request(  # noqa: S310 - always https
            f"{self.url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {ADMIN_TOKEN}", "Content-Type": content_type},
        )
        context = ssl.create_default_context(cadata=self.ca)
        with urllib.request.urlopen(asked, context=context, timeout=10) as answer:  # noqa: S310
            content = answer.read().decode()
        return content if text else json.loads(content)

    def status_of(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and parsed body of an answer, whatever it is."""
        try:
            return 200, self.request(method, path, body)
        except HTTPError as error:
            with error:
                return error.code, json.loads(error.read())


class Server(Protocol):
    """What tests need of a server, real or not."""

    slices_group: str

    @property
    def url(self) -> str: ...

    @property
    def ca(self) -> str: ...

    def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = ..., text: bool = ...
    ) -> Any: ...


class Namespace:
    """A namespace of a test's own, and what a kubelet and the controllers would do in it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.name = f"test-{secrets.token_hex(4)}"
        self._post("/api/v1/namespaces", {"metadata": {"name": self.name}})

    @property
    def api(self) -> str:
        return f"/api/v1/namespaces/{self.name}"

    @property
    def slices(self) -> str:
        return f"/apis/{self.server.slices_group}/namespaces/{self.name}/endpointslices"

    def _post(self, path: str, body: object) -> Any:
        return self.server.request("POST", path, body)

    def _patch(self, path: str, body: object) -> Any:
        return self.server.request("PATCH", path, body, content_type="application/merge-patch+json")

    def create_pod(self, name: str, *ips: str, ready: bool = True, **spec: object) -> None:
        """A pod with the label ``app=my-app``; it has its addresses at once if they are given."""
        metadata = {"name": name, "labels": {"app": "my-app"}}
        container = {"name": "main", "image": "none"}
        body = {"metadata": metadata, "spec": {"containers": [container], **spec}}
        self._post(f"{self.api}/pods", body)
        if ips:
            self.set_pod(name, *ips, ready=ready)

    def set_pod(self, name: str, *ips: str, ready: bool = True, phase: str = "Running") -> None:
        """What a kubelet reports of a pod."""
        status = {
            "phase": phase,
            "podIP": ips[0],
            "podIPs": [{"ip": ip} for ip in ips],
            "conditions": [{"type": "Ready", "status": str(ready)}],
        }
        self._patch(f"{self.api}/pods/{name}/status", {"status": status})

    def delete_pod(self, name: str, *, grace: int = 0) -> None:
        """Without grace it is gone at once; with it, it is terminating: no kubelet ends it."""
        path = f"{self.api}/pods/{name}"
        if grace:
            # Only a pod that a node has taken is given time.
            binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": "a-node"}}
            self._post(f"{path}/binding", binding)
        self.server.request("DELETE", f"{path}?gracePeriodSeconds={grace}")

    def allow(self, *resources: str, group: str = "", verbs: tuple[str, ...]) -> None:
        """Give the pods' account rights in this namespace."""
        name = f"role-{secrets.token_hex(3)}"
        rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{self.name}"
        rule = {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}
        self._post(f"{rbac}/roles", {"metadata": {"name": name}, "rules": [rule]})
        self._post(
            f"{rbac}/rolebindings",
            {
                "metadata": {"name": name},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "Role",
                    "name": name,
                },
                "subjects": [
                    {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": POD_USER}
                ],
            },
        )

    def put_slice(self, name: str, endpoints: list[dict[str, Any]], *, kind: str = "IPv4") -> None:
        """What the endpoints' controller writes for the service ``my-svc``."""
        labels = {"app": "my-app", "kubernetes.io/service-name": "my-svc"}
        body = {
            "metadata": {"name": name, "labels": labels},
            "addressType": kind,
            "endpoints": endpoints,
            "ports": [{"name": "epmd", "port": 4369, "protocol": "TCP"}],
        }
        self._post(self.slices, body)

    def put_endpoints(self, name: str, subsets: list[dict[str, Any]]) -> None:
        body = {"metadata": {"name": name, "labels": {"app": "my-app"}}, "subsets": subsets}
        self._post(f"{self.api}/endpoints", body)

    def write_account(self, folder: Path, *, token: str = POD_TOKEN) -> Path:
        """A service account's folder as a pod finds it."""
        folder.mkdir(exist_ok=True)
        (folder / "namespace").write_text(self.name)
        (folder / "ca.crt").write_text(self.server.ca)
        (folder / "token").write_text(token)
        return folder


@contextmanager
def sharing_kube(shared: Path) -> Iterator[KubeServer]:
    """The one server of this run of tests, for one test at a time.

    ``shared`` is a folder that all workers know. The server is left running for the next one; who
    started it ends it by `end_kube`.
    """
    with (shared / "kube.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = _running(shared)
        yield server


_started: list[KubeServer] = []


def _running(shared: Path) -> KubeServer:
    note = shared / "kube.json"
    if note.exists():
        ports: Mapping[str, int] = json.loads(note.read_text())
        server = next(
            (each for each in _started if each.port == ports["port"]),
            KubeServer(shared / "kube", ports["port"], ports["etcd_port"]),
        )
        if server._ready():
            return server
        shutil.rmtree(server.folder, ignore_errors=True)
    server = KubeServer(shared / "kube", free_port(), free_port())
    server.start()
    note.write_text(json.dumps({"port": server.port, "etcd_port": server.etcd_port}))
    return server


def end_kube(shared: Path) -> None:
    """End what this worker started."""
    if not _started:
        return
    with (shared / "kube.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (shared / "kube.json").unlink(missing_ok=True)
        for server in _started:
            server.end()
    _started.clear()
