"""Fixtures that many tests use."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.erlang import Erlang, require_erlangs
from tests.ports import free_port

# Programs that run in the background inherit that these are ignored; what tests start must not.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGTERM, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


def pytest_collection_finish() -> None:
    """Thousands of tests are many objects; what looks for garbage need not walk through them."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def epmd_port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port that this process and its children take for the port mapper's."""
    port = free_port()
    monkeypatch.setenv("ERL_EPMD_PORT", str(port))
    return port


def _erlangs() -> list[Erlang]:
    return require_erlangs()


@pytest.fixture(params=_erlangs(), ids=lambda erlang: f"otp{erlang.version}")
def erlang(request: pytest.FixtureRequest) -> Erlang:
    """Each Erlang runtime that there is, one after the other."""
    found: Erlang = request.param
    return found


@pytest.fixture(scope="session")
def kube_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the one real Kubernetes API server that all workers share."""
    from tests.kube_server import end_kube

    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent
    yield folder
    end_kube(folder)
