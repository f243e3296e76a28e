from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barnacle_trio._errors import RemoteProtocolError
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution import _fragments as fragments
from barnacle_trio.distribution._flags import OUR_FLAGS
from barnacle_trio.distribution._fragments import FRAGMENT, Reassembly, Transfer, is_fragment
from barnacle_trio.distribution._frames import FrameDecoder
from barnacle_trio.distribution._lanes import MAX_PAIRS, Lanes, Parties
from barnacle_trio.etf import Atom, DecodeError, Fun, Limits, Pid, Reference

HERE, THERE = Atom("a@127.0.0.1"), Atom("b@127.0.0.1")


def pid(number: int, node: Atom = HERE) -> Pid:
    return Pid(node, number, 0, 7)


ONE, TWO, TO, OTHER = pid(1), pid(2), pid(3, THERE), pid(4, THERE)
LIMITS = Limits(max_bytes=1_000_000)


def frames(payload: Any, sequence: int = 1, sender: Pid = ONE) -> list[bytes]:
    """The bodies of the frames in which a message to `TO` goes."""
    transfer = Transfer(sequence, [control.send(sender, TO, payload, OUR_FLAGS)])
    bodies: list[bytes] = []
    while transfer.left:
        size = len(transfer)
        frame = transfer.next()
        assert len(frame) == size
        bodies += FrameDecoder().feed(frame)
    return bodies


def feed_all(reassembly: Reassembly, bodies: list[bytes]) -> None:
    for body in bodies:
        reassembly.feed(body)


def put_together(bodies: list[bytes], limits: Limits = LIMITS) -> Any:
    reassembly = Reassembly(limits)
    *before, last = (reassembly.feed(body) for body in bodies)
    assert before == [None] * (len(bodies) - 1)
    assert last is not None
    assert not len(reassembly)
    return last[0]


# -- one message ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    payload=st.one_of(
        st.binary(max_size=3).map(lambda end: bytes(3 * FRAGMENT) + end),
        st.integers(1, 4 * FRAGMENT).map(bytes),
        st.integers(1, 40_000).map(lambda size: [Atom("x"), *range(size)]),
        st.integers(1, 3 * FRAGMENT).map(lambda size: (Atom("chunk"), bytes(size), b"end")),
        st.integers(1, 3 * FRAGMENT).map(lambda size: ({b"k": [1, bytes(size)]}, bytes(size), [])),
        st.integers(1, 3 * FRAGMENT).map(lambda size: ([1.5] * 2000, bytes(size))),
    )
)
def test_what_was_cut_is_put_together(payload: Any) -> None:
    message = put_together(frames(payload))
    assert message == control.Send(ONE, TO, message.payload)
    assert message.payload == payload


def cut_up(payload: bytes) -> list[bytes]:
    """The pieces of a message to `TO` whose payload is these bytes."""
    body = control.head(control.send_control(ONE, TO, OUR_FLAGS), int(OUR_FLAGS)) + payload
    transfer = Transfer(1, [body])
    bodies = []
    while transfer.left:
        bodies += FrameDecoder().feed(transfer.next())
    return bodies


LONG_BINARY = b"m" + (3 * FRAGMENT).to_bytes(4) + bytes(3 * FRAGMENT)


@pytest.mark.parametrize(
    "payload",
    [b"h\2R\0" + LONG_BINARY, b"h\2" + LONG_BINARY + b"R\0", b"h\3R\0" + LONG_BINARY + b"R\0"],
)
def test_61_a_reference_to_an_atom_that_was_not_agreed_on_is_not_the_binary(payload: bytes) -> None:
    with pytest.raises(DecodeError, match="atom 0 of a header that names 0"):
        put_together(cut_up(payload))


def test_a_binary_inside_a_fun_is_put_together_as_well() -> None:
    rest = b"w\1ma\1a\1" + pid(1).wire + LONG_BINARY
    header = b"\0" + bytes(16) + bytes(4) + (1).to_bytes(4)
    wire = b"p" + (4 + len(header) + len(rest)).to_bytes(4) + header + rest
    message = put_together(cut_up(b"h\2" + wire + LONG_BINARY))
    assert message.payload == (Fun(wire), bytes(3 * FRAGMENT))


def test_the_pieces_are_those_of_the_protocol() -> None:
    first, second, third = frames(bytes(2 * FRAGMENT + 10), sequence=0x0102)
    head = control.send_control(ONE, TO, OUR_FLAGS)
    assert first[:19] == b"\x83E" + (0x0102).to_bytes(8) + (3).to_bytes(8) + b"\0"
    assert first[19:].startswith(head + b"m" + (2 * FRAGMENT + 10).to_bytes(4))
    assert len(first) == 18 + FRAGMENT
    assert second[:18] == b"\x83F" + (0x0102).to_bytes(8) + (2).to_bytes(8)
    assert len(second) == 18 + FRAGMENT
    assert third[:18] == b"\x83F" + (0x0102).to_bytes(8) + (1).to_bytes(8)
    assert all(map(is_fragment, (first, second, third)))
    assert not is_fragment(control.link(ONE, TO, OUR_FLAGS))
    assert not is_fragment(control.link(ONE, TO))


