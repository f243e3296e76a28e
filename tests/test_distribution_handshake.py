"""The handshake: both machines pushed through each other, and what each answer means."""

from __future__ import annotations

import hashlib
import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barnacle_trio._errors import (
    BarnacleError,
    ConnectError,
    CookieRejected,
    HandshakeRefused,
    PeerUnreachable,
    RemoteProtocolError,
)
from barnacle_trio._names import NodeName
from barnacle_trio.distribution._challenges import digest
from barnacle_trio.distribution._flags import OUR_FLAGS, Flag
from barnacle_trio.distribution._handshake import (
    Acceptor,
    AliveAnswered,
    AliveAsked,
    Done,
    HandshakeNok,
    Identity,
    Initiator,
    NameReceived,
    Send,
    StatusReceived,
    WrongNode,
)
from tests.handshakes import (
    ANN,
    BOB,
    COOKIE,
    FLAGS,
    MESSAGES,
    OTP_25,
    Line,
    book,
    challenge_in,
    challenge_message,
    challenged,
    done,
    framed,
    initiator,
    initiator_told,
    known_peer,
    name_message,
    reply_message,
    sent,
    status,
)


@pytest.mark.parametrize("header", [2, 4])
def test_two_nodes_that_share_a_cookie_are_joined(header: int) -> None:
    line = Line(header=header)
    to_bob, to_ann = line.run()
    assert to_bob == Done(BOB, b"", OUR_FLAGS | Flag.PUBLISHED)
    assert to_ann == Done(ANN, b"", OUR_FLAGS | Flag.PUBLISHED)
    assert line.log == [StatusReceived("ok")]


def test_ok_simultaneous_is_told() -> None:
    line = Line(decide=lambda acceptor, _: acceptor.accept(COOKIE, simultaneous=True))
    assert all(line.run())
    assert line.log == [StatusReceived("ok_simultaneous")]


def test_a_genuine_peer_takes_the_place_of_its_old_connection() -> None:
    line = Line(decide=lambda acceptor, _: acceptor.ask_alive(COOKIE))
    assert all(line.run())
    assert line.log == [AliveAnswered(True)]


def test_a_peer_that_does_not_want_to_steal_ends_the_handshake() -> None:
    line = Line(decide=lambda acceptor, _: acceptor.ask_alive(COOKIE), steal=False)
    assert line.run() == (None, None)
    assert line.log == [AliveAnswered(False)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 200), max_size=40),
    st.sampled_from([2, 4]),
    st.booleans(),
    st.binary(max_size=20),
)
def test_any_slicing_gives_the_same_result(
    cuts: list[int], header: int, alive: bool, after: bytes
) -> None:
    def decide(acceptor: Acceptor, _: NameReceived) -> bytes:
        return acceptor.ask_alive(COOKIE) if alive else acceptor.accept(COOKIE)

    to_bob, to_ann = Line(decide=decide, header=header, cuts=cuts, after=after).run()
    assert to_bob is not None
    assert to_bob.peer == BOB
    assert to_ann == Done(ANN, b"", OUR_FLAGS | Flag.PUBLISHED)


def test_byte_by_byte_is_one_slicing() -> None:
    assert all(Line(cuts=list(range(200)), after=b"\0\0\0\0").run())


def test_the_frames_behind_the_acknowledgement_are_kept() -> None:
    """Hostile input 48: what follows is for the frames, and comes out after the proof only."""
    ann = initiator()
    ann.begin()
    reply = sent(ann.receive(status(b"ok") + challenge_message(5)))
    proof = digest(COOKIE, challenge_in(reply))
    [event] = ann.receive(framed(b"a" + proof) + b"\0\0\0\0rest")
    assert event == Done(BOB, b"\0\0\0\0rest", OUR_FLAGS | Flag.PUBLISHED)


def test_the_frames_behind_the_reply_are_kept() -> None:
    acceptor, challenge = challenged()
    events = acceptor.receive(reply_message(5, digest(COOKIE, challenge)) + b"\0\0\0\0")
    assert [type(event) for event in events] == [Send, Done]
    assert done(events).leftover == b"\0\0\0\0"


