"""The fake API server of these tests, held against a real one: the same questions to both."""

from __future__ import annotations

import json
import ssl
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import trio

from tests.kube_lab import Lab, open_lab
from tests.kube_server import ADMIN_TOKEN, POD_TOKEN, require_kube

NAMESPACES = "/api/v1/namespaces"
QUESTIONS = {
    "a list": (f"{NAMESPACES}/{{}}/pods?labelSelector=app%3Dmy-app", ADMIN_TOKEN),
    "a page": (f"{NAMESPACES}/{{}}/pods?limit=1", ADMIN_TOKEN),
    "nothing selected": (f"{NAMESPACES}/{{}}/pods?labelSelector=app%3Dother", ADMIN_TOKEN),
    "an unknown namespace": (f"{NAMESPACES}/nowhere/endpoints", ADMIN_TOKEN),
    "endpoints": (f"{NAMESPACES}/{{}}/endpoints?fieldSelector=metadata.name%3Dx", ADMIN_TOKEN),
    "slices": ("/apis/{group}/namespaces/{}/endpointslices", ADMIN_TOKEN),
    "a bad token": (f"{NAMESPACES}/{{}}/pods", "unknown"),
    "a missing right": (f"{NAMESPACES}/{{}}/pods", POD_TOKEN),
    "an unknown kind": (f"{NAMESPACES}/{{}}/nothing", ADMIN_TOKEN),
    "a bad selector": (f"{NAMESPACES}/{{}}/pods?labelSelector=%3D%3D%3D", ADMIN_TOKEN),
}
WATCH = f"{NAMESPACES}/{{}}/pods?watch=1&timeoutSeconds=1&resourceVersion={{version}}"


def shape(value: Any) -> Any:
    """What something is made of, without what it says; of a list, what its first is made of."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return type(value).__name__


def fits(fake: Any, real: Any) -> bool:
    """Whether all that the fake sends has the place and the form that it has in the real one."""
    if isinstance(fake, dict) and isinstance(real, dict):
        return all(key in real and fits(each, real[key]) for key, each in fake.items())
    if isinstance(fake, list) and isinstance(real, list):
        return not fake or (bool(real) and fits(fake[0], real[0]))
    return bool(fake == real)


async def ask(lab: Lab, path: str, token: str) -> tuple[int, str, str]:
    """Status, content type and body of an answer."""
    address = path.format(lab.namespace.name, group=lab.server.slices_group)
    asked = urllib.request.Request(  # noqa: S310 - always https
        f"{lab.server.url}{address}", headers={"Authorization": f"Bearer {token}"}
    )

    def blocking() -> tuple[int, str, str]:
        context = ssl.create_default_context(cadata=lab.server.ca)
        try:
            answer = urllib.request.urlopen(asked, context=context, timeout=10)  # noqa: S310
        except HTTPError as error:
            answer = error
        with answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()

    return await trio.to_thread.run_sync(blocking)


async def test_it_answers_in_the_shapes_of_a_real_one(
    tmp_path: Path, kube_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_kube()
    (tmp_path / "fake").mkdir()
    async with (
        open_lab("real", tmp_path, kube_folder, monkeypatch) as real,
        open_lab("fake", tmp_path / "fake", kube_folder, monkeypatch) as fake,
    ):
        for lab in (real, fake):
            lab.namespace.create_pod("one", "10.0.0.1", "fd00::1")
            lab.namespace.create_pod("two", "10.0.0.2")
            lab.namespace.put_endpoints("x", [{"addresses": [{"ip": "10.0.0.1"}]}])
            conditions = {"ready": True}
            lab.namespace.put_slice("x", [{"addresses": ["10.0.0.1"], "conditions": conditions}])
        for question, (path, token) in QUESTIONS.items():
            status, kind, body = await ask(real, path, token)
            assert (status, kind) == (await ask(fake, path, token))[:2], question
            told, wanted = json.loads((await ask(fake, path, token))[2]), json.loads(body)
            assert fits(shape(told), shape(wanted)), question
            for key in ("kind", "reason", "code", "status"):
                assert told.get(key) == wanted.get(key), question
        lines = [await _watch(lab) for lab in (real, fake)]
        assert fits(shape(lines[1]), shape(lines[0]))
        assert lines[0]["type"] == lines[1]["type"] == "MODIFIED"
        assert lines[0]["object"]["kind"] == lines[1]["object"]["kind"] == "Pod"


async def _watch(lab: Lab) -> Any:
    """The first event of a watch from a list on, with a change since."""
    _, _, listed = await ask(lab, f"{NAMESPACES}/{{}}/pods", ADMIN_TOKEN)
    version = json.loads(listed)["metadata"]["resourceVersion"]
    lab.namespace.set_pod("two", "10.0.0.3")
    _, _, body = await ask(lab, WATCH.replace("{version}", version), ADMIN_TOKEN)
    return json.loads(body.splitlines()[0])
