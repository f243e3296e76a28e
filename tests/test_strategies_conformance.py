"""What holds for every strategy, asked against real servers."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import assert_checkpoints

import barnacle_trio.strategies
from barnacle_trio._names import NodeName
from barnacle_trio._strategy import Strategy, discover
from barnacle_trio.epmd import open_registration
from barnacle_trio.strategies import (
    ASK,
    dns,
    dns_srv,
    epmd,
    erlang_hosts,
    fallback,
    fly,
    kubernetes,
    kubernetes_dns,
    kubernetes_dns_srv,
    local_epmd,
    merge,
    only,
    postgres,
    remember,
    rename,
)
from tests.dns_server import DnsServer, open_dns_server, resolver_for
from tests.epmd_lab import real_epmd
from tests.gossip_lab import quick, talking
from tests.kube_fake import open_fake_kube_process
from tests.ports import free_port
from tests.postgres_server import open_busy_database

LOCAL = NodeName("my_app@10.0.0.1")
FEW = ["10.0.0.1", "10.0.0.2", "fd00::1"]
MANY = [f"10.0.1.{index}" for index in range(1, 101)]


@dataclass
class Lab:
    """Servers in which every strategy finds somebody."""

    dns: DnsServer
    folder: Path
    database: str
    gossip: int  # a port
    interval: float  # seconds between what those say who talk without being asked


@pytest.fixture
async def lab(tmp_path: Path, epmd_port: int, request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    async with (
        real_epmd(epmd_port),
        open_registration("other", 4000),
        open_dns_server(tmp_path, zones=["internal", "cluster.local"]) as server,
        open_fake_kube_process(tmp_path, *FEW),
    ):
        await server.set_targets("srv.x.svc.test", "pod-0.test", "pod-1.test")
        await server.set_records("few.test", *FEW)
        await server.set_records("many.test", *MANY)
        await server.set_records("here.test", "127.0.0.1")
        await server.set_records("my-app.internal", "fdaa::3", "fdaa:0:1::4")
        await server.set_records("web.default.svc.cluster.local", *FEW)
        (tmp_path / "hosts.erlang").write_text("'127.0.0.1'.\n'::1'.\n")
        async with AsyncExitStack() as stack:
            database, port = "", free_port()
            if request.node.name.endswith("[postgres]"):  # the others do not wait for it
                database = await stack.enter_async_context(open_busy_database())
            if request.node.name.endswith("[gossip]"):
                await stack.enter_async_context(talking(quick(port), "other@127.0.0.1"))
            # What is asked for has to be heard, on a busy machine as well; and who cancels
            # everywhere should not have to wait everywhere.
            test = request.node.name
            heard = any(word in test for word in ("complete", "several"))
            interval = 0.8 if heard else 0.05 if "cancelled_anywhere" in test else 0.3
            yield Lab(server, tmp_path, database, port, interval)


def _few(lab: Lab) -> Strategy:
    return dns("few.test", resolver=resolver_for(lab.dns.port))


STRATEGIES: dict[str, Callable[[Lab], Strategy]] = {
    "dns": _few,
    "dns-ask": lambda lab: dns("here.test", basename=ASK, resolver=resolver_for(lab.dns.port)),
    "dns-over-tcp": lambda lab: dns("many.test", resolver=resolver_for(lab.dns.port)),
    "dns_srv": lambda lab: dns_srv("srv.x.svc.test", resolver=resolver_for(lab.dns.port)),
    "epmd": lambda _lab: epmd(["a@10.0.0.1", "b@10.0.0.2"]),
    "fly": lambda lab: fly("my-app", basename="a", resolver=resolver_for(lab.dns.port)),
    "gossip": lambda lab: quick(lab.gossip, interval=(0.01, lab.interval)),
    "kubernetes": lambda lab: kubernetes(
        "app=my-app", lookup="pods", kubeconfig=lab.folder / "kubeconfig"
    ),
    "kubernetes_dns": lambda lab: kubernetes_dns(
        "web", "default", resolver=resolver_for(lab.dns.port)
    ),
    "kubernetes_dns_srv": lambda lab: kubernetes_dns_srv(
        "srv", "x", cluster_domain="test", resolver=resolver_for(lab.dns.port)
    ),
    "erlang_hosts": lambda lab: erlang_hosts(lab.folder / "hosts.erlang"),
    "local_epmd": lambda _lab: local_epmd(),
    "merge": lambda lab: merge(_few(lab), local_epmd(), epmd(["a@10.0.0.1"])),
    "only": lambda lab: only(_few(lab), "*@10.*"),
    "postgres": lambda lab: postgres(lab.database, interval=lab.interval),
    "remember": lambda lab: remember(_few(lab), lab.folder / "nodes.json"),
    "rename": lambda lab: rename(_few(lab), str.upper),
    "fallback": lambda lab: fallback(_few(lab), local_epmd()),
}


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest, lab: Lab) -> Strategy:
    return STRATEGIES[request.param](lab)


def test_every_one_is_held_to_it() -> None:
    """A new strategy does not stay out of this file by oversight."""
    strategies = set(barnacle_trio.strategies.__all__) - {"ASK"}
    assert {name.partition("-")[0] for name in STRATEGIES} == strategies


async def test_the_answer_is_complete_and_of_names(strategy: Strategy) -> None:
    with trio.fail_after(10):
        answer = await discover(strategy, LOCAL)
    assert answer.kind == "complete"
    assert answer.nodes
    assert not answer.rejected


async def test_it_yields_to_others(strategy: Strategy) -> None:
    with assert_checkpoints():
        await strategy(LOCAL)


async def test_it_may_be_asked_by_several_at_once_and_again(strategy: Strategy) -> None:
    answers = []

    async def ask() -> None:
        answers.append((await discover(strategy, LOCAL)).nodes)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        await ask()
    assert len(answers) == 6
    assert len(set(answers)) == 1


async def test_its_repr_is_fit_for_a_log(strategy: Strategy) -> None:
    await trio.lowlevel.checkpoint()  # the fixture is Trio's, so the test must be
    assert "object at 0x" not in repr(strategy)
    assert "\n" not in repr(strategy)


class _CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when the tasks inside have run ``number`` steps."""

    def __init__(self, number: int, scope: trio.CancelScope, main: trio.lowlevel.Task) -> None:
        self._left = number
        self._scope = scope
        self._main = main

    def _is_inside(self, task: trio.lowlevel.Task | None) -> bool:
        while task is not None and task is not self._main:
            nursery = task.parent_nursery
            task = None if nursery is None else nursery.parent_task
        return task is self._main

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._left and self._is_inside(task):
            self._left -= 1
            if not self._left:
                self._scope.cancel("at the chosen step")


