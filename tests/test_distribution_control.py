"""Control messages: ours read back, the real BEAM's read, and what is not of the table refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barnacle_trio._errors import RemoteProtocolError
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._control import Op, parse
from barnacle_trio.distribution._flags import MANDATORY
from barnacle_trio.etf import Atom, EncodeError, Limits, Pid, Reference, decode_prefix, encode

OURS = Pid(Atom("py@127.0.0.1"), 1, 2, 3)
THEIRS = Pid(Atom("beam@127.0.0.1"), 4, 5, 6)
REF = Reference(Atom("py@127.0.0.1"), 3, (7, 8, 9))
NAME = Atom("echo")
EMPTY = Atom("")
TERM = (Atom("hello"), [1, 2.5], {b"key": None})
OLD = MANDATORY  # what a peer can do that offers no more than it must


def body(*terms: Any) -> bytes:
    return b"\x70" + b"".join(map(encode, terms))


BUILT: list[tuple[bytes, control.Message, int]] = [
    (control.send(OURS, THEIRS, TERM), control.Send(OURS, THEIRS, TERM), 22),
    (control.send(OURS, THEIRS, TERM, OLD), control.Send(None, THEIRS, TERM), 2),
    (control.reg_send(OURS, NAME, TERM), control.RegSend(OURS, NAME, TERM), 6),
    (control.alias_send(OURS, REF, TERM), control.AliasSend(OURS, REF, TERM), 33),
    (control.link(OURS, THEIRS), control.Link(OURS, THEIRS), 1),
    (control.unlink(1, OURS, THEIRS), control.Unlink(1, OURS, THEIRS), 35),
    (control.unlink(2**64 - 1, OURS, THEIRS), control.Unlink(2**64 - 1, OURS, THEIRS), 35),
    (control.unlink(1, OURS, THEIRS, OLD), control.OldUnlink(OURS, THEIRS), 4),
    (control.unlink_ack(9, OURS, THEIRS), control.UnlinkAck(9, OURS, THEIRS), 36),
    (control.exit_(OURS, THEIRS, TERM), control.Exit(OURS, THEIRS, TERM), 24),
    (control.exit_(OURS, THEIRS, TERM, OLD), control.Exit(OURS, THEIRS, TERM), 3),
    (control.exit2(OURS, THEIRS, TERM), control.Exit2(OURS, THEIRS, TERM), 26),
    (control.exit2(OURS, THEIRS, TERM, OLD), control.Exit2(OURS, THEIRS, TERM), 8),
    (control.monitor(OURS, NAME, REF), control.Monitor(OURS, NAME, REF), 19),
    (control.monitor(OURS, THEIRS, REF), control.Monitor(OURS, THEIRS, REF), 19),
    (control.demonitor(OURS, NAME, REF), control.Demonitor(OURS, NAME, REF), 20),
    (
        control.monitor_exit(NAME, THEIRS, REF, TERM),
        control.MonitorExit(NAME, THEIRS, REF, TERM),
        28,
    ),
    (
        control.monitor_exit(OURS, THEIRS, REF, TERM, OLD),
        control.MonitorExit(OURS, THEIRS, REF, TERM),
        21,
    ),
    (control.group_leader(OURS, THEIRS), control.GroupLeader(OURS, THEIRS), 7),
    (
        control.spawn_request(REF, OURS, THEIRS, (Atom("m"), Atom("f")), [1, 2], [Atom("link")]),
        control.SpawnRequest(REF, OURS, THEIRS, Atom("m"), Atom("f"), [1, 2], [Atom("link")]),
        29,
    ),
    (
        control.spawn_reply(REF, THEIRS, control.SPAWNED_MONITORED, OURS),
        control.SpawnReply(REF, THEIRS, 2, OURS),
        31,
    ),
    (
        control.spawn_reply(REF, THEIRS, 0, Atom("notsup")),
        control.SpawnReply(REF, THEIRS, 0, Atom("notsup")),
        31,
    ),
]


@pytest.mark.parametrize(
    ("data", "message", "op"), BUILT, ids=[f"{n}-{op}" for n, (_, _, op) in enumerate(BUILT)]
)
def test_what_is_built_is_read_back(data: bytes, message: control.Message, op: int) -> None:
    assert parse(data) == message
    assert data[:2] == b"\x70\x83"
    assert data[4:6] == b"a%c" % op


TOKEN = (1, 2, 3, OURS, 4)
MFA = (Atom("m"), Atom("f"), 1)
TRACED: list[tuple[bytes, control.Message]] = [
    (body((12, EMPTY, THEIRS, TOKEN), TERM), control.Send(None, THEIRS, TERM)),
    (body((13, OURS, THEIRS, TOKEN, TERM)), control.Exit(OURS, THEIRS, TERM)),
    (body((16, OURS, EMPTY, NAME, TOKEN), TERM), control.RegSend(OURS, NAME, TERM)),
    (body((18, OURS, THEIRS, TOKEN, TERM)), control.Exit2(OURS, THEIRS, TERM)),
    (body((23, OURS, THEIRS, TOKEN), TERM), control.Send(OURS, THEIRS, TERM)),
    (body((25, OURS, THEIRS, TOKEN), TERM), control.Exit(OURS, THEIRS, TERM)),
    (body((27, OURS, THEIRS, TOKEN), TERM), control.Exit2(OURS, THEIRS, TERM)),
    (
        body((30, REF, OURS, THEIRS, MFA, [], TOKEN), [TERM]),
        control.SpawnRequest(REF, OURS, THEIRS, Atom("m"), Atom("f"), [TERM], []),
    ),
    (body((32, REF, THEIRS, 0, NAME, TOKEN)), control.SpawnReply(REF, THEIRS, 0, NAME)),
    (body((34, OURS, REF, TOKEN), TERM), control.AliasSend(OURS, REF, TERM)),
]


@pytest.mark.parametrize(("data", "message"), TRACED, ids=[data[5] for data, _ in TRACED])
def test_trace_tokens_are_dropped(data: bytes, message: control.Message) -> None:
    assert parse(data) == message


def test_a_frame_of_otp_25_is_read() -> None:
    recorded = (
        "70 83 68 04 61 06 58 77 0d 6232354031 32372e302e302e31 00000009 00000000 6b02841f"
        "77 00 77 04 6563686f 83 77 02 6869"
    )
    sender = Pid(Atom("b25@127.0.0.1"), 9, 0, 0x6B02841F)
    expected = control.RegSend(sender, NAME, Atom("hi"))
    assert parse(bytes.fromhex(recorded)) == expected
    assert control.reg_send(sender, NAME, Atom("hi")) == bytes.fromhex(recorded)


def test_every_op_of_the_table_is_read_or_known_as_unknown() -> None:
    read = {data[5] for data, _, _ in BUILT} | {data[5] for data, _ in TRACED}
    assert set(Op) - read == {Op.NODE_LINK, Op.ALTACT_SIG_SEND}


@pytest.mark.parametrize("op", [0, 5, 9, 10, 11, 14, 15, 17, 37, 38, 255, 256, -1, 2**64])
def test_63_unknown_ops_are_left_to_the_caller(op: int) -> None:
    assert parse(body((op, OURS, THEIRS))) == control.Unknown(op)
    assert parse(body((op,), TERM)) == control.Unknown(op)


@pytest.mark.parametrize(
    ("term", "name"), [(None, "nil"), (True, "true"), (False, "false"), (Atom("undefined"),) * 2]
)
def test_names_that_python_has_values_for_are_names(term: object, name: str | Atom) -> None:
    expected = name if isinstance(name, Atom) else Atom(name)
    message = parse(body((6, OURS, EMPTY, term), TERM))
    assert isinstance(message, control.RegSend)
    assert message.to is expected
    monitor = parse(control.monitor(OURS, expected, REF))
    assert isinstance(monitor, control.Monitor)
    assert monitor.target is expected


def test_the_unused_place_may_hold_anything() -> None:
    """It was the cookie's once; OTP does not look at it either."""
    assert parse(body((2, [b"x"], THEIRS), TERM)) == control.Send(None, THEIRS, TERM)


