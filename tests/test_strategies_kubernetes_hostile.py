"""A Kubernetes API server, faked, that does what one should not: each is a failed answer."""

from __future__ import annotations

import gzip
import json
import resource
import ssl
import traceback
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from barnacle_trio._strategy import discover
from barnacle_trio.strategies import _kube_api, _kube_http, _kube_watch
from tests.kube_fake import (
    Authority,
    Script,
    answered,
    chunk,
    drips,
    head,
    open_fake_kube,
    replies,
    sends,
)
from tests.kube_lab import LOCAL, Lab, open_lab, serving
from tests.kube_server import POD_TOKEN

PODS = {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}}
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture
async def lab(
    tmp_path: Path, kube_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Lab]:
    async with open_lab("fake", tmp_path, kube_folder, monkeypatch) as lab:
        lab.allow_pods()
        lab.namespace.create_pod("first", "10.0.0.1")
        yield lab


def pods(items: object, **meta: object) -> bytes:
    return answered(200, {**PODS, "metadata": {**PODS["metadata"], **meta}, "items": items})  # type: ignore[dict-item]


def forever() -> Script:
    return sends(then=trio.sleep_forever)


REFUSED: dict[str, tuple[Script, str]] = {
    "500": (sends(answered(500, {"kind": "Status", "message": "no\netcd"})), r"500: 'no\netcd'"),
    "503 that says nothing": (sends(answered(503, b"")), "answers 503"),
    "no HTTP": (sends(b"SSH-2.0-OpenSSH_9.2\r\n"), "breaks off"),
    "hangs up": (sends(), "breaks off"),
    "silence": (forever(), "does not answer in time"),
    "an endless head": (drips(b"X-More: yes\r\n" * 1000, every=0), "breaks off"),
    "a head that drips": (drips(b"H", every=0.05), "does not answer in time"),
    "a body that drips": (
        sends(head(200, CHUNKED), chunk(b"{"), then=trio.sleep_forever),
        "does not answer in time",
    ),
    "a body that breaks off": (sends(head(200, "Content-Length: 99"), b"{"), "breaks off"),
    "a gigabyte announced": (
        sends(head(200, "Content-Length: 1073741824"), b" " * 9_000_000, then=trio.sleep_forever),
        "more than 8388608 bytes",
    ),
    "compressed though not asked": (
        sends(answered(200, gzip.compress(b" " * 10**8), "Content-Encoding: gzip")),
        "in the encoding 'gzip', unasked",
    ),
    "no JSON": (sends(answered(200, b"<html>")), "sends no JSON"),
    "no text": (sends(answered(200, b'{"kind": "\xff"}')), "sends no JSON"),
    "a number of many digits": (sends(answered(200, b"9" * 5000)), "sends no JSON"),
    "deep JSON": (sends(answered(200, b"[" * 100_000)), "sends no JSON (RecursionError)"),
    "deep JSON, whole": (
        sends(answered(200, b'{"a":' * 100_000 + b"1" + b"}" * 100_000)),
        "sends no JSON (RecursionError)",
    ),
    "not an object": (sends(answered(200, b"[]")), "not an object of JSON"),
    "the wrong kind": (sends(answered(200, {**PODS, "kind": "NodeList"})), "'NodeList'"),
    "no version": (sends(answered(200, {"kind": "PodList"})), "a list without a version"),
    "a pod without a name": (sends(pods([{"metadata": None}])), "an object without a name"),
    "a switch of protocols": (sends(head(101, "Upgrade: x", "Connection: upgrade")), "breaks off"),
    "an empty answer": (sends(answered(204, b"")), "answers 204"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_it_is_a_failed_answer_with_a_reason(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    script, reason = REFUSED[name]
    lab.fake.scripts.append(script)
    began = trio.current_time()
    with monkeypatch.context() as patch:
        if "in time" in reason:
            patch.setattr(_kube_http, "ANSWER_WITHIN", 0.5)
        answer = await discover(lab.strategy(), LOCAL)
    assert answer.kind == "failed"
    assert reason in str(answer.error)
    assert trio.current_time() - began < 5
    assert await lab.names() == {"my_app@10.0.0.1"}  # and it has not hurt


async def test_nothing_in_an_error_holds_the_token(lab: Lab) -> None:
    lab.fake.scripts.append(sends(answered(400, {"message": f"I saw {POD_TOKEN} of yours"})))
    answer = await discover(lab.strategy(), LOCAL)
    assert answer.error is not None
    assert POD_TOKEN not in "".join(traceback.format_exception(answer.error))
    assert "I saw ... of yours" in str(answer.error)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed_and_no_token_goes_there(lab: Lab, status: int) -> None:
    async with open_fake_kube() as elsewhere:
        lab.fake.scripts.append(
            sends(answered(status, b"", f"Location: {elsewhere.url}/api/v1/pods"))
        )
        assert "redirects to elsewhere" in await lab.failure()
        assert elsewhere.requests == []


@pytest.mark.parametrize("items", [None, [], {}, "pods", 7])
async def test_items_that_are_none_are_no_pods(lab: Lab, items: object) -> None:
    lab.fake.scripts.append(sends(pods(items)))
    assert await lab.names() == set()


async def test_pods_of_all_shapes(lab: Lab) -> None:
    def pod(name: str, **status: object) -> object:
        ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        return {"metadata": {"name": name}, "status": {**ready, **status}}

    many = [
        pod("a"),
        pod("b", podIP=None),
        pod("c", podIP=""),
        pod("d", podIP="10.0.0.300"),
        pod("e", podIP=["10.0.0.1"]),
        pod("f", podIP="0.0.0.0"),  # noqa: S104 - nobody binds it
        pod("g", podIP="224.0.0.1"),
        pod("h", podIPs="10.0.0.1", podIP="10.0.0.9"),
        pod("i", podIPs=[None, {}, {"ip": 7}, {"ip": "10.0.0.8"}]),
        pod("j", podIP="10.0.0.8"),
        {"metadata": {"name": "k"}, "status": None, "spec": []},
        {"metadata": {"name": "l"}},
        pod("m", conditions=None),
        pod("n", podIP="10.0.0.7\nX: y"),
    ]
    lab.fake.scripts.append(sends(pods(many)))
    assert await lab.names() == {"my_app@10.0.0.9", "my_app@10.0.0.8"}


async def test_a_list_that_breaks_off_is_a_partial_answer(lab: Lab) -> None:
    lab.namespace.create_pod("second", "10.0.0.2")
    first = pods([lab.fake._objects[f"{lab.namespace.api}/pods/first"]], **{"continue": "more"})
    lab.fake.scripts += [replies(first), sends(answered(500, b""))]
    answer = await discover(lab.strategy(), LOCAL)
    assert answer.kind == "partial"
    assert answer.nodes == {"my_app@10.0.0.1"}
    # So is one for which the time runs out.
    lab.fake.scripts += [replies(first), forever()]
    with trio.fail_after(0.3):
        answer = await discover(lab.strategy(), LOCAL)
    assert answer.kind == "partial"
    assert answer.nodes == {"my_app@10.0.0.1"}
    assert "no whole answer in time" in str(answer.error)


async def test_a_list_without_an_end_has_one(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kube_api, "MAX_PAGES", 5)
    lab.fake.scripts += [replies(pods([], **{"continue": "more"}))] * 6
    answer = await discover(lab.strategy(), LOCAL)
    assert answer.kind == "partial"
    assert "more than 5 pages" in str(answer.error)
    assert len(lab.fake.scripts) == 1


async def test_too_many_pods_are_named_in_part(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from barnacle_trio.strategies import _kube_state

    monkeypatch.setattr(_kube_state, "MAX_INSTANCES", 6)
    for index in range(2, 6):
        lab.namespace.create_pod(f"pod-{index}", f"10.0.0.{index}")
    answer = await discover(lab.strategy(), LOCAL)
    assert answer.kind == "partial"
    assert len(answer.nodes) == 3


async def test_memory_stays_within_bounds(lab: Lab) -> None:
    await lab.names()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    chunks = [chunk(b" " * 65536)] * 200  # 13 MB of a body that has no end
    lab.fake.scripts.append(sends(head(200, CHUNKED), *chunks, then=trio.sleep_forever))
    assert "more than 8388608 bytes" in await lab.failure()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


# -- being asked to stay away ---------------------------------------------------------------------


async def test_429_is_honoured_by_asking_no_more_for_as_long(lab: Lab) -> None:
    strategy = lab.strategy(watch=False)
    lab.fake.scripts.append(sends(answered(429, {"message": "slow down"}, "Retry-After: 1")))
    for _ in range(3):
        answer = await discover(strategy, LOCAL)
        assert answer.kind == "failed"
        assert "answers 429: 'slow down'" in str(answer.error)
    assert len(lab.fake.requests) == 1
    await trio.sleep(1)
    assert (await discover(strategy, LOCAL)).kind == "complete"


@pytest.mark.parametrize(
    ("stated", "seconds"),
    [("7", 7), ("0", 0), ("9" * 50, 120), ("-1", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)],
)
def test_how_long_is_within_bounds(stated: str, seconds: float | None) -> None:
    assert _kube_http._retry_after(stated) == seconds


# -- who it is ------------------------------------------------------------------------------------


async def test_another_authority_is_not_believed_and_sees_no_token(lab: Lab) -> None:
    (lab.account / "ca.crt").write_text(Authority().pem)
    assert "cannot be verified: " in await lab.failure()
    assert lab.fake.requests == []


async def test_another_name_is_not_believed(
    tmp_path: Path, kube_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab("fake", tmp_path, kube_folder, monkeypatch, names=("other.test",)) as lab:
        assert "IP address mismatch" in await lab.failure()
        assert lab.fake.requests == []


async def test_a_missing_or_empty_authority_is_not_done_without(lab: Lab) -> None:
    for nothing in ("", "\n", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"):
        (lab.account / "ca.crt").write_text(nothing)
        assert "holds no certificate" in await lab.failure()
    (lab.account / "ca.crt").unlink()
    assert "ca.crt cannot be read: No such file" in await lab.failure()
    assert lab.fake.requests == []


async def test_a_server_without_tls_is_told(
    tmp_path: Path, kube_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = b""

    async def plain(stream: trio.SocketStream) -> None:
        nonlocal seen
        seen += await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with open_lab("fake", tmp_path, kube_folder, monkeypatch) as lab:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, plain, 0, host="127.0.0.1"))
            port = listeners[0].socket.getsockname()[1]
            monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))
            assert "does not speak TLS as it should" in await lab.failure()
            nursery.cancel_scope.cancel("the test is over")
        assert POD_TOKEN.encode() not in seen


def test_what_is_verified_is_verified_always() -> None:
    from barnacle_trio.strategies._kube_access import verifying_context

    context = verifying_context(Authority().pem, "here")
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1


# -- while watching -------------------------------------------------------------------------------


def event(what: str, **thing: object) -> bytes:
    return chunk(json.dumps({"type": what, "object": thing}).encode() + b"\n")


MODIFIED = {"kind": "Pod", "metadata": {"name": "first", "resourceVersion": "999"}}
WATCHES: dict[str, tuple[list[bytes], str | None]] = {
    "410 as an event": ([event("ERROR", kind="Status", code=410, message="too old")], None),
    "500 as an event": (
        [event("ERROR", kind="Status", code=500, message="no etcd")],
        "ends a watch: 500 'no etcd'",
    ),
    "an error without a code": ([event("ERROR")], "ends a watch: 0"),
    "no JSON": ([chunk(b"boo\n")], "sends no JSON"),
    "no event": ([chunk(b"{}\n")], "an event without a type"),
    "of another kind": ([event("ADDED", kind="Node")], "an event of 'Node', not of a Pod"),
    "without a name": ([event("ADDED", kind="Pod")], "an object without a name"),
    "without a version": (
        [event("ADDED", kind="Pod", metadata={"name": "x"})],
        "without a version",
    ),
    "a bookmark of nothing": ([event("BOOKMARK", kind="Pod")], "a bookmark without a version"),
    "a long line": ([chunk(b" " * 70_000)] * 3, "a line of more than 100000 bytes"),
    "half a line": ([chunk(b'{"type": "ADD'), b"0\r\n\r\n"], None),
    "cut in a chunk": ([b"ffff\r\nab"], None),
    "an unknown event, blank lines": ([event("PRAISED"), chunk(b"\n \n\n"), b"0\r\n\r\n"], None),
}


@pytest.mark.parametrize("name", WATCHES)
async def test_a_watch_that_goes_wrong_is_begun_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(_kube_watch, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(_kube_api, "MAX_EVENT", 100_000)
    sent, reason = WATCHES[name]
    async with serving(lab.strategy()) as served:
        await served.until_named("my_app@10.0.0.1")
        lab.fake.scripts += [sends(head(200, CHUNKED), *sent)] * (3 if reason else 1)
        lab.fake.cut()

        async def soon() -> None:
            await trio.sleep(0.005)

        if reason is not None:
            failed = await served.until(lambda answer: answer.kind == "failed", ask=soon)
            assert reason in str(failed.error)
        with trio.fail_after(10):
            while lab.fake.scripts:
                await soon()
        lab.namespace.create_pod("second", "10.0.0.2")
        await served.until_named("my_app@10.0.0.1", "my_app@10.0.0.2")


async def test_a_watch_that_falls_silent_is_begun_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kube_watch, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(_kube_api, "SILENCE", 0.2)
    async with serving(lab.strategy()) as served:
        await served.until_named("my_app@10.0.0.1")
        # One that drips without ever ending a line is silent too.
        lab.fake.scripts += [
            sends(head(200, CHUNKED), then=trio.sleep_forever),
            sends(head(200, CHUNKED), *[chunk(b" ")] * 50, then=trio.sleep_forever),
        ]
        lab.fake.cut()
        with trio.fail_after(10):
            while lab.fake.scripts:  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.01)
        assert (await served.answer()).kind == "complete"
        lab.namespace.create_pod("second", "10.0.0.2")
        await served.until_named("my_app@10.0.0.1", "my_app@10.0.0.2")
        assert len(lab.fake.lists()) == 1
