"""Whom gossip names: who may be, who is still there, and how many at a time."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barnacle_trio._names import Match, NodeName, matcher
from barnacle_trio.strategies._gossip_members import (
    MAX_SOURCES,
    PACKETS,
    PACKETS_PER_SOURCE,
    Admission,
    Heard,
    Members,
    Rules,
    Throttle,
)
from barnacle_trio.strategies._gossip_packets import Kind, Packet, PacketError

LOCAL = NodeName("my_app@10.0.0.1")
HERE = "10.0.0.1"
THERE = "10.0.0.2"
NAME = NodeName("my_app@10.0.0.2")


def admission(
    match: Match | None = None, *, local: str = LOCAL, authenticated: bool = False
) -> Admission:
    return Admission(
        NodeName(local),
        None if match is None else matcher(match),
        authenticated=authenticated,
        is_here=lambda source: source in {HERE, "127.0.0.1"},
    )


def members(*, match: Match | None = "*", **rules: float) -> Members:
    return Members(LOCAL, admission(match), Rules(**rules))  # type: ignore[arg-type]


def say(
    told: Members,
    name: str,
    now: float,
    *,
    kind: Kind = "heartbeat",
    source: str = THERE,
    session: bytes = b"",
) -> Heard:
    return told.take(Packet(kind=kind, name=NodeName(name), session=session), source, now)


def refused(told: Members, name: str, now: float, **more: str) -> str:
    with pytest.raises(PacketError) as caught:
        say(told, name, now, **more)  # type: ignore[arg-type]
    return str(caught.value)


# -- who may be named ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source", "why_not"),
    [
        ("my_app@10.0.0.2", "10.0.0.2", None),
        ("my_app@fd00::2", "fd00::2", None),
        ("my_app@fd00:0::2", "fd00::2", None),
        ("my_app@10.0.0.1", "10.0.0.1", None),
        ("other@10.0.0.2", "10.0.0.2", "another base name"),
        ("my_app@10.0.0.3", "10.0.0.2", "another host than its sender"),
        ("my_app@fd00::3", "fd00::2", "another host than its sender"),
        ("my_app@elsewhere.example", "10.0.0.2", "a host by name"),
        ("my_app@127.0.0.1", "10.0.0.2", "a loopback address"),
        ("my_app@::1", "10.0.0.2", "a loopback address"),
        ("my_app@localhost", "10.0.0.2", "a loopback address"),
        ("my_app@127.0.0.1", HERE, None),
        ("my_app@localhost", "127.0.0.1", None),
    ],
)
def test_without_a_secret_or_a_match_a_node_speaks_for_itself(
    name: str, source: str, why_not: str | None
) -> None:
    if why_not is None:
        admission().check(NodeName(name), source)
        return
    with pytest.raises(PacketError, match=why_not):
        admission().check(NodeName(name), source)


def test_where_hosts_have_names_one_cannot_tell() -> None:
    choice = admission(local="my_app@one.example")
    choice.check(NodeName("my_app@two.example"), THERE)
    with pytest.raises(PacketError):
        choice.check(NodeName("my_app@10.0.0.9"), THERE)


@pytest.mark.parametrize("authenticated", [True, False])
def test_a_match_decides(authenticated: bool) -> None:
    choice = admission("worker@10.*", authenticated=authenticated)
    choice.check(NodeName("worker@10.9.9.9"), THERE)
    for name in ("worker@11.0.0.1", "my_app@10.0.0.2"):
        with pytest.raises(PacketError, match="match does not admit"):
            choice.check(NodeName(name), THERE)


def test_with_a_secret_everybody_may_be_named_but_loopback_of_others() -> None:
    choice = admission(authenticated=True)
    choice.check(NodeName("other@elsewhere.example"), THERE)
    for choice in (admission(authenticated=True), admission("*")):
        with pytest.raises(PacketError, match="loopback"):
            choice.check(NodeName("other@127.0.0.1"), THERE)


def test_a_match_with_a_bug_admits_nobody() -> None:
    def broken(_name: NodeName) -> bool:
        raise KeyError("a secret of theirs")

    with pytest.raises(PacketError, match=r"^match raised KeyError$"):
        admission(broken).check(NAME, THERE)


def test_another_host_does_not_speak_for_this_node() -> None:
    told = members()
    assert say(told, LOCAL, 0, source=HERE) == "ourselves"
    assert "it names this node" in refused(told, LOCAL, 0, source=THERE)
    assert not told.names


# -- who is there ----------------------------------------------------------------------------------


def test_a_name_is_new_once() -> None:
    told = members()
    assert say(told, NAME, 0) == "new"
    assert say(told, NAME, 1) == "known"
    assert told.names == {NAME}


def test_silence_expires() -> None:
    told = members(expire_after=15)
    say(told, NAME, 0)
    for now in range(16):
        told.alive(now)
        assert told.names == {NAME}
    say(told, "b@10.0.0.3", 16)
    assert told.names == {"b@10.0.0.3"}
    assert say(told, NAME, 17) == "new"


def test_an_outage_of_ours_ages_nobody() -> None:
    told = members(expire_after=15, window=5)
    say(told, NAME, 0)
    told.alive(10_000)
    assert told.names == {NAME}
    assert told.listened == 6  # that much may pass between two signs of life
    for now in range(10_001, 10_012):
        told.alive(now)
    assert told.names == frozenset()


def test_a_clock_that_stands_still_ages_nobody() -> None:
    told = members()
    for _ in range(100):
        say(told, NAME, 7.0)
    assert told.listened == 0


def test_it_is_settled_once_everybody_had_the_time_to_speak() -> None:
    told = members(window=5)
    told.alive(100)
    assert not told.is_settled
    told.alive(104.9)
    assert not told.is_settled
    told.alive(105)
    assert told.is_settled


def test_a_goodbye_is_taken_from_who_was_heard() -> None:
    told = members()
    say(told, NAME, 0, session=b"1")
    with pytest.raises(PacketError, match="for somebody else"):
        say(told, NAME, 1, kind="goodbye", source="10.0.0.9", session=b"1")
    with pytest.raises(PacketError, match="for somebody else"):
        say(told, NAME, 1, kind="goodbye", session=b"0")
    assert told.names == {NAME}
    assert say(told, NAME, 1, kind="goodbye", session=b"1") == "gone"
    assert say(told, NAME, 1, kind="goodbye", session=b"1") == "unknown"
    assert say(told, LOCAL, 1, kind="goodbye", source=HERE) == "unknown"
    assert not told.names
    assert say(told, NAME, 2, session=b"2") == "new"


# -- bounds ----------------------------------------------------------------------------------------


def test_new_names_have_a_budget() -> None:
    told = members(max_new_names=10, max_names=10_000, expire_after=1e9)
    at_once = 0
    for number in range(1000):
        try:
            say(told, f"a{number}@h", 0, source=f"10.0.{number}.1")
            at_once += 1
        except PacketError as error:
            assert "max_new_names" in str(error)  # noqa: PT017 - the others are none
    assert at_once == len(told.names) == 50
    for number in range(1000):
        with suppress(PacketError):
            say(told, f"b{number}@h", 2, source=f"10.0.{number}.1")
    assert len(told.names) == 70
    assert say(told, "a0@h", 2, source="10.0.0.1") == "known"


def test_one_address_leaves_half_of_the_budget_to_others() -> None:
    told = members(max_new_names=10)
    for number in range(25):
        say(told, f"a{number}@h", 0)
    assert "max_new_names" in refused(told, "b@h", 0)
    say(told, "b@h", 0, source="10.0.0.3")


def test_there_are_no_more_names_than_allowed() -> None:
    told = members(max_names=3)
    for number in range(3):
        say(told, f"a{number}@h", 0)
    assert "max_names" in refused(told, "b@h", 0)
    assert say(told, "a0@h", 1) == "known"
    say(told, "a1@h", 1, kind="goodbye")
    say(told, "b@h", 1)


@pytest.mark.parametrize("rules", [{"max_names": 3}, {"max_new_names": 0.6}])
def test_who_was_turned_away_is_remembered_for_as_long_as_a_name_lives(
    rules: dict[str, float],
) -> None:
    told = members(match="*", **rules, expire_after=15)
    for number in range(3):
        say(told, f"a{number}@h", 0, source=f"10.0.{number}.1")
    assert not told.overfull(0)
    refused(told, "b@h", 1, source="10.0.9.1")
    assert told.overfull(1)
    assert told.overfull(15.9)
    assert not told.overfull(16)
    refused(told, "b@h", 1.5, source="10.0.9.1")
    say(told, "a0@h", 3)
    assert told.overfull(16), "that somebody else is known says nothing about who is not"


def test_nobody_expires_for_what_was_passed_by() -> None:
    told = members(expire_after=15)
    say(told, NAME, 0)
    for second in range(1, 100):  # a flood: a moment of each second is listened to
        told.alive(second)
        for tenth in range(1, 10):
            told.pass_by(None, second + tenth / 10)
    assert told.names == {NAME}
    assert told.overfull(100)
    assert told.listened == pytest.approx(1 + 98 * 0.1)


def test_an_address_that_sends_too_many_harms_itself_alone() -> None:
    told = members(expire_after=15)
    say(told, NAME, 0, source=THERE)
    for second in range(1, 21):
        told.alive(second)
        told.pass_by("10.6.6.6", second + 0.5)
        assert not told.overfull(second + 0.5)
    assert told.listened == pytest.approx(20)
    assert not told.names, "it was silent for long enough"
    told.pass_by(THERE, 21)
    assert told.overfull(21), "it has named nodes, and another one may be among what was not read"


def test_many_strangers_take_little_room() -> None:
    told = members()
    tracemalloc.start()
    try:
        for number in range(20_000):
            with suppress(PacketError):
                say(told, f"a{number}@h", number / 2e4, source=f"10.{number % 999}.{number}")
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(told.names) <= 61
    assert len(told._budgets) == MAX_SOURCES
    assert size < 2**20


def test_packets_are_looked_at_in_moderation() -> None:
    throttle = Throttle()
    assert sum(throttle.lets_pass("a", 0.5) for _ in range(1000)) == PACKETS_PER_SOURCE
    assert not throttle.is_exhausted
    assert throttle.lets_pass("b", 0.5)
    many = sum(throttle.lets_pass(str(number), 0.6) for number in range(100_000))
    assert many == PACKETS - PACKETS_PER_SOURCE - 1
    assert throttle.is_exhausted
    assert not throttle.lets_pass("c", 1.4)
    assert throttle.lets_pass("a", 1.5)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["heartbeat", "goodbye", "alive"]),
            st.sampled_from([LOCAL, NAME, NodeName("b@10.0.0.3"), NodeName("c@127.0.0.1")]),
            st.sampled_from([HERE, THERE, "10.0.0.3", "fe80::1%eth0", ""]),
            st.floats(0, 30),
        ),
        max_size=60,
    )
)
def test_whatever_happens_the_books_are_right(
    history: list[tuple[str, NodeName, str, float]],
) -> None:
    told, now = members(max_names=2), 0.0
    for what, name, source, pause in history:
        now += pause
        before = told.names
        if what == "alive":
            told.alive(now)
            assert told.names <= before
            continue
        try:
            heard = say(told, name, now, kind=what, source=source)  # type: ignore[arg-type]
        except PacketError:
            heard = "unknown"
        assert (name in told.names) == (
            heard in {"new", "known"} or (heard == "unknown" and name in before)
        )
        assert len(told.names) <= 2
        assert LOCAL not in told.names
    assert told.listened <= now
