"""How an API server is reached: service accounts, and the files of ``kubectl``."""

from __future__ import annotations

import base64
import os
import ssl
import traceback
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

from barnacle_trio import ConfigurationError, kubernetes
from barnacle_trio._errors import DiscoveryError
from barnacle_trio._strategy import discover
from barnacle_trio.strategies._kube_access import Access, read_service_account
from barnacle_trio.strategies._kube_config import kubeconfig_paths, read_kubeconfig
from tests.kube_fake import Authority, FakeKube, open_fake_kube, populate, write_kubeconfig
from tests.kube_lab import LOCAL

SECRET = "s3cret-t0ken"
AUTHORITY = Authority()
ENVIRON = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def write_account(folder: Path, **files: str) -> Path:
    for name, text in {
        "token": f"{SECRET}\n",
        "ca.crt": AUTHORITY.pem,
        "namespace": "my-place",
        **{name.replace("_", "."): text for name, text in files.items()},
    }.items():
        (folder / name).write_text(text)
    return folder


async def refused(awaitable: Any) -> str:
    with pytest.raises(DiscoveryError) as caught:
        await awaitable
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return caught.value.reason


# -- in a pod -------------------------------------------------------------------------------------


async def test_a_pods_account(tmp_path: Path) -> None:
    access = await read_service_account(write_account(tmp_path), ENVIRON)
    assert (access.server, access.namespace) == ("https://10.96.0.1:443", "my-place")
    assert access.token == SECRET
    assert SECRET not in repr(access)
    v6 = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT_HTTPS": "6443"}
    assert (await read_service_account(tmp_path, v6)).server == "https://[fd00::1]:6443"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"token": ""}, "holds no token"),
        ({"token": f"{SECRET}\nX-Evil: yes"}, "holds no token"),
        ({"token": f"{SECRET}\x00"}, "holds no token"),
        ({"token": f"{SECRET}é"}, "holds no token"),
        ({"token": SECRET * 100_000}, "it is longer than 1048576 bytes"),
        ({"namespace": "../secrets"}, "'../secrets' is not the name of a namespace"),
        ({"namespace": ""}, "is not the name of a namespace"),
        ({"ca_crt": SECRET}, "holds no certificate"),
    ],
)
async def test_what_is_wrong_with_an_account(
    tmp_path: Path, files: dict[str, str], reason: str
) -> None:
    assert reason in await refused(read_service_account(write_account(tmp_path, **files), ENVIRON))


@pytest.mark.parametrize("name", ["token", "ca.crt", "namespace"])
async def test_a_missing_part_of_an_account(tmp_path: Path, name: str) -> None:
    path = write_account(tmp_path) / name
    path.unlink()
    assert f"{path} cannot be read: No such file" in await refused(
        read_service_account(tmp_path, ENVIRON)
    )
    os.mkfifo(path)
    with trio.fail_after(5):
        assert "it is not a regular file" in await refused(read_service_account(tmp_path, ENVIRON))


async def test_elsewhere_than_in_a_pod(tmp_path: Path) -> None:
    assert "this is not a pod" in await refused(read_service_account(write_account(tmp_path), {}))


# -- kubeconfig -----------------------------------------------------------------------------------


