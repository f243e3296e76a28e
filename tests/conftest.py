"""Fixtures that many tests use."""

from __future__ import annotations

import gc
import os
import random
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.erlang import Erlang, require_erlangs

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


_PORTS = range(10_000, 20_000)  # below those that the system hands out to whoever asks for any


def free_port() -> int:
    """A TCP port that is free on loopback, and that nobody else is given by chance."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


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