def test_large_parts_are_cut_wherever_they_meet() -> None:
    body = control.send(ONE, TO, bytes(range(256)) * 1000, OUR_FLAGS)
    for cuts in ((100,), (100, FRAGMENT + 2), (FRAGMENT, FRAGMENT + 1), (150, 200, 250_000)):
        parts = [body[a:b] for a, b in zip((0, *cuts), (*cuts, None), strict=True)]
        transfer = Transfer(1, parts)
        bodies = []
        while transfer.left:
            bodies += FrameDecoder().feed(transfer.next())
        assert put_together(bodies).payload == bytes(range(256)) * 1000


@settings(deadline=None, max_examples=40)
@given(st.randoms(use_true_random=False), st.integers(2, 8))
def test_messages_whose_pieces_mix(chance: random.Random, count: int) -> None:
    todo = {
        number: deque(frames([number] * chance.randrange(1, 3 * FRAGMENT), sequence=number))
        for number in range(count)
    }
    expected = {number: len(bodies) for number, bodies in todo.items()}
    reassembly = Reassembly(Limits())
    done: dict[int, Any] = {}
    while todo:
        number = chance.choice(sorted(todo))
        whole = reassembly.feed(todo[number].popleft())
        expected[number] -= 1
        assert (whole is None) == bool(expected[number])
        if whole is not None:
            del todo[number]
            done[number] = whole[0]
    assert sorted(done) == list(range(count))
    assert all(set(message.payload) == {number} for number, message in done.items())


# -- hostile pieces ------------------------------------------------------------------------------


def test_61_pieces_that_do_not_belong_are_refused() -> None:
    first, second, third = frames(bytes(2 * FRAGMENT + 10))
    ids = first[2:18]
    for what, bodies in {
        "ends within its header": [first[:17]],
        "continues no message": [second],
        "is out of order": [first, third],
        "begins a message that has begun": [first, first],
        "is of no number": [first[:10] + bytes(8) + first[18:]],
        "to an atom cache": [first[:18] + b"\1" + first[19:]],
        "without payload": [b"\x83E" + ids + b"\0" + control.link(ONE, TO, OUR_FLAGS)[3:]],
        "refers to an atom": [b"\x83E" + ids],
        "bytes inside a binary": [b"\x83E" + ids[:8] + (1).to_bytes(8) + first[18:]],
        "no tuple": [b"\x83E" + ids + b"\0a\1"],
    }.items():
        with pytest.raises(RemoteProtocolError, match=what.strip()):
            feed_all(Reassembly(LIMITS), bodies)


def test_61_what_is_unfinished_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    first = frames(bytes(5 * FRAGMENT))[0]

    def begin(sequence: int) -> bytes:
        return first[:2] + sequence.to_bytes(8) + first[10:200]

    reassembly = Reassembly(LIMITS)
    for number in range(fragments.MAX_UNFINISHED):
        assert reassembly.feed(begin(number)) is None
    with pytest.raises(RemoteProtocolError, match="messages are in fragments"):
        reassembly.feed(begin(10_000))

    monkeypatch.setattr(fragments, "MAX_UNFINISHED_BYTES", 0)
    reassembly = Reassembly(Limits(max_bytes=FRAGMENT))  # each one's share and no more
    for number in range(100):
        reassembly.feed(first[:2] + number.to_bytes(8) + first[10:60_000])
    assert reassembly._held <= 4 * FRAGMENT

    with pytest.raises(RemoteProtocolError, match="a message of more than"):
        feed_all(Reassembly(Limits(max_bytes=2 * FRAGMENT)), frames(bytes(5 * FRAGMENT)))


def test_61_what_was_finished_counts_no_more() -> None:
    reassembly = Reassembly(Limits(max_bytes=3 * FRAGMENT))
    for number in range(50):
        for body in frames(bytes(2 * FRAGMENT), sequence=number):
            whole = reassembly.feed(body)
        assert whole is not None
    assert not len(reassembly)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_61_mutated_pieces_give_a_message_or_a_protocol_error(data: st.DataObject) -> None:
    bodies = frames((Atom("x"), bytes(FRAGMENT), 1))
    reassembly = Reassembly(LIMITS)
    for body in bodies:
        at = data.draw(st.integers(0, min(len(body), 400) - 1))
        changed = body[:at] + bytes([data.draw(st.integers(0, 255))]) + body[at + 1 :]
        if not is_fragment(changed):
            continue
        try:
            reassembly.feed(changed)
        except RemoteProtocolError:
            return


# -- what may pass what --------------------------------------------------------------------------

