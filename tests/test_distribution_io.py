"""What remote code prints, as the log shows it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio.distribution import _io
from barnacle_trio.distribution._control import Send
from barnacle_trio.distribution._io import characters, formatted, perform
from barnacle_trio.etf import Atom, ImproperList
from barnacle_trio.testing import MemoryNetwork
from tests.terms import terms

A, B = "a@memory", "b@memory"
FORMAT = Atom("format")

FORMATTED: list[tuple[bytes, list[Any], str]] = [
    (b"plain", [], "plain"),
    (b"~p and ~w~n", [1, Atom("two")], "1 and two\n"),
    (b"~s|~ts|~s", [b"x", [0xFC, b"y"], Atom("z")], "x|\u00fcy|z"),
    (b"~c~c", [65, 66], "AB"),
    (b"100~~", [], "100~"),
    (b"~i~p", [1, 2], "2"),
    (b"~10.3p ~-5s ~*c", [1, b"x", 3, 65], "1 x A"),
    (b"~.*p", [2, 5], "5"),
    (b"~2..0b", [7], "7"),
    (b"~p ~p", [1], "1 ?"),
    (b"~", [], "~"),
    (b"~c", [-1], "-1"),
]


@pytest.mark.parametrize(("template", "values", "text"), FORMATTED)
def test_formats_are_filled_about_as_erlang_does(
    template: bytes, values: list[Any], text: str
) -> None:
    assert formatted(FORMAT, [template, values]) == text
    assert formatted(FORMAT, [list(template), values]) == text


def test_other_functions_show_their_arguments() -> None:
    assert formatted(Atom("write"), [1]) == "1"
    assert formatted(FORMAT, [Atom("ok"), []]) == "ok"
    assert formatted(FORMAT, [1, 2, 3]) == "1 2 3"


def test_chardata_is_flattened_and_cut() -> None:
    assert characters([104, [b"i", ImproperList((33,), b"!")]]) == "hi!!"
    assert characters([0xD800, -1, Atom("x"), 0x110000]) == "\ufffd" * 4
    assert characters(b"\xff", "latin1") == "\u00ff"
    assert characters(b"\xff") == "\ufffd"
    assert len(characters([b"x" * 10_000_000, b"y"])) == _io.MAX_TEXT
    assert len(characters([120] * 1_000_000)) == _io.MAX_TEXT


@given(terms())
def test_every_request_has_a_reply(term: Any) -> None:
    for request in (
        term,
        (Atom("put_chars"), Atom("unicode"), term),
        (Atom("put_chars"), term),
        (Atom("put_chars"), Atom("unicode"), Atom("io_lib"), FORMAT, [b"~p~s~c~*p", [term] * 6]),
        (Atom("put_chars"), Atom("unicode"), Atom("io_lib"), FORMAT, [term, term]),
        (Atom("requests"), [term, term]),
        (Atom("requests"), term),
    ):
        reply, text = perform(request)
        assert reply is not None
        assert len(text) <= 2 * _io.MAX_TEXT


async def test_a_flood_is_rationed_and_every_request_answered(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "barnacle_trio.io")
    network = MemoryNetwork()
    async with network.open_node(A) as a, network.open_node(B) as b, b.open_mailbox() as box:
        await b.connect(A)
        leader = next(pid for pid in a._processes._services if pid is not Atom("rex"))
        lines = b"\x1b[31mred\n" * 10
        for number in range(50):
            request = (Atom("put_chars"), Atom("unicode"), lines)
            message = (Atom("io_request"), box.pid, number, request)
            b._processes.emit(a.name, Send(box.pid, leader, message))  # type: ignore[arg-type]
        for number in range(50):
            assert await box.receive() == (Atom("io_reply"), number, Atom("ok"))
        await wait_all_tasks_blocked()
        assert len(caplog.records) == _io.LINES_A_SECOND
        assert all(r.getMessage() == f"[{B}] '\\x1b[31mred'" for r in caplog.records)
        assert await a.ping(B)