def test_an_argument_list_of_small_integers_is_a_list() -> None:
    """Erlang encodes ``[1, 2]`` as a string."""
    data = body((29, REF, OURS, THEIRS, (Atom("m"), Atom("f"), 2), [])) + b"\x83k\0\2\1\2"
    message = parse(data)
    assert isinstance(message, control.SpawnRequest)
    assert message.arguments == [1, 2]


def test_bytes_behind_the_last_term_are_ignored_as_otp_does() -> None:
    assert parse(control.send(OURS, THEIRS, TERM) + b"junk") == control.Send(OURS, THEIRS, TERM)
    assert parse(control.link(OURS, THEIRS) + b"junk") == control.Link(OURS, THEIRS)


# --- Hostile inputs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x83D\0" + encode((1, OURS, THEIRS))[1:],
        b"\x83E" + bytes(17),
        b"\x83F" + bytes(16),
        b"\x00",
        b"\x71" + encode((1, OURS, THEIRS)),
    ],
    ids=["nothing", "header", "fragment", "continuation", "zero", "other"],
)
def test_60_headers_that_were_not_agreed_on_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not agreed on"):
        parse(data)


@pytest.mark.parametrize(
    "term", [(), [1, OURS], 1, b"x", (OURS, 1), (Atom("send"),), (1.0,), (True, OURS, THEIRS), None]
)
def test_64_a_control_message_is_a_tuple_with_a_number(term: object) -> None:
    with pytest.raises(RemoteProtocolError, match="no tuple that begins with a number"):
        parse(body(term, TERM))


