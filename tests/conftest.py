"""Fixtures that many tests use."""

from __future__ import annotations

import signal
import socket

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


def free_port() -> int:
    """A TCP port that was free on loopback, in both families where there are two."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


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
