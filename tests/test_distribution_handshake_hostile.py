"""The handshake against strangers: what they send, hand back and replay."""

from __future__ import annotations

import hmac

import pytest

from barnacle_trio._errors import CookieRejected, HandshakeRefused, RemoteProtocolError
from barnacle_trio.distribution._challenges import digest
from barnacle_trio.distribution._flags import OUR_FLAGS, Flag
from barnacle_trio.distribution._handshake import (
    Acceptor,
    Initiator,
    NameReceived,
    ReflectedChallenge,
    WrongNode,
)
from tests.handshakes import (
    ANN,
    BOB,
    COOKIE,
    FLAGS,
    MESSAGES,
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


def fed(acceptor: Acceptor, parts: list[bytes]) -> str:
    try:
        for part in parts:
            acceptor.receive(part)
    except RemoteProtocolError as error:
        return str(error)
    return "not refused"


def refused(data: bytes, header: int = 2) -> str:
    """The reason for which these bytes are refused, which is the same byte by byte."""
    reasons = set()
    for parts in ([data], [bytes([byte]) for byte in data]):
        acceptor = Acceptor(BOB, book(), header=header)
        reasons.add(fed(acceptor, parts))
        assert acceptor.peer is None
    [reason] = reasons
    assert reason != "not refused"
    assert reason.isascii()
    assert "\n" not in reason
    assert len(reason) <= 200
    return reason


@pytest.mark.parametrize(
    ("greeting", "protocol"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP"),
        (b"POST /x HTTP/1.1\r\n\r\n", "HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\n", "HTTP/2"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "TLS"),
    ],
)
def test_33_other_protocols_are_recognised(greeting: bytes, protocol: str) -> None:
    assert f"; the peer seems to speak {protocol}" in refused(greeting)
    assert f"; the peer seems to speak {protocol}" in refused(greeting, header=4)


def test_33_a_port_that_speaks_something_else_is_told_to_who_dials_it() -> None:
    with pytest.raises(RemoteProtocolError, match="seems to speak HTTP"):
        initiator_told(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(RemoteProtocolError, match="seems to speak TLS"):
        initiator_told(b"\x15\x03\x03\x00\x02\x02\x46")


def test_34_lengths_of_zero_and_too_large_are_refused_at_once() -> None:
    assert refused(b"\0\0") == "an empty handshake message"
    assert "65535 bytes was announced" in refused(b"\xff\xff")
    assert "4294967295 bytes" in refused(b"\xff\xff\xff\xff", header=4)
    assert "1025 bytes" in refused((1025).to_bytes(2))
    assert Acceptor(BOB, book()).receive((1024).to_bytes(2) + bytes(1023)) == []


def test_35_the_old_handshake_is_declined() -> None:
    assert "before OTP 23" in refused(framed(b"n\0\5" + bytes(4) + b"ann@127.0.0.1"))


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"ann",
        b"@host",
        b"ann@",
        b"a@b@c",
        b"a" * 250 + b"@host.x",
        b"an\0n@host",
        b"ann\n@host",
        b"ann@ho st",
        b"ann\x1b[31m@host",
        b"\xe4nn@host",
        "ann\u202e@host".encode(),
        b"ann@[::1]",
    ],
)
def test_36_names_that_are_none_are_refused(name: bytes) -> None:
    refused(name_message(name))


def test_36_a_name_that_announces_more_than_there_is() -> None:
    message = name_message()[2:]
    assert "a name of 255 bytes was announced" in refused(
        framed(message[:13] + b"\0\xff" + message[15:])
    )


def test_36_names_of_255_bytes_and_of_ipv6_hosts_pass() -> None:
    long = b"a" * 250 + b"@host"
    for name in (long, b"ann@fdaa:0:1::3"):
        [event] = Acceptor(BOB, book()).receive(name_message(name))
        assert isinstance(event, NameReceived)
        assert event.peer.name == name.decode()


def test_37_a_peer_of_our_own_name_can_only_be_refused() -> None:
    acceptor = Acceptor(ANN, book())
    assert acceptor.receive(name_message()) == [NameReceived(ANN)]
    with pytest.raises(RuntimeError, match="our own name"):
        acceptor.accept(COOKIE)
    with pytest.raises(RuntimeError, match="our own name"):
        acceptor.ask_alive(COOKIE)
    assert acceptor.refuse("nok") == status(b"nok")