NAME, NAME2 = Atom("sink"), Atom("echo")
ALIAS = Reference(THERE, 7, (1, 2, 3))


def transfer(number: int = 1) -> Transfer:
    return Transfer(number, [control.send(ONE, TO, bytes(FRAGMENT), OUR_FLAGS)])


@pytest.mark.parametrize(
    ("large", "small", "waits"),
    [
        ((ONE, TO), (ONE, TO), True),
        ((ONE, TO), (ONE, OTHER), False),
        ((ONE, TO), (TWO, TO), False),
        ((ONE, NAME), (ONE, NAME), True),
        ((ONE, NAME), (ONE, NAME2), False),
        ((ONE, NAME), (TWO, NAME), False),
        ((ONE, NAME), (ONE, TO), True),  # it may be his name
        ((ONE, TO), (ONE, ALIAS), True),
        ((ONE, ALIAS), (ONE, NAME), True),
        ((ONE, TO), (None, TO), True),
        ((ONE, TO), (None, OTHER), False),
        ((NAME, TO), (ONE, TO), True),  # a name whose end is told, or its bearer
    ],
)
def test_a_signal_waits_for_a_large_one_between_the_same_two(
    large: Parties, small: Parties, waits: bool
) -> None:
    lanes = Lanes()
    assert not lanes.holds(small)
    one = transfer()
    assert not lanes.take(large, one)
    assert lanes.holds(small) is waits
    assert lanes.take(small, b"small") is waits
    assert lanes.finish(one) == ([b"small"] if waits else [])
    assert not len(lanes)


def test_what_waits_goes_on_in_order_up_to_the_next_large_one() -> None:
    lanes = Lanes()
    first, second, third = transfer(1), transfer(2), transfer(3)
    assert not lanes.take((ONE, TO), first)
    assert lanes.take((ONE, TO), b"1")
    assert lanes.take((ONE, TO), second)
    assert lanes.take((ONE, TO), b"2")
    assert lanes.take((ONE, TO), third)
    assert not lanes.take((TWO, TO), b"another's")
    assert lanes.finish(first) == [b"1", second]
    assert lanes.finish(second) == [b"2", third]
    assert lanes.finish(third) == []
    assert not len(lanes)


def test_what_concerns_two_large_ones_waits_for_both() -> None:
    for order in (1, -1):
        lanes = Lanes()
        large = [transfer(1), transfer(2)]
        assert not lanes.take((ONE, TO), large[0])
        assert not lanes.take((ONE, OTHER), large[1])
        assert lanes.take((ONE, TO), b"to one")
        assert lanes.take((ONE, NAME), b"to whoever")
        assert lanes.take((ONE, OTHER), b"to the other")
        first, second = large[::order]
        assert lanes.finish(first) == []
        assert lanes.finish(second) == [b"to one", b"to whoever", b"to the other"]
        assert not len(lanes)


def test_a_lane_of_too_many_holds_everybody() -> None:
    lanes = Lanes()
    large = transfer()
    lanes.take((ONE, NAME), large)
    for number in range(100, 101 + MAX_PAIRS):
        assert lanes.take((ONE, pid(number, THERE)), b"%d" % number)
    assert lanes.take((TWO, OTHER), b"anybody")
    assert lanes.finish(large)[-1] == b"anybody"


@settings(deadline=None, max_examples=200)
@given(st.randoms(use_true_random=False))
def test_signals_between_two_leave_in_the_order_in_which_they_came(chance: random.Random) -> None:
    """Whatever is large, and whoever is named how, nothing passes what it must not pass."""
    senders: list[Pid] = [ONE, TWO]
    receivers: list[Pid | Atom] = [TO, OTHER, NAME, NAME2]  # NAME is TO's
    lanes = Lanes()
    said: dict[tuple[object, object], list[object]] = {}
    heard: dict[tuple[object, object], list[object]] = {}
    of: dict[object, tuple[object, object]] = {}
    under_way: list[Transfer] = []

    def leave(item: bytes | Transfer) -> None:
        if isinstance(item, Transfer):
            under_way.append(item)
        else:
            heard.setdefault(of[item], []).append(item)

    for number in range(60):
        between = (chance.choice(senders), chance.choice(receivers))
        item = transfer(number) if chance.random() < 0.2 else b"%d" % number
        of[item] = (between[0], TO if between[1] == NAME else between[1])
        said.setdefault(of[item], []).append(item)
        if not lanes.take(between, item):
            leave(item)
        while under_way and chance.random() < 0.3:
            done = under_way.pop(chance.randrange(len(under_way)))
            heard.setdefault(of[done], []).append(done)
            for freed in lanes.finish(done):
                leave(freed)
    while under_way:
        done = under_way.pop(chance.randrange(len(under_way)))
        heard.setdefault(of[done], []).append(done)
        for freed in lanes.finish(done):
            leave(freed)
    assert heard == said
    assert not len(lanes)