def test_agreed_is_what_both_can_do() -> None:
    acceptor = known_peer(Acceptor(BOB, book()), name_message(flags=OTP_25 | 1 << 63))
    challenge = challenge_in(acceptor.accept(COOKIE))
    result = done(acceptor.receive(reply_message(5, digest(COOKIE, challenge))))
    assert result.peer.flags == OTP_25 | 1 << 63
    assert result.agreed == OUR_FLAGS | Flag.PUBLISHED
    assert not result.agreed & Flag.DIST_HDR_ATOM_CACHE


# --- The bytes ----------------------------------------------------------------------------------


def test_the_digests_are_those_that_otp_computes() -> None:
    assert digest(b"ck", 0x228BB077).hex() == "86f69ed35c6f6b310896aa27116fdbc8"
    assert digest(b"ck", 0x5B215533).hex() == "d59e2d82793ae7ddfb5d6c90e2540a2e"
    assert digest(b"ck", 0) == hashlib.md5(b"ck0", usedforsecurity=False).digest()


def test_our_messages_are_those_of_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorded handshake, with ``b25`` of OTP 25 as the acceptor."""
    monkeypatch.setattr(secrets, "randbits", lambda _bits: 0x5B215533)
    local = Identity(NodeName("py@127.0.0.1"), int(OUR_FLAGS), 0x0A0B0C0D)
    machine = Initiator(local, NodeName("b25@127.0.0.1"), b"ck", book())
    assert machine.begin().hex() == "001b4e0000000d07df5fbc0a0b0c0d000c" + (b"py@127.0.0.1".hex())
    theirs = "4e0000000d07df7fbd228bb0776b02841e000d" + b"b25@127.0.0.1".hex()
    events = machine.receive(status(b"ok") + framed(bytes.fromhex(theirs)))
    assert sent(events) == framed(bytes.fromhex("725b21553386f69ed35c6f6b310896aa27116fdbc8"))
    assert machine.peer == Identity(NodeName("b25@127.0.0.1"), OTP_25, 0x6B02841E)
    result = done(machine.receive(framed(bytes.fromhex("61d59e2d82793ae7ddfb5d6c90e2540a2e"))))
    assert result.peer == machine.peer
    assert result.agreed == OUR_FLAGS


def test_the_acceptors_messages_are_those_of_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "randbits", lambda _bits: 0x228BB077)
    local = Identity(NodeName("py@127.0.0.1"), FLAGS, 0x0A0B0C0D)
    machine = Acceptor(local, book())
    theirs = "4e0000000d07df7fbd6b02841e000d" + b"b25@127.0.0.1".hex()
    [event] = machine.receive(framed(bytes.fromhex(theirs)))
    assert event == NameReceived(Identity(NodeName("b25@127.0.0.1"), OTP_25, 0x6B02841E))
    assert machine.accept(b"ck").hex() == "0003" + b"sok".hex() + (
        "001f4e0000000d07df5fbd228bb0770a0b0c0d000c" + b"py@127.0.0.1".hex()
    )
    events = machine.receive(reply_message(0x5B215533, digest(b"ck", 0x228BB077)))
    assert sent(events).hex() == "001161d59e2d82793ae7ddfb5d6c90e2540a2e"


def test_what_follows_a_name_is_left_to_later_versions() -> None:
    name = name_message()
    [event] = Acceptor(BOB, book()).receive(framed(name[2:] + b"more"))
    assert event == NameReceived(ANN)


# --- What an acceptor answers -------------------------------------------------------------------


def test_51_nok_means_that_the_peer_dials_us() -> None:
    acceptor = known_peer(Acceptor(BOB, book()))
    with pytest.raises(HandshakeNok):
        initiator_told(acceptor.refuse("nok"))
    assert not issubclass(HandshakeNok, PeerUnreachable | HandshakeRefused)


def test_51_not_allowed_is_a_refusal() -> None:
    acceptor = known_peer(Acceptor(BOB, book()))
    with pytest.raises(HandshakeRefused, match=r"bob@127\.0\.0\.1 does not allow"):
        initiator_told(acceptor.refuse("not_allowed"))


def test_51_alive_asks_the_driver() -> None:
    assert initiator_told(status(b"alive")) == [AliveAsked()]


@pytest.mark.parametrize("text", [b"", b"OK", b"ok ", b"true", b"named:\0\x01a\0\0\0\1", b"\xff\n"])
def test_51_an_unknown_status_is_a_protocol_error(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="unknown status") as info:
        initiator_told(status(text))
    assert "\n" not in str(info.value)


def test_52_another_node_than_dialled_is_told_by_name() -> None:
    with pytest.raises(WrongNode) as info:
        initiator_told(status(b"ok") + challenge_message(name=b"eve@127.0.0.1"))
    assert info.value.name == "eve@127.0.0.1"
    assert isinstance(info.value, PeerUnreachable)
    assert str(info.value) == "bob@127.0.0.1 was dialled, but eve@127.0.0.1 answered"


def test_52_the_name_must_be_equal_not_similar() -> None:
    with pytest.raises(WrongNode):
        initiator_told(status(b"ok") + challenge_message(name=b"Bob@127.0.0.1"))
    with pytest.raises(RemoteProtocolError):
        initiator_told(status(b"ok") + challenge_message(name=b"bob@127.0.0.1\0"))


def test_53_a_second_challenge_is_not_answered() -> None:
    machine = initiator()
    machine.begin()
    machine.receive(status(b"ok") + challenge_message(1))
    with pytest.raises(RemoteProtocolError, match="an acknowledgement was due"):
        machine.receive(challenge_message(2))


def test_54_a_wrong_acknowledgement_never_brings_a_node_up() -> None:
    machine = initiator()
    machine.begin()
    machine.receive(status(b"ok") + challenge_message(1))
    with pytest.raises(CookieRejected):
        machine.receive(framed(b"a" + bytes(16)))
    assert machine.peer == BOB  # its creation is known, for the quarantine


def test_55_a_missing_acknowledgement_is_most_likely_another_cookie() -> None:
    machine = initiator()
    machine.begin()
    machine.receive(status(b"ok") + challenge_message(1))
    with pytest.raises(CookieRejected, match="most likely another cookie"):
        machine.eof()
    assert machine.peer == BOB


def test_56_a_peer_that_lacks_flags_is_refused_by_their_names() -> None:
    flags = FLAGS & ~int(Flag.HANDSHAKE_23 | Flag.MANDATORY_25_DIGEST)
    with pytest.raises(HandshakeRefused, match="too old, it lacks HANDSHAKE_23"):
        initiator_told(status(b"ok") + challenge_message(flags=flags))


def test_57_nothing_is_proven_to_who_is_not_the_one_dialled() -> None:
    """No digest leaves before the name and the flags are right: else any port is an oracle."""
    machine = initiator()
    machine.begin()
    with pytest.raises(WrongNode):
        machine.receive(status(b"ok") + challenge_message(name=b"eve@127.0.0.1"))


def test_the_old_challenge_is_declined() -> None:
    old = framed(b"n\0\5" + bytes(8) + b"bob@127.0.0.1")
    with pytest.raises(RemoteProtocolError, match="before OTP 23"):
        initiator_told(status(b"ok") + old)


@pytest.mark.parametrize("cookie", [b"another", b"", COOKIE + b"x"])
def test_two_nodes_of_different_cookies_are_not_joined(cookie: bytes) -> None:
    with pytest.raises(CookieRejected, match=r"ann@127\.0\.0\.1 does not know the cookie"):
        Line(cookie=cookie).run()


# --- The end of the stream ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("received", "error"),
    [
        (b"", HandshakeNok),
        (b"\0", PeerUnreachable),
        (status(b"ok"), PeerUnreachable),
        (status(b"alive"), PeerUnreachable),
        (status(b"ok") + challenge_message(1), CookieRejected),
        (status(b"ok") + challenge_message(1) + b"\0\x11a", PeerUnreachable),
    ],
)
def test_eof_means_what_the_state_says(received: bytes, error: type[ConnectError]) -> None:
    machine = initiator()
    machine.begin()
    machine.receive(received)
    with pytest.raises(error) as info:
        machine.eof()
    assert type(info.value) is error
    with pytest.raises(RuntimeError):
        machine.eof()


def test_eof_at_an_acceptor_is_told_plainly() -> None:
    with pytest.raises(PeerUnreachable, match="before it gave its name"):
        Acceptor(BOB, book()).eof()
    with pytest.raises(PeerUnreachable, match=r"ann@127\.0\.0\.1 closed"):
        known_peer(Acceptor(BOB, book())).eof()
    acceptor, _ = challenged()
    with pytest.raises(PeerUnreachable, match="upon this node's challenge"):
        acceptor.eof()


# --- Misuse, secrecy, noise ---------------------------------------------------------------------


def test_a_machine_that_ended_says_so() -> None:
    acceptor, challenge = challenged()
    acceptor.receive(reply_message(1, digest(COOKIE, challenge)))
    with pytest.raises(RuntimeError, match="this handshake has ended"):
        acceptor.receive(b"x")
    with pytest.raises(RuntimeError, match="this handshake has ended"):
        acceptor.eof()
    with pytest.raises(RuntimeError, match="this handshake has ended"):
        acceptor.accept(COOKIE)
    broken = Acceptor(BOB, book())
    with pytest.raises(RemoteProtocolError):
        broken.receive(b"\0\0")
    with pytest.raises(RuntimeError, match="this handshake has ended"):
        broken.receive(name_message())


def test_calls_out_of_place_are_misuse() -> None:
    acceptor = Acceptor(BOB, book())
    with pytest.raises(RuntimeError, match="AWAIT_NAME"):
        acceptor.accept(COOKIE)
    with pytest.raises(RuntimeError, match="AWAIT_NAME"):
        acceptor.ask_alive(COOKIE)
    with pytest.raises(RuntimeError, match="AWAIT_NAME"):
        acceptor.refuse("nok")
    known_peer(acceptor)
    acceptor.accept(COOKIE)
    with pytest.raises(RuntimeError, match="AWAIT_REPLY"):
        acceptor.accept(COOKIE)
    machine = initiator()
    with pytest.raises(RuntimeError):
        machine.answer_alive(True)
    machine.begin()
    with pytest.raises(RuntimeError):
        machine.begin()
    with pytest.raises(ValueError, match="2 or 4"):
        initiator(header=3)


def test_no_machine_shows_its_cookie() -> None:
    machine = initiator()
    machine.begin()
    acceptor, _ = challenged()
    for thing in (machine, acceptor, machine.receive(status(b"ok")), book()):
        assert COOKIE.decode() not in repr(thing)


STEPS = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=40).map(framed),
    st.sampled_from(sorted(MESSAGES.values())),
    st.sampled_from([status(b"alive"), status(b"ok_simultaneous"), status(b"false")]),
    st.builds(
        lambda tag, rest: framed(tag + rest),
        st.sampled_from([b"N", b"n", b"s", b"r", b"a", b"c"]),
        st.binary(max_size=40),
    ),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, max_size=8), st.booleans(), st.sampled_from([2, 4]))
def test_noise_brings_out_documented_errors_alone(
    steps: list[bytes], alive: bool, header: int
) -> None:
    """And no `Done` without the cookie: the reader of frames is out of reach."""
    acceptor = Acceptor(BOB, book(), header=header)
    dialling = initiator(header=header)
    dialling.begin()
    for machine in (acceptor, dialling):
        reason = ""
        try:
            for step in steps:
                for event in machine.receive(step):
                    assert not isinstance(event, Done)
                    if isinstance(event, NameReceived):
                        acceptor.ask_alive(COOKIE) if alive else acceptor.accept(COOKIE)
                    elif isinstance(event, AliveAsked):
                        dialling.answer_alive(True)
                    elif event == AliveAnswered(False):
                        raise PeerUnreachable("it gave up")
            machine.eof()
        except BarnacleError as error:
            reason = str(error)
        assert reason.isascii()
        assert 0 < len(reason) < 300
        with pytest.raises(RuntimeError):
            machine.receive(b"x")


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 120), st.integers(1, 255))
def test_one_changed_byte_anywhere_joins_nobody_wrongly(place: int, change: int) -> None:
    """Flip a byte of what the acceptor sends: the initiator is joined to bob alone, or not."""
    ann = initiator()
    bob = known_peer(Acceptor(BOB, book()), ann.begin())

    def flipped(data: bytes, at: int) -> bytes:
        if not 0 <= at < len(data):
            return data
        return data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]

    answer = bob.accept(COOKIE)
    try:
        reply = sent(ann.receive(flipped(answer, place)))
        ack = sent(bob.receive(reply)) if reply else b""
        events = ann.receive(flipped(ack, place - len(answer)))
    except BarnacleError:
        return
    for event in events:
        assert isinstance(event, Done | AliveAsked)
        if isinstance(event, Done):
            assert event.peer.name == BOB.name