def test_38_a_peer_that_lacks_flags_is_told_not_allowed() -> None:
    acceptor = Acceptor(BOB, book())
    flags = FLAGS & ~int(Flag.BIG_CREATION | Flag.MANDATORY_25_DIGEST)
    with pytest.raises(HandshakeRefused, match="it lacks BIG_CREATION"):
        acceptor.receive(name_message(flags=flags))
    assert acceptor.farewell == status(b"not_allowed")


def test_39_of_64_set_flags_the_known_ones_are_kept() -> None:
    acceptor = known_peer(Acceptor(BOB, book()), name_message(flags=2**64 - 1))
    challenge = challenge_in(acceptor.accept(COOKIE))
    result = done(acceptor.receive(reply_message(1, digest(COOKIE, challenge))))
    assert result.agreed == OUR_FLAGS | Flag.PUBLISHED
    assert result.peer.flags == 2**64 - 1


def test_40_a_wrong_digest_is_refused_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(ours: bytes, theirs: bytes) -> bool:
        compared.append(theirs)
        return ours == theirs

    monkeypatch.setattr(hmac, "compare_digest", compare)
    acceptor, challenge = challenged()
    wrong = digest(b"guess", challenge)
    with pytest.raises(CookieRejected) as info:
        acceptor.receive(reply_message(1, wrong))
    assert compared == [wrong]  # in constant time
    assert COOKIE.decode() not in str(info.value)


def test_42_a_digest_of_an_earlier_session_proves_nothing() -> None:
    challenges = book()
    acceptor, challenge = challenged(challenges=challenges)
    recorded = reply_message(1, digest(COOKIE, challenge))
    acceptor.receive(recorded)
    for _ in range(20):
        acceptor, fresh = challenged(challenges=challenges)
        assert fresh != challenge
        with pytest.raises(CookieRejected):
            acceptor.receive(recorded)


def test_45_a_peer_outside_the_allow_list_sees_no_challenge() -> None:
    challenges = book()
    acceptor = known_peer(Acceptor(BOB, challenges))
    assert acceptor.refuse("not_allowed") == status(b"not_allowed")
    assert challenges.remembered == 0


def test_46_many_names_leave_nothing_behind() -> None:
    challenges = book()
    for number in range(1000):
        acceptor = Acceptor(BOB, challenges)
        acceptor.receive(name_message(b"n%d@127.0.0.1" % number))
        acceptor.refuse("not_allowed")
    assert challenges.remembered == 0


@pytest.mark.parametrize("message", sorted(MESSAGES))
def test_47_49_messages_out_of_order_are_refused_by_an_acceptor(message: str) -> None:
    data = MESSAGES[message]
    if message not in ("name", "challenge"):  # those two share their tag
        with pytest.raises(RemoteProtocolError):
            Acceptor(BOB, book()).receive(data)
    with pytest.raises(RemoteProtocolError, match="out of turn"):
        known_peer(Acceptor(BOB, book())).receive(data)
    if message != "alive":
        asked = known_peer(Acceptor(BOB, book()))
        asked.ask_alive(COOKIE)
        with pytest.raises(RemoteProtocolError):
            asked.receive(data)
    acceptor, _ = challenged()
    with pytest.raises(CookieRejected if message == "reply" else RemoteProtocolError):
        acceptor.receive(data)


@pytest.mark.parametrize("message", sorted(MESSAGES))
def test_47_messages_out_of_order_are_refused_by_an_initiator(message: str) -> None:
    data = MESSAGES[message]
    if message != "status":
        with pytest.raises(RemoteProtocolError):
            initiator_told(data)
    with pytest.raises(RemoteProtocolError, match="out of turn"):
        initiator_told(status(b"alive") + data)
    if message not in ("name", "challenge"):
        with pytest.raises(RemoteProtocolError):
            initiator_told(status(b"ok") + data)
    if message == "name":
        with pytest.raises((RemoteProtocolError, WrongNode)):
            initiator_told(status(b"ok") + data)
    with pytest.raises(CookieRejected if message == "ack" else RemoteProtocolError):
        initiator_told(status(b"ok") + challenge_message(1) + data)


