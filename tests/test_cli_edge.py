"""The outer edge of the command line: errors, options and events as text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trio.testing

from barnacle_trio import (
    BarnacleCrashed,
    ConfigurationError,
    DiscoveryError,
    Draining,
    Event,
    HandshakeRefused,
    Missed,
    NodeDown,
    NodeName,
    NodeUp,
    Paused,
    PeerUnreachable,
    Refreshed,
    RefreshFailed,
    RefreshResult,
    Restarted,
    Resumed,
    ShutDown,
)
from barnacle_trio.cli._ask import discover
from barnacle_trio.cli._edge import Failed, judge, one_line
from barnacle_trio.cli._events_shown import Narrator, as_fields, stamped
from barnacle_trio.cli._node import CookieOptions, parse_listen
from barnacle_trio.cli._ping import own_host

NOW = datetime(2031, 2, 3, 4, 5, 6, 789_000, tzinfo=UTC)
A, B = NodeName("a@h"), NodeName("b@h")


def crashed() -> BarnacleCrashed:
    try:
        raise BarnacleCrashed("too often") from ExceptionGroup("faults", [KeyError("x")])
    except BarnacleCrashed as error:
        return error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (Failed("no"), 1, "no"),
        (Failed("no", code=3), 3, "no"),
        (ConfigurationError("say insecure_cookie=True"), 2, "say --insecure-cookie"),
        (PeerUnreachable("gone"), 1, "gone"),
        (crashed(), 1, "too often: KeyError: 'x'"),
        (trio.TooSlowError(), 1, "no answer in time"),
        (KeyError("x"), 70, "internal error: KeyError: 'x'"),
        (KeyboardInterrupt(), 130, None),
        (BrokenPipeError(), 141, None),
        (BaseExceptionGroup("g", [KeyError("x"), KeyboardInterrupt()]), 130, None),
        (ExceptionGroup("g", [ExceptionGroup("h", [Failed("a")]), Failed("b")]), 1, "a; b"),
        (ExceptionGroup("g", [Failed("a"), ConfigurationError("b")]), 2, "b"),
        (OSError(), 1, "OSError"),
    ],
)
def test_every_error_is_a_code_and_at_most_one_line(
    error: BaseException, code: int, line: str | None
) -> None:
    assert judge(error) == (code, line)


def test_a_line_has_neither_control_characters_nor_an_unlimited_length() -> None:
    assert one_line("a\n  b\t\x1b[31mred\x07") == r"a b \x1b[31mred\x07"
    assert len(one_line("x" * 100_000)) < 1100


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:9100", ("127.0.0.1", 9100)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:9100", ("::1", 9100)),
    ],
)
def test_where_to_listen(text: str, parsed: tuple[str, int]) -> None:
    assert parse_listen(text) == parsed


@pytest.mark.parametrize("text", ["", "9100", ":9100", "h:", "h:x", "h:70000", "::1:9100", "[::1]"])
def test_where_nobody_can_listen(text: str) -> None:
    with pytest.raises(ConfigurationError, match="nothing to listen on: write HOST:PORT"):
        parse_listen(text)


async def test_the_first_cookie_that_is_given_counts(tmp_path: Path) -> None:
    file = tmp_path / "cookie"
    file.write_bytes(b"from_file\n")
    env = {"BARNACLE_COOKIE": "from_env"}
    assert await CookieOptions(cookie="given", cookie_file=file).read(env) == "given"
    assert await CookieOptions(cookie_file=file).read(env) == b"from_file"
    assert await CookieOptions().read(env) == "from_env"
    assert await CookieOptions().read({"BARNACLE_COOKIE": ""}) == ""  # refused, not ignored
    assert await CookieOptions().read({}) is None


async def test_a_cookie_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        await CookieOptions(cookie_file=tmp_path / "absent").read({})
    endless = tmp_path / "endless"
    endless.write_bytes(b"x" * 5000)
    with pytest.raises(ConfigurationError, match="too long"):
        await CookieOptions(cookie_file=endless).read({})


@pytest.mark.parametrize(
    ("peer", "own"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.8.9.10", "127.0.0.1"),
        ("::1", "::1"),
        ("localhost", "localhost"),
    ],
)
async def test_what_we_are_called_suits_the_peer(peer: str, own: str) -> None:
    assert await own_host(peer) == own


async def test_a_short_name_is_met_by_a_short_name() -> None:
    assert "." not in await own_host("some-host")


class Watching:
    """A strategy that knows its answer only while it is served."""

    def __init__(self) -> None:
        self.served = 0

    async def __call__(self, local: NodeName) -> list[str]:
        await trio.lowlevel.checkpoint()
        return ["a@h", "junk"] if self.served else []

    async def serve(
        self,
        local: NodeName,
        *,
        changed: Callable[[], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        self.served += 1
        task_status.started()
        await trio.sleep_forever()


async def test_a_strategy_is_served_while_it_is_asked(capfd: pytest.CaptureFixture[str]) -> None:
    strategy = Watching()
    assert await discover(strategy, B, patience=5, as_json=False) == 0
    assert strategy.served == 1
    out, err = capfd.readouterr()
    assert out == "a@h\n"
    assert err.startswith("barnacle: junk was left out: ")


async def test_a_strategy_that_hangs_has_failed(autojump_clock: trio.testing.MockClock) -> None:
    async def hang(local: NodeName) -> list[str]:
        await trio.sleep_forever()
        raise AssertionError

    with pytest.raises(Failed, match="no answer within 5 s"):
        await discover(hang, B, patience=5, as_json=False)


def every_event() -> list[Event]:
    error = DiscoveryError("the DNS is down")
    result = RefreshResult(
        nodes=frozenset({A}),
        connected=frozenset({A}),
        failed={B: HandshakeRefused("another cookie")},
        discovery_error=error,
    )
    return [
        NodeUp(barnacle="x", at=1.0, node=A),
        NodeDown(barnacle="x", at=1.0, node=A, reason="closed_by_us"),
        Refreshed(barnacle="x", at=1.0, result=result),
        RefreshFailed(barnacle="x", at=1.0, error=error),
        Paused(barnacle="x", at=1.0),
        Resumed(barnacle="x", at=1.0),
        Draining(barnacle="x", at=1.0),
        ShutDown(barnacle="x", at=1.0),
        Restarted(barnacle="x", at=1.0, error=KeyError("nodes")),
        Missed(barnacle="x", at=1.0, count=3, nodes=frozenset({B, A})),
    ]


def test_no_event_is_left_out() -> None:
    # slots=True leaves a ghost of each class behind, of the same name
    known = {kind.__name__ for kind in Event.__subclasses__()}
    assert {type(event).__name__ for event in every_event()} == known


@pytest.mark.parametrize("event", every_event(), ids=lambda event: type(event).__name__)
def test_an_event_is_an_object_with_all_its_fields(event: Event) -> None:
    told = json.loads(json.dumps(as_fields(event, NOW)))
    assert told.pop("type") == type(event).__name__
    assert told.pop("time") == "2031-02-03T04:05:06.789+00:00"
    assert (told.pop("barnacle"), told.pop("at")) == ("x", 1.0)
    if isinstance(event, Refreshed):
        assert told == {
            "nodes": ["a@h"],
            "connected": ["a@h"],
            "disconnected": [],
            "failed": {"b@h": "another cookie"},
            "discovery_error": "the DNS is down",
        }
    else:
        assert told.keys() == {field.name for field in fields(event)} - {"barnacle", "at"}


@pytest.mark.parametrize("event", every_event(), ids=lambda event: type(event).__name__)
def test_an_event_is_told_in_lines_for_people(event: Event) -> None:
    lines = Narrator().lines(event)
    assert lines
    assert all(line == line.rstrip() and "\n" not in line for line in lines)


def test_troubles_are_told_once_and_when_they_are_over() -> None:
    narrator = Narrator()
    bad = Refreshed(barnacle="x", at=1.0, result=RefreshResult(failed={B: OSError("no route")}))
    good = Refreshed(barnacle="x", at=2.0, result=RefreshResult())
    assert narrator.lines(good) == []
    assert narrator.lines(bad) == ["no way     b@h  no route"]
    assert narrator.lines(bad) == []
    assert narrator.lines(good) == ["clear      nothing is in the way any more"]
    assert narrator.lines(good) == []


def test_lines_bear_the_time_of_day() -> None:
    assert list(stamped(["left"], NOW)) == ["04:05:06.789  left"]
