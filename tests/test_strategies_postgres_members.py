"""Who is a member, and when to tell of oneself: without a clock or a database."""

from __future__ import annotations

import math
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barnacle_trio._names import NodeName, matcher
from barnacle_trio.strategies._postgres_members import (
    ANSWER_WITHIN,
    ANSWER_WITHIN_PER_NODE,
    JITTER,
    LEAST_GAP,
    Members,
    Pace,
)

OWN = NodeName("me@h")


def members(match: str | None = None, at_most: int = 3) -> Members:
    return Members(OWN, wanted=matcher(match), expire_after=15, at_most=at_most)


def test_who_is_heard_is_a_member_once() -> None:
    them = members()
    assert them.hear(b"a@h", 0) == "new"
    assert them.hear(b"a@h", 5) == "known"
    assert them.names == {"a@h"}
    assert len(them) == 1


def test_oneself_is_none() -> None:
    them = members()
    assert them.hear(b"me@h", 0) == "own"
    assert not them.names


@pytest.mark.parametrize(
    "payload", [b"", b"nonsense", b"a@", b"a@b@c", b"a @h", b"a@h\n", b"\xff@h", b"a@" + b"h" * 254]
)
def test_what_names_no_node_is_counted(payload: bytes) -> None:
    them = members()
    assert them.hear(payload, 0) == "junk"
    assert them.junk == 1
    assert not them.part(payload)
    assert not them.names


def test_who_is_not_wanted_takes_no_room() -> None:
    them = members("worker*", at_most=1)
    assert them.hear(b"stranger@h", 0) == "unwanted"
    assert not them.overfull(0)
    assert them.hear(b"worker_1@h", 0) == "new"
    assert them.names == {"worker_1@h"}


def test_a_member_expires_when_it_was_silent_for_too_long() -> None:
    them = members()
    them.hear(b"a@h", 0)
    them.hear(b"b@h", 0)
    them.hear(b"a@h", 10)
    assert not them.expire(14.9)
    assert them.expire(15)
    assert them.names == {"a@h"}
    assert them.expire(25)
    assert not them.names


def test_an_outage_is_nobodys_silence() -> None:
    them = members()
    them.hear(b"a@h", 0)
    them.resume(1000)
    assert not them.expire(1014)
    assert them.expire(1015)


def test_a_goodbye_is_the_end_until_the_next_heartbeat() -> None:
    them = members()
    them.hear(b"a@h", 0)
    assert them.part(b"a@h")
    assert not them.part(b"a@h")
    assert not them.names
    assert them.hear(b"a@h", 1) == "new"


def test_there_is_room_for_so_many_and_whoever_goes_makes_some() -> None:
    them = members(at_most=2)
    assert [them.hear(name, 0) for name in (b"a@h", b"b@h", b"c@h")] == ["new", "new", "too many"]
    assert them.overfull(1)
    assert them.part(b"a@h")
    assert them.hear(b"c@h", 2) == "new"
    assert not them.overfull(15)


@given(st.lists(st.tuples(st.sampled_from("hbpx"), st.integers(0, 9), st.floats(0, 9))))
def test_it_never_holds_more_than_it_may_nor_who_was_silent(
    steps: list[tuple[str, int, float]],
) -> None:
    them, now = members(at_most=4), 0.0
    last: dict[str, float] = {}
    for what, number, passed in steps:
        now += passed
        name = f"n{number}@h"
        if what == "p":
            them.part(name.encode())
        elif what == "x":
            them.expire(now)
            assert all(now - last[each] < 15 for each in them.names)
        elif them.hear(name.encode(), now) in ("new", "known"):
            last[name] = now
            assert name in them.names
        assert len(them) == len(them.names) <= 4


# -- the pace -------------------------------------------------------------------------------------


def test_it_is_told_at_once_and_then_at_an_interval_with_jitter() -> None:
    for draw, expected in ((0.0, 1 - JITTER), (0.5, 1), (1.0, 1 + JITTER)):
        pace = Pace(5, rng=partial(float, draw))
        assert pace.due == -math.inf
        pace.told(100)
        assert pace.due == pytest.approx(100 + 5 * expected)


def test_a_newcomer_is_told_soon() -> None:
    pace = Pace(5, rng=lambda: 1.0)
    pace.told(0)
    pace.met(3, known=1)
    assert pace.due == pytest.approx(3 + ANSWER_WITHIN + ANSWER_WITHIN_PER_NODE)


def test_many_newcomers_are_told_together_and_no_faster_than_that() -> None:
    pace = Pace(5, rng=lambda: 0.0)
    told = 0
    for step in range(1000):  # a newcomer each millisecond
        now = step / 1000
        if now >= pace.due:
            pace.told(now)
            told += 1
        pace.met(now, known=1)
    assert told == round(1 / LEAST_GAP)


def test_the_more_know_the_longer_they_take_but_no_longer_than_usual() -> None:
    pace = Pace(5, rng=lambda: 1.0)
    pace.told(0)
    pace.met(0, known=100)
    assert pace.due == pytest.approx(ANSWER_WITHIN + 100 * ANSWER_WITHIN_PER_NODE)
    pace.told(0)
    pace.met(0, known=100_000)
    assert pace.due == pytest.approx(5)


def test_a_new_session_tells_at_once_and_who_left_never_again() -> None:
    pace = Pace(5, rng=lambda: 0.5)
    pace.told(0)
    pace.start()
    assert pace.due == -math.inf
    pace.stop()
    pace.start()
    pace.met(1, known=1)
    assert pace.due == math.inf