def test_47_a_reply_on_top_of_the_name_is_out_of_turn() -> None:
    with pytest.raises(RemoteProtocolError, match="out of turn"):
        Acceptor(BOB, book()).receive(name_message() + reply_message(1, bytes(16)))


@pytest.mark.parametrize("name", [b"127.0.0.1", b"", b"host.example"])
def test_50_a_dynamic_name_is_refused_politely(name: bytes) -> None:
    acceptor = Acceptor(BOB, book())
    with pytest.raises(RemoteProtocolError, match="dynamic name"):
        acceptor.receive(name_message(name, flags=FLAGS | int(Flag.NAME_ME), creation=0))
    assert acceptor.farewell == status(b"not_allowed")


# --- Reflection ---------------------------------------------------------------------------------


class Victim:
    """A node that accepts and dials, with one book, as every node has."""

    def __init__(self) -> None:
        self.challenges = book()

    def accept(self) -> tuple[Acceptor, int]:
        return challenged(challenges=self.challenges)

    def dial(self, challenge: int) -> bytes:
        """Dial the attacker, who offers this challenge; what it learns from the answer."""
        machine = initiator(challenges=self.challenges)
        machine.begin()
        return sent(machine.receive(status(b"ok") + challenge_message(challenge)))


def test_43_the_challenge_of_an_accepted_connection_is_not_answered() -> None:
    """The attacker dials the victim, and lets the victim dial it with the challenge handed back."""
    victim = Victim()
    acceptor, challenge = victim.accept()
    with pytest.raises(ReflectedChallenge):
        victim.dial(challenge)
    with pytest.raises(CookieRejected):
        acceptor.receive(reply_message(1, digest(b"guess", challenge)))


def test_43_the_challenge_of_a_dialled_connection_is_not_answered() -> None:
    """The victim dials the attacker twice: the second dial is to answer the first's challenge."""
    victim = Victim()
    machine = initiator(challenges=victim.challenges)
    machine.begin()
    reply = sent(machine.receive(status(b"ok") + challenge_message(1)))
    with pytest.raises(ReflectedChallenge):
        victim.dial(challenge_in(reply))


def test_43_an_acceptor_proves_nothing_for_a_challenge_of_its_own() -> None:
    """Even to a peer that knows the cookie: an honest one draws its own challenge."""
    victim = Victim()
    acceptor, challenge = victim.accept()
    with pytest.raises(ReflectedChallenge):
        acceptor.receive(reply_message(challenge, digest(COOKIE, challenge)))


def test_43_an_acceptor_answers_no_challenge_before_the_peer_has_proven_itself() -> None:
    victim = Victim()
    dialling = initiator(challenges=victim.challenges)
    dialling.begin()
    mine = challenge_in(sent(dialling.receive(status(b"ok") + challenge_message(1))))
    acceptor, _ = victim.accept()
    with pytest.raises(CookieRejected):  # and no Send: the proof for `mine` stays with us
        acceptor.receive(reply_message(mine, bytes(16)))


def test_43_a_challenge_is_still_ours_after_its_connection_ended() -> None:
    victim = Victim()
    acceptor, challenge = victim.accept()
    acceptor.close()
    with pytest.raises(ReflectedChallenge):
        victim.dial(challenge)


def test_43_honest_nodes_that_dial_each_other_at_once_are_not_suspected() -> None:
    ann, bob = book(), book()
    for here, there in ((ann, bob), (bob, ann)):
        dialling = Initiator(ANN, BOB.name, COOKIE, here)
        accepting = known_peer(Acceptor(BOB, there), dialling.begin())
        reply = sent(dialling.receive(accepting.accept(COOKIE)))
        ack = sent(accepting.receive(reply))
        assert done(dialling.receive(ack)).peer == BOB


def test_a_mirror_learns_nothing() -> None:
    """A peer that sends back what it is sent, in both roles."""
    with pytest.raises(RemoteProtocolError):
        initiator_told(initiator().begin())
    acceptor = known_peer(Acceptor(BOB, book()))
    with pytest.raises(RemoteProtocolError):
        acceptor.receive(acceptor.accept(COOKIE))