@pytest.mark.parametrize(
    ("data", "message"),
    [(data, message) for data, message, _ in BUILT] + TRACED,
    ids=[f"{n}-{d[5]}" for n, d in enumerate([d for d, *_ in BUILT] + [d for d, _ in TRACED])],
)
def test_64_wrong_arities_and_types_are_refused(data: bytes, message: control.Message) -> None:
    """Leave out, add, and replace each element of each message by everything else."""
    del message
    tuple_, end = decode_prefix(data, 1)
    op = tuple_[0]
    payload = data[end:] or encode(TERM)
    for wrong in (tuple_[:-1], (*tuple_, EMPTY), (op,)):
        with pytest.raises(RemoteProtocolError, match=r"control message \d+ is not built"):
            parse(body(wrong) + payload)
    kinds: tuple[Any, ...] = (OURS, REF, NAME, 1, -1, 2**64, 1.5, b"x", [], [b"x"], (), {}, TOKEN)
    for place in range(1, len(tuple_)):
        seen = 0
        for kind in kinds:
            if type(kind) is type(tuple_[place]):
                continue
            changed = (*tuple_[:place], kind, *tuple_[place + 1 :])
            try:
                parse(body(changed) + payload)
            except RemoteProtocolError:
                seen += 1
        # Places that hold any term (reasons, tokens, what was the cookie's) are not checked.
        checked = tuple_[place] not in (EMPTY, TOKEN, TERM)
        assert (seen >= len(kinds) - 3) if checked else (seen == 0)


@pytest.mark.parametrize("unlink_id", [0, -1, 2**64, 1.0, True])
def test_64_ids_of_unlinks_are_in_their_range(unlink_id: object) -> None:
    for op in (35, 36):
        with pytest.raises(RemoteProtocolError):
            parse(body((op, unlink_id, OURS, THEIRS)))


@pytest.mark.parametrize("arguments", [[], [1, 2], (1,), b"x", None])
def test_64_a_spawn_request_has_as_many_arguments_as_it_says(arguments: object) -> None:
    with pytest.raises(RemoteProtocolError):
        parse(body((29, REF, OURS, THEIRS, MFA, []), arguments))


@pytest.mark.parametrize(
    "data", [control.send(OURS, THEIRS, TERM), control.exit_(OURS, THEIRS, TERM)], ids=["22", "24"]
)
def test_a_message_cut_short_anywhere_is_refused(data: bytes) -> None:
    for end in range(len(data)):
        with pytest.raises(RemoteProtocolError):
            parse(data[:end])


def test_a_missing_payload_is_told() -> None:
    with pytest.raises(RemoteProtocolError, match="22 came without its payload"):
        parse(body((22, OURS, THEIRS)))


def test_the_limits_hold_for_control_and_payload() -> None:
    small = Limits(max_depth=4)
    deep: Any = []
    for _ in range(10):
        deep = [deep]
    # A payload beyond them is one message less; a control term nobody can act on.
    unread = control.Unread("a term deeper than 4")
    assert parse(body((22, OURS, THEIRS), deep), small) == control.Send(OURS, THEIRS, unread)
    with pytest.raises(RemoteProtocolError):
        parse(body((8, OURS, THEIRS, deep)), small)
    assert parse(body((22, OURS, THEIRS), deep)) == control.Send(OURS, THEIRS, deep)


def test_a_native_record_costs_its_message_alone() -> None:
    """OTP 29 sends them to whoever is connected, unasked: `#point{x = 1}` of a module m."""
    record = b"\x83C\0\0\0\1\0w\1mw\5pointw\1xa\1"
    message = parse(body((22, OURS, THEIRS)) + record)
    assert isinstance(message, control.Send)
    assert isinstance(message.payload, control.Unread)
    assert "a native record" in message.payload.why
    inside = b"\x83h\1" + record[1:]
    message = parse(body((22, OURS, THEIRS)) + inside)
    assert isinstance(message, control.Send)
    assert isinstance(message.payload, control.Unread)


def test_a_term_without_an_encoding_fails_its_caller() -> None:
    with pytest.raises(EncodeError):
        control.send(OURS, THEIRS, object())
    with pytest.raises(EncodeError):
        control.exit_(OURS, THEIRS, float("nan"))


TERMS = st.recursive(
    st.sampled_from([OURS, THEIRS, REF, NAME, EMPTY, None, True, 0, 1, 22, 2**40, b"x", 1.5]),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=6).map(tuple),
    max_leaves=8,
)


@given(st.integers(0, 40), st.lists(TERMS, max_size=6), st.none() | TERMS)
def test_noise_in_tuples_is_read_or_refused(op: int, rest: list[Any], payload: Any) -> None:
    data = body((op, *rest)) if payload is None else body((op, *rest), payload)
    try:
        message = parse(data)
    except RemoteProtocolError:
        return
    assert isinstance(message, control.Message)


@given(st.sampled_from([data for data, _, _ in BUILT]), st.integers(0, 200), st.integers(1, 255))
def test_a_changed_byte_is_read_or_refused(data: bytes, place: int, change: int) -> None:
    at = place % len(data)
    try:
        message = parse(data[:at] + bytes([data[at] ^ change]) + data[at + 1 :])
    except RemoteProtocolError:
        return
    assert isinstance(message, control.Message)


@given(st.binary(max_size=60))
def test_noise_is_read_or_refused(noise: bytes) -> None:
    try:
        message = parse(b"\x70" + noise)
    except RemoteProtocolError:
        return
    assert isinstance(message, control.Message)
