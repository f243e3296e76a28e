"""Pods by the API of Kubernetes: the same tests against a real API server and against a fake."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from barnacle_trio._strategy import ServedStrategy, discover
from barnacle_trio.strategies import _kube_api, _kube_watch
from barnacle_trio.strategies._kube_access import read_service_account
from barnacle_trio.strategies._kube_api import Gone, KubeApi, Selection
from barnacle_trio.strategies._kube_connect import open_http
from barnacle_trio.strategies._kube_wire import RESOURCES, Position
from tests.kube_fake import FakeKube
from tests.kube_lab import LOCAL, SELECTOR, SLICES, Lab, open_lab, serving
from tests.kube_server import require_kube


@pytest.fixture(params=["fake", "real"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "real":
        require_kube()
    return str(request.param)


@pytest.fixture
async def lab(
    kind: str, tmp_path: Path, kube_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Lab]:
    async with open_lab(kind, tmp_path, kube_folder, monkeypatch) as lab:
        yield lab


# -- whom it names --------------------------------------------------------------------------------


async def test_pods_that_serve_are_named_by_their_addresses(lab: Lab) -> None:
    lab.allow_pods("list")
    lab.namespace.create_pod("first", "10.0.0.1")
    lab.namespace.create_pod("second", "10.0.0.2")
    lab.namespace.create_pod("same-address", "10.0.0.2", hostNetwork=True)
    lab.namespace.create_pod("v6", "fd00:0:1::3")
    lab.namespace.create_pod("no-address-yet")
    lab.namespace.create_pod("not-ready", "10.0.0.4", ready=False)
    lab.namespace.create_pod("over", "10.0.0.5")
    lab.namespace.set_pod("over", "10.0.0.5", phase="Failed")
    found = {"my_app@10.0.0.1", "my_app@10.0.0.2", "my_app@fd00:0:1::3"}
    assert await lab.names() == found
    assert await lab.names(not_ready=True) == found | {"my_app@10.0.0.4"}
    assert await lab.names(basename=("a", "b"), match="a") == {
        name.replace("my_app", "a") for name in found
    }
    assert await lab.names("app=other") == set()


async def test_a_pod_on_its_way_out_stays_named_while_it_serves(lab: Lab) -> None:
    lab.allow_pods()
    lab.namespace.create_pod("first", "10.0.0.1")
    lab.namespace.create_pod("leaving", "10.0.0.2")
    async with serving(lab.strategy()) as served:
        await served.until_named("my_app@10.0.0.1", "my_app@10.0.0.2")
        lab.namespace.delete_pod("leaving", grace=300)
        assert await lab.names() == {"my_app@10.0.0.1", "my_app@10.0.0.2"}
        assert (await served.answer()).nodes == {"my_app@10.0.0.1", "my_app@10.0.0.2"}
        lab.namespace.set_pod("leaving", "10.0.0.2", ready=False)
        await served.until_named("my_app@10.0.0.1")
        # It is going, so that nobody is to be connected with it any more.
        assert await lab.names(not_ready=True) == {"my_app@10.0.0.1"}


async def test_a_pod_of_both_families_has_one_name(lab: Lab) -> None:
    lab.allow_pods("list")
    lab.namespace.create_pod("first", "10.0.0.1", "fd00::1")
    strategy = lab.strategy()
    assert set(await strategy(LOCAL)) == {"my_app@10.0.0.1"}
    v6 = type(LOCAL)("my_app@fd00::99")
    assert set(await strategy(v6)) == {"my_app@fd00::1"}


async def test_endpoints_of_a_service_written_by_hand_or_not(lab: Lab) -> None:
    lab.namespace.allow("endpoints", verbs=("list",))
    pod = {"kind": "Pod", "name": "a", "namespace": lab.namespace.name}
    lab.namespace.put_endpoints(
        "my-svc",
        [
            {
                "addresses": [
                    {"ip": "10.0.0.1", "hostname": "a-0", "targetRef": pod},
                    {"ip": "10.0.0.2"},
                ],
                "notReadyAddresses": [{"ip": "10.0.0.3"}],
                "ports": [{"port": 4369}],
            },
            {"addresses": [{"ip": "10.0.0.2"}], "ports": [{"port": 4370}]},
        ],
    )
    lab.namespace.put_endpoints("empty", [])
    lab.namespace.put_endpoints("other", [{"addresses": [{"ip": "10.0.0.9"}]}])
    options = {"lookup": "endpoints", "service": "my-svc"}
    assert await lab.names(None, **options) == {"my_app@10.0.0.1", "my_app@10.0.0.2"}
    assert len(await lab.names(None, **options, not_ready=True)) == 3
    assert len(await lab.names(SELECTOR, lookup="endpoints")) == 3
    host = f"a-0.my-svc.{lab.namespace.name}.svc.cluster.local"
    assert await lab.names(None, **options, mode="hostname") == {f"my_app@{host}"}


async def test_endpoints_that_the_server_cut_make_the_answer_partial_while_they_are(
    lab: Lab,
) -> None:
    lab.namespace.allow("endpoints", verbs=("list", "watch"))
    lab.namespace.put_endpoints("my-svc", [{"addresses": [{"ip": "10.0.0.1"}]}])
    listing = lab.strategy(lookup="endpoints", watch=False)

    def annotate(value: str | None) -> None:
        annotations = {"endpoints.kubernetes.io/over-capacity": value}
        lab.server.request(
            "PATCH",
            f"{lab.namespace.api}/endpoints/my-svc",
            {"metadata": {"annotations": annotations}},
            content_type="application/merge-patch+json",
        )

    async with serving(lab.strategy(lookup="endpoints")) as served:
        assert (await served.answer()).kind == "complete"
        annotate("truncated")
        watched = await served.until(lambda answer: answer.kind == "partial")
        for answer in (watched, await discover(listing, LOCAL)):
            assert answer.kind == "partial"
            assert answer.nodes == {"my_app@10.0.0.1"}
            assert f"cuts the Endpoints '{lab.namespace.name}/my-svc'" in str(answer.error)
            assert 'lookup="endpointslices"' in str(answer.error)
        annotate("warning")  # of servers that still list them all
        await served.until(lambda answer: answer.kind == "complete")
        assert (await discover(listing, LOCAL)).kind == "complete"
        annotate("truncated")
        await served.until(lambda answer: answer.kind == "partial")
        annotate(None)
        await served.until(lambda answer: answer.kind == "complete")
        assert (await discover(listing, LOCAL)).kind == "complete"


async def test_slices_of_a_service(lab: Lab) -> None:
    lab.namespace.allow("endpointslices", group=SLICES, verbs=("list",))
    pod = {"kind": "Pod", "name": "both", "namespace": lab.namespace.name}
    lab.namespace.put_slice(
        "one",
        [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "targetRef": pod},
            {"addresses": ["10.0.0.2"], "conditions": {}},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": False}},
        ],
    )
    lab.namespace.put_slice(
        "two",
        [
            {"addresses": ["fd00::1"], "conditions": {"ready": True}, "targetRef": pod},
            {"addresses": ["fd00::2"], "conditions": {"ready": True}},
        ],
        kind="IPv6",
    )
    lab.namespace.put_slice("names", [{"addresses": ["example.com"]}], kind="FQDN")
    found = {"my_app@10.0.0.1", "my_app@10.0.0.2", "my_app@fd00::2"}
    assert await lab.names(None, lookup="endpointslices", service="my-svc") == found
    assert await lab.names(SELECTOR, lookup="endpointslices") == found
    assert await lab.names(None, lookup="endpointslices", service="other") == set()


async def test_dashed_addresses_and_host_names(lab: Lab) -> None:
    lab.allow_pods("list")
    lab.namespace.create_pod("app-0", "10.0.0.1", hostname="app-0", subdomain="my-svc")
    lab.namespace.create_pod("app-1", "fd00:0:1::3", hostname="app-1")
    place = lab.namespace.name
    assert await lab.names(mode="dns", cluster_domain="k8s.test.") == {
        f"my_app@10-0-0-1.{place}.pod.k8s.test",
        f"my_app@fd00-0-1--3.{place}.pod.k8s.test",
    }
    told = f"my_app@app-0.my-svc.{place}.svc.cluster.local"
    assert await lab.names(mode="hostname") == {told}
    assert await lab.names(mode="hostname", service="given") == {
        told,
        f"my_app@app-1.given.{place}.svc.cluster.local",
    }


async def test_another_namespace_is_another_answer(lab: Lab) -> None:
    lab.allow_pods("list")
    lab.namespace.create_pod("first", "10.0.0.1")
    assert await lab.names(namespace=lab.namespace.name) == {"my_app@10.0.0.1"}
    assert "403" in await lab.failure(namespace="kube-public")


async def test_a_list_comes_in_pages(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kube_api, "PAGE_SIZE", 2)
    lab.allow_pods("list")
    for index in range(5):
        lab.namespace.create_pod(f"pod-{index}", f"10.0.0.{index}")
    assert await lab.names() == {f"my_app@10.0.0.{index}" for index in range(5)}
    if isinstance(lab.server, FakeKube):
        assert len(lab.fake.lists()) == 3


# -- what goes wrong ------------------------------------------------------------------------------


async def test_an_unknown_token_is_refused_401_and_not_shown(lab: Lab) -> None:
    (lab.account / "token").write_text("a-secret-token")
    reason = await lab.failure()
    assert "answers 401" in reason
    assert "does not know our token" in reason
    assert "a-secret-token" not in reason


async def test_a_missing_right_is_refused_403_with_what_to_do(lab: Lab) -> None:
    reason = await lab.failure()
    assert "answers 403" in reason
    assert "a Role must allow to list and watch pods" in reason


async def test_a_server_without_the_api_answers_404(lab: Lab, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"""
        current-context: c
        contexts: [{{name: c, context: {{cluster: k, user: u, namespace: n}}}}]
        clusters:
          - name: k
            cluster: {{server: "{lab.server.url}/nothing", certificate-authority: account/ca.crt}}
        users: [{{name: u, user: {{token: admintoken}}}}]
        """
    )
    if isinstance(lab.server, FakeKube):
        lab.server.slices_group = "none"
    reason = await lab.failure(lookup="endpointslices", kubeconfig=config)
    assert "answers 404" in reason
    assert "it has no endpointslices" in reason


async def test_a_selector_that_is_none_is_refused(lab: Lab) -> None:
    lab.allow_pods("list")
    assert "answers 400" in await lab.failure("===")


async def test_a_list_that_grows_too_old_between_pages_is_begun_anew(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.allow_pods("list")
    for index in range(3):
        lab.namespace.create_pod(f"pod-{index}", f"10.0.0.{index}")
    read_page = KubeApi._page
    asked: list[str | None] = []

    async def page_then_compact(api: KubeApi, resource: object, more: str | None) -> object:
        asked.append(more)
        page = await read_page(api, resource, more)  # type: ignore[arg-type]
        if len(asked) == 1:
            lab.namespace.delete_pod("pod-0")
            lab.server.compact()
        return page

    monkeypatch.setattr(KubeApi, "_page", page_then_compact)
    monkeypatch.setattr(_kube_api, "PAGE_SIZE", 1)
    assert await lab.names() == {"my_app@10.0.0.1", "my_app@10.0.0.2"}
    assert asked[0] == asked[2] == ""  # the second was answered 410
    assert asked[1]


# -- watching -------------------------------------------------------------------------------------


async def test_a_change_is_told_and_answered_without_a_list(lab: Lab) -> None:
    lab.allow_pods()
    lab.namespace.create_pod("first", "10.0.0.1")
    async with serving(lab.strategy()) as served:
        await served.until_named("my_app@10.0.0.1")
        lab.namespace.create_pod("second")
        asked_at = trio.current_time()
        lab.namespace.set_pod("second", "10.0.0.2")
        await served.until_named("my_app@10.0.0.1", "my_app@10.0.0.2")
        assert served.changes[-1] - asked_at < 5  # a loose bound: it takes some milliseconds
        lab.namespace.delete_pod("first")
        await served.until_named("my_app@10.0.0.2")
        if isinstance(lab.server, FakeKube):
            assert len(lab.fake.lists()) == 1
            assert len(lab.fake.watches()) == 1


async def test_a_watch_goes_on_where_it_ended(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kube_watch, "WATCH_FOR", (1.0, 1.0))
    monkeypatch.setattr(_kube_watch, "FIRST_PAUSE", 0.3)
    monkeypatch.setattr(_kube_watch, "HEALTHY_AFTER", 0.5)
    lab.allow_pods()
    lab.namespace.create_pod("first", "10.0.0.1")
    async with serving(lab.strategy()) as served:
        await served.until_named("my_app@10.0.0.1")
        for index in range(2, 12):
            lab.namespace.create_pod(f"pod-{index}", f"10.0.0.{index}")
            await trio.sleep(0.25)  # so that some fall into the pauses
        names = {f"my_app@10.0.0.{index}" for index in range(1, 12)}
        await served.until_named(*names)
        if isinstance(lab.server, FakeKube):
            assert len(lab.fake.lists()) == 1
            assert len(lab.fake.watches()) > 1


async def test_a_token_that_rotates_is_read_anew(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kube_watch, "LONGEST_PAUSE", 0.2)
    lab.allow_pods()
    lab.namespace.create_pod("first", "10.0.0.1")
    (lab.account / "token").write_text("not-yet-valid")
    async with serving(lab.strategy()) as served:
        assert "answers 401" in str((await served.answer()).error)
        (lab.account / "new").write_text("podtoken\n")
        (lab.account / "new").rename(lab.account / "token")
        await served.until_named("my_app@10.0.0.1")
        if isinstance(lab.server, FakeKube):
            lab.server.tokens = {"rotated": lab.server.tokens["podtoken"]}
            (lab.account / "token").write_text("rotated")
            lab.server.cut()
            lab.namespace.create_pod("second", "10.0.0.2")
            await served.until_named("my_app@10.0.0.1", "my_app@10.0.0.2")


async def test_without_the_right_to_watch_the_answer_is_partial(lab: Lab) -> None:
    lab.allow_pods("list")
    lab.namespace.create_pod("first", "10.0.0.1")
    async with serving(lab.strategy()) as served:
        answer = await served.answer()
        assert answer.kind == "partial"
        assert answer.nodes == {"my_app@10.0.0.1"}
        assert "answers 403" in str(answer.error)
    assert await lab.names(watch=False) == {"my_app@10.0.0.1"}
    assert not isinstance(lab.strategy(watch=False), ServedStrategy)


async def test_a_server_killed_in_the_middle_of_a_watch_is_found_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kube_watch, "LONGEST_PAUSE", 0.5)
    lab.allow_pods()
    lab.namespace.create_pod("first", "10.0.0.1")
    async with serving(lab.strategy()) as served:
        await served.until_named("my_app@10.0.0.1")

        async def soon() -> None:
            await trio.sleep(0.02)

        await lab.kill()
        down = await served.until(lambda answer: answer.kind == "failed", ask=soon)
        assert "cannot be reached: Connection refused" in str(down.error)
        assert str((await served.answer()).error) == str(down.error)  # one reason per outage
        await lab.restart()
        lab.server.compact()
        lab.namespace.create_pod("second", "10.0.0.2")
        await served.until_named("my_app@10.0.0.1", "my_app@10.0.0.2")
        # Since then there is no going on from a version before.
        with pytest.raises(Gone):
            await _watch_from("1", lab)


async def _watch_from(version: str, lab: Lab) -> None:
    access = await read_service_account(lab.account)
    async with open_http(access) as http:
        api = KubeApi(http, access.namespace, Selection(lookup="pods", labels=SELECTOR))
        [resource] = RESOURCES["pods"]
        async with api.watch(Position(resource=resource, version=version), 10) as watch:
            await watch.next()