def config(
    folder: Path, *, name: str = "config", cluster: object = None, user: object = None, **more: Any
) -> Path:
    path = folder / name
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "dev",
        "contexts": [{"name": "dev", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": cluster or {"server": "https://k8s.test:6443/"}}],
        "users": [{"name": "u", "user": user or {}}],
        **more,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def data(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def read(path: Path, context: str | None = None) -> Access:
    return await read_kubeconfig([path], context)


async def test_a_token_and_a_ca_in_place(tmp_path: Path) -> None:
    cluster = {
        "server": "https://k8s.test:6443/",
        "certificate-authority-data": data(AUTHORITY.pem),
        "tls-server-name": "other.test",
    }
    access = await read(config(tmp_path, cluster=cluster, user={"token": SECRET}))
    assert (access.server, access.namespace) == ("https://k8s.test:6443", "default")
    assert (access.token, access.tls_name) == (SECRET, "other.test")
    assert access.tls is not None
    assert len(access.tls.get_ca_certs()) == 1


async def test_files_lie_beside_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(AUTHORITY.pem)
    (tmp_path / "token").write_text(SECRET)
    issued = AUTHORITY.ca.issue_cert("me@dev.test")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    access = await read(
        config(
            tmp_path,
            cluster={"server": "https://k8s.test", "certificate-authority": "ca.pem"},
            user={
                "tokenFile": "token",
                "token": "older",
                "client-certificate": "cert.pem",
                "client-key": str(tmp_path / "key.pem"),
            },
        )
    )
    assert access.token == SECRET


async def test_without_a_ca_the_world_is_believed_but_verified(tmp_path: Path) -> None:
    access = await read(config(tmp_path))
    assert access.tls is not None
    assert access.tls.verify_mode is ssl.CERT_REQUIRED
    assert access.tls.check_hostname


async def test_a_context_is_chosen(tmp_path: Path) -> None:
    path = config(
        tmp_path,
        contexts=[
            {"name": "dev", "context": {"cluster": "k", "user": "u"}},
            {"name": "other", "context": {"cluster": "k", "namespace": "there"}},
        ],
    )
    assert (await read(path, "other")).namespace == "there"
    assert "has no context 'third'" in await refused(read(path, "third"))


async def test_of_several_files_the_first_that_says_something_counts(tmp_path: Path) -> None:
    first = config(tmp_path, name="first", users=[], user={})
    second = config(
        tmp_path, name="second", user={"token": SECRET}, cluster={"server": "https://not.this"}
    )
    access = await read_kubeconfig([first, second])
    assert (access.server, access.token) == ("https://k8s.test:6443", SECRET)


async def test_kubectl_proxy_needs_no_tls(tmp_path: Path) -> None:
    for server in ("http://127.0.0.1:8001", "http://localhost:8001", "http://[::1]:8001"):
        assert (await read(config(tmp_path, cluster={"server": server}))).tls is None
        with_token = config(tmp_path, cluster={"server": server}, user={"token": SECRET})
        assert "is not https" in await refused(read(with_token))
    assert "is not https" in await refused(
        read(config(tmp_path, cluster={"server": "http://10.0.0.1"}))
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cluster": {"server": "https://x", "insecure-skip-tls-verify": True}}, "insecure-skip"),
        ({"cluster": {"server": "https://x", "proxy-url": "http://y"}}, "'proxy-url'"),
        ({"cluster": {"server": "k8s.test"}}, "is not https"),
        ({"cluster": {"server": "https://x", "certificate-authority": "none"}}, "cannot be read"),
        ({"cluster": {"server": "https://x", "certificate-authority-data": "%"}}, "not base64"),
        ({"user": {"exec": {"command": "aws"}}}, "'exec', which is not offered"),
        ({"user": {"username": "me", "password": SECRET}}, "'username', which is not offered"),
        ({"user": {"token": f"{SECRET} "}, "clusters": []}, "has no cluster 'k'"),
        ({"user": {"client-certificate-data": data(SECRET)}}, "no usable client-certificate"),
        ({"users": []}, "has no user 'u'"),
        ({"users": None, "contexts": "dev"}, "has no context 'dev'"),
        ({"current-context": ""}, "has no current-context"),
    ],
)
async def test_what_is_wrong_with_a_file(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    assert reason in await refused(read(config(tmp_path, **changes)))


@pytest.mark.parametrize("text", [f"a: [{SECRET}", f"{SECRET}: !!python/object:x {{}}", "\x00"])
async def test_what_is_neither_yaml_nor_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").write_text(text)
    assert "neither YAML nor JSON" in await refused(read(tmp_path / "config"))


def test_where_the_files_are_looked_for(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    there.write_text("")
    assert kubeconfig_paths(here, {"KUBECONFIG": "elsewhere"}) == [here]
    assert kubeconfig_paths(None, {"KUBECONFIG": f"{here}:{there}:"}) == [there]
    assert kubeconfig_paths(None, {"KUBECONFIG": str(here)}) == [here]
    assert kubeconfig_paths(None, {"HOME": "/home/me"}) == [Path("/home/me/.kube/config")]


async def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    async with open_fake_kube(authority=AUTHORITY) as fake:
        fake.context.load_verify_locations(cadata=AUTHORITY.pem)
        fake.context.verify_mode = ssl.CERT_REQUIRED
        fake.tokens[""] = "admin"
        populate(fake, "10.0.0.7")
        issued = AUTHORITY.ca.issue_cert("me@dev.test")
        user = {
            "client-certificate-data": data(issued.cert_chain_pems[0].bytes().decode()),
            "client-key-data": data(issued.private_key_pem.bytes().decode()),
        }
        cluster = {"server": fake.url, "certificate-authority-data": data(AUTHORITY.pem)}
        path = config(tmp_path, cluster=cluster, user=user)
        strategy = kubernetes("app=my-app", lookup="pods", kubeconfig=path)
        assert set(await strategy(LOCAL)) == {"my_app@10.0.0.7"}


# -- which of the two -----------------------------------------------------------------------------


async def found(fake: FakeKube, **options: Any) -> str:
    answer = await discover(kubernetes("app=my-app", lookup="pods", **options), LOCAL)
    return str(answer.error) if answer.kind == "failed" else ", ".join(answer.nodes)


async def test_a_pod_uses_its_account_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_fake_kube() as fake:
        populate(fake, "10.0.0.7")
        monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(fake, tmp_path)))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        nowhere = tmp_path / "nowhere"
        assert f"{nowhere}/" in await found(fake, service_account=nowhere)
        assert await found(fake, kubeconfig=tmp_path / "kubeconfig") == "my_app@10.0.0.7"
        assert await found(fake, context="fake") == "my_app@10.0.0.7"
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
        assert await found(fake) == "my_app@10.0.0.7"
        monkeypatch.setenv("KUBECONFIG", str(nowhere))
        assert "this is not a pod" in await found(fake)


# -- how it is called -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "needs a selector, or a service"),
        ({"service": "x", "lookup": "pods"}, "needs a selector, or a service"),
        ({"selector": " "}, "selector is a label selector"),
        ({"selector": "a=b\nX"}, "selector is a label selector"),
        ({"selector": "a=b", "lookup": "nodes"}, "lookup is one of 'endpointslices', 'endpoints'"),
        ({"selector": "a=b", "mode": "name"}, "mode is one of 'ip', 'hostname', 'dns'"),
        ({"selector": "a=b", "namespace": "../x"}, "namespace is a name"),
        ({"selector": "a=b", "service": "a.b"}, "service is a name"),
        ({"selector": "a=b", "cluster_domain": ""}, "cluster_domain is a name"),
        ({"selector": "a=b", "basename": ""}, "is not a base name"),
    ],
)
def test_a_call_that_cannot_work(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        kubernetes(**arguments)


def test_its_repr_tells_what_it_was_called_with() -> None:
    assert repr(kubernetes("app=x")) == "kubernetes('app=x')"
    told = "kubernetes('app=x', lookup='pods', service='s', namespace='n')"
    assert repr(kubernetes("app=x", lookup="pods", service="s", namespace="n")) == told


def test_without_the_extra_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [each for each in sys.modules if "strategies._kube_" in each]:
        if name.endswith(("_http", "_connect", "_api", "_strategy", "_watch")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "httpcore2", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'barnacle-trio\[kubernetes\]'"):
        kubernetes("app=x")