@contextmanager
def cancelled_at(number: int) -> Iterator[trio.CancelScope]:
    """Cancel the block at the ``number``-th step of its task and those that it started."""
    with trio.CancelScope() as scope:
        instrument = _CancelAtStep(number, scope, trio.lowlevel.current_task())
        trio.lowlevel.add_instrument(instrument)
        try:
            yield scope
        finally:
            trio.lowlevel.remove_instrument(instrument)


def _open_files() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


async def test_cancelled_anywhere_it_leaves_nothing_open(strategy: Strategy) -> None:
    await strategy(LOCAL)  # whatever is opened once and for all is open now
    gc.collect()
    tasks = trio.lowlevel.current_statistics().tasks_living
    before = _open_files()
    for number in range(1, 1000):
        finished = False
        with trio.fail_after(10):
            with cancelled_at(number) as scope:
                await strategy(LOCAL)
                finished = True
        gc.collect()  # what was left open would warn here, and warnings are errors
        with trio.fail_after(5):
            # A thread that was left behind closes what it has opened, a moment later.
            while _open_files() != before:  # noqa: ASYNC110 - nobody could set an event
                await trio.sleep(0.001)
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        if finished and not scope.cancel_called:
            break
    else:
        pytest.fail("it never finished")
    assert number > 1
