"""A Kubernetes API server, real or not, with a namespace and an account for a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from barnacle_trio._names import NodeName
from barnacle_trio._strategy import Discovery, ServedStrategy, Strategy, discover
from barnacle_trio.strategies._kubernetes import kubernetes
from tests.kube_fake import FakeKube, open_fake_kube
from tests.kube_server import KubeServer, Namespace, sharing_kube

LOCAL = NodeName("my_app@10.0.0.1")
SELECTOR = "app=my-app"
SLICES = "discovery.k8s.io"


@dataclass
class Lab:
    """A namespace in which the pods' account has no rights until the test gives it some."""

    server: FakeKube | KubeServer
    namespace: Namespace
    account: Path

    @property
    def fake(self) -> FakeKube:
        assert isinstance(self.server, FakeKube)
        return self.server

    def strategy(self, selector: str | None = SELECTOR, **options: Any) -> Strategy:
        options.setdefault("lookup", "pods")
        return kubernetes(selector, service_account=self.account, **options)

    async def names(self, selector: str | None = SELECTOR, **options: Any) -> set[str]:
        """A complete answer."""
        answer = await discover(self.strategy(selector, **options), LOCAL)
        assert answer.kind == "complete", answer
        return set(answer.nodes)

    async def failure(self, selector: str | None = SELECTOR, **options: Any) -> str:
        """Why an answer fails as a whole."""
        answer = await discover(self.strategy(selector, **options), LOCAL)
        assert answer.kind == "failed", answer
        return str(answer.error)

    def allow_pods(self, *verbs: str) -> None:
        self.namespace.allow("pods", verbs=verbs or ("list", "watch"))

    async def kill(self) -> None:
        self.server.kill()
        await trio.lowlevel.checkpoint()

    async def restart(self) -> None:
        if isinstance(self.server, FakeKube):
            await self.server.start()
        else:
            await trio.to_thread.run_sync(self.server.start)


@asynccontextmanager
async def open_lab(
    kind: str, folder: Path, shared: Path, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> AsyncIterator[Lab]:
    """A lab with a ``fake`` or a ``real`` server, in whose pod we seem to run."""

    def lab(server: FakeKube | KubeServer) -> Lab:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        monkeypatch.delenv("KUBERNETES_SERVICE_PORT_HTTPS", raising=False)
        namespace = Namespace(server)
        return Lab(server, namespace, namespace.write_account(folder / "account"))

    if kind == "fake":
        async with open_fake_kube(**options) as fake:
            yield lab(fake)
    else:
        with sharing_kube(shared) as real:
            yield lab(real)


@dataclass
class Served:
    """A strategy that is served; `changes` are the times at which it told of one."""

    strategy: Strategy
    changes: list[float] = field(default_factory=list)
    woken: trio.Event = field(default_factory=trio.Event)

    def changed(self) -> None:
        self.changes.append(trio.current_time())
        self.woken.set()
        self.woken = trio.Event()

    async def answer(self) -> Discovery:
        return await discover(self.strategy, LOCAL)

    async def until(
        self,
        wanted: Callable[[Discovery], bool],
        *,
        ask: Callable[[], Awaitable[None]] | None = None,
    ) -> Discovery:
        """The first answer as wanted; it is asked for again after a change, or after ``ask``."""
        with trio.fail_after(30):
            while True:
                woken = self.woken
                answer = await self.answer()
                if wanted(answer):
                    return answer
                await (woken.wait() if ask is None else ask())

    async def until_named(self, *names: str) -> Discovery:
        return await self.until(lambda answer: answer.nodes == set(names))


@asynccontextmanager
async def serving(strategy: Strategy) -> AsyncIterator[Served]:
    """Serve a strategy as a barnacle does."""
    assert isinstance(strategy, ServedStrategy)
    served = Served(strategy)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(strategy.serve, LOCAL, changed=served.changed))
        yield served
        nursery.cancel_scope.cancel("the test is over")
