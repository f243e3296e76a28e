"""The command line itself: its help, and every way to write it wrongly. In this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from barnacle_trio.cli._main import run_command_line
from barnacle_trio.cli._words import KINDS
from tests.cli_lab import Ended, assert_fails
from tests.ports import free_port

Call = Callable[..., Ended]


@pytest.fixture
def call(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Call]:
    """Runs a command as `barnacle` does, at a port where there is no port mapper."""
    for name in ("ERL_FLAGS", "ERL_AFLAGS", "ERL_ZFLAGS", "FORCE_COLOR", "BARNACLE_COOKIE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ERL_EPMD_PORT", str(free_port()))
    logger = logging.getLogger("barnacle_trio")
    before = (logger.handlers[:], logger.propagate, logger.level)

    def run(*arguments: str) -> Ended:
        code = run_command_line(arguments)
        return Ended(code, *capfd.readouterr())

    yield run
    logger.handlers[:], logger.propagate = before[:2]
    logger.setLevel(before[2])


def test_without_a_command_there_is_help(call: Call) -> None:
    ended = call()
    assert (ended.code, ended.err) == (0, "")
    for name in ("demo", "run", "ping", "names", "discover", "epmd"):
        assert f" {name} " in ended.out


@pytest.mark.parametrize("name", ["demo", "run", "ping", "names", "discover", "epmd"])
def test_each_command_has_help(call: Call, name: str) -> None:
    ended = call(name, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert "\x1b" not in ended.out
    words = " ".join(ended.out.replace("│", " ").split())
    if name in ("run", "discover"):
        for kind in KINDS.values():
            assert f"{kind.form}: {kind.meaning}" in words
    if name in ("run", "ping"):
        assert "BARNACLE_COOKIE" in words
        assert "~/.erlang.cookie" in words


@pytest.mark.parametrize(
    ("arguments", "code", "fragment"),
    [
        (["rnu"], 2, 'Did you mean "run"'),
        (["run", "--nmae", "x@127.0.0.1", "local-epmd"], 2, "--nmae"),
        (["run", "--name", "x@127.0.0.1", "--poll-interval", "soon", "local-epmd"], 2, "soon"),
        (["run", "--name", "x@127.0.0.1", "--poll-interval", "0", "local-epmd"], 2, "poll_inter"),
        (["run", "--name", "x@127.0.0.1", "--prune", "some", "local-epmd"], 2, "some"),
        (["run", "local-epmd"], 2, "nothing names this node: give --name"),
        (["run", "--name", "x", "local-epmd"], 2, "has no '@'"),
        (["run", "--name", "x@127.0.0.1"], 2, "no strategy is given"),
        (["run", "--name", "x@127.0.0.1", "nonsense"], 2, "is not a strategy"),
        (["run", "--name", "x@127.0.0.1", "--listen", "here", "local-epmd"], 2, "HOST:PORT"),
        (["run", "--name", "x@127.0.0.1", "--fixed-port", "0", "local-epmd"], 2, "port"),
        (["run", "--name", "x@127.0.0.1", "--failure-timeout", "-1", "local-epmd"], 2, "failure"),
        (["run", "--name", "x@127.0.0.1", "--cookie", "", "local-epmd"], 2, "empty"),
        (["run", "--name", "x@127.0.0.1", "--cookie-file", "/no/x", "local-epmd"], 2, "/no/x"),
        (["run", "--name", "x@some.host", "--cookie", "short", "local-epmd"], 2, "--insecure-cook"),
        (["ping"], 2, "NODE"),
        (["ping", "x"], 2, "has no '@'"),
        (["ping", "x@127.0.0.1"], 1, "pang from x@127.0.0.1: no port mapper answers"),
        (["ping", "x@no-such-host.invalid"], 1, "pang from x@no-such-host.invalid"),
        (["names"], 1, "no port mapper answers at 'localhost'"),
        (["names", "--port", "70000"], 2, "TCP port"),
        (["discover"], 2, "no strategy is given"),
        (["discover", "local-epmd"], 1, "discovery failed: no port mapper answers"),
        (["discover", "dns:my-app.internal"], 2, "give --name, or choose in the word"),
        (["discover", "--name", "x", "local-epmd"], 2, "has no '@'"),
        (["epmd", "--port", "70000"], 2, "TCP port"),
        (["epmd", "--address", "here"], 2, "literal"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_wrong_is_one_line(
    call: Call, arguments: list[str], code: int, fragment: str
) -> None:
    ended = call(*arguments)
    assert_fails(ended, code, fragment)
    assert ended.out == ""
