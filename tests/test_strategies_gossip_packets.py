"""Gossip's packets: libcluster's byte for byte, our own, and whatever else comes.

With ``BARNACLE_TRIO_LONG=1`` a million mutated packets are tried on each wire, else some thousands.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barnacle_trio import ConfigurationError, NodeName
from barnacle_trio.strategies._gossip_members import Admission, Members, Rules
from barnacle_trio.strategies._gossip_packets import (
    MAX_PACKET,
    MAX_SESSIONS,
    MAX_SKEW,
    EncryptedWire,
    Kind,
    Packet,
    PacketError,
    PlainWire,
    SealedWire,
    Wire,
    wire_maker,
)
from tests.erlang import Erlang

NAME = NodeName("a@127.0.0.1")
OLD = bytes.fromhex("6865617274626561743a3a8374000000016400046e6f646564000b61403132372e302e302e31")
NEW = bytes.fromhex("6865617274626561743a3a83740000000177046e6f6465770b61403132372e302e302e31")
SECRET = b"s3cret"
IV = bytes(range(16))
OLD_ENCRYPTED = bytes.fromhex(
    "000102030405060708090a0b0c0d0e0fa4858114bd9d1726ed914175230bd42d"
    "f7905675741010c06dc6922598c6233396b9bd665a020e9e73e66370dcc50de5"
)
NEW_ENCRYPTED = bytes.fromhex(
    "000102030405060708090a0b0c0d0e0fa4858114bd9d1726ed914175230bd42d"
    "7df1f3b77a90df4cc7fb3a449f0e1c4858c12c4e5ec0bb67b29b1fecbe528199"
)
LONG_SECRET = b"correct horse battery staple"

WIRES: dict[str, Callable[[], Wire]] = {
    "plain": PlainWire,
    "encrypted": lambda: EncryptedWire(SECRET),
    "sealed": lambda: SealedWire(LONG_SECRET),
}

names = st.builds(
    "{}@{}".format,
    st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=100),
    st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=100),
).map(NodeName)


def refused(wire: Wire, data: bytes) -> str:
    with pytest.raises(PacketError) as caught:
        wire.decode(data)
    return str(caught.value)


# -- libcluster's ----------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [OLD, NEW], ids=["until OTP 25", "since OTP 26"])
def test_a_heartbeat_of_libcluster_is_read(data: bytes) -> None:
    assert PlainWire().decode(data) == Packet(kind="heartbeat", name=NAME)


def test_ours_are_what_libcluster_sends() -> None:
    assert PlainWire().encode("heartbeat", NAME) == NEW
    assert EncryptedWire(SECRET).encode("heartbeat", NAME, iv=IV) == NEW_ENCRYPTED


@pytest.mark.parametrize("data", [OLD_ENCRYPTED, NEW_ENCRYPTED])
def test_an_encrypted_heartbeat_of_libcluster_is_read(data: bytes) -> None:
    assert EncryptedWire(SECRET).decode(data) == Packet(kind="heartbeat", name=NAME)


def test_each_encrypted_packet_is_another() -> None:
    wire = EncryptedWire(SECRET)
    packets = {wire.encode("heartbeat", NAME) for _ in range(10)}
    assert len({packet[:16] for packet in packets}) == 10


def test_the_longest_name_fits() -> None:
    longest = NodeName("a@" + "h" * 253)
    for make in WIRES.values():
        data = make().encode("heartbeat", longest)
        assert len(data) <= MAX_PACKET
        assert make().decode(data).name == longest


@pytest.mark.parametrize("make", WIRES.values(), ids=WIRES)
@given(name=names, kind=st.sampled_from(["heartbeat", "goodbye"]))
def test_what_is_written_is_read(make: Callable[[], Wire], name: NodeName, kind: Kind) -> None:
    packet = make().decode(make().encode(kind, name))
    assert (packet.kind, packet.name) == (kind, name)


def test_a_goodbye_is_none_of_libclusters_business() -> None:
    """Its receiver looks at what begins with its own prefix, and at nothing else."""
    assert not PlainWire().encode("goodbye", NAME).startswith(b"heartbeat::")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"heartbeat::",
        b"heartbeat::garbage",
        b"HEARTBEAT::" + NEW[11:],
        NEW[11:],
        NEW + b"\0",
        b"heartbeat::\x83P\x00\x00\x00\x15" + NEW[12:],
        b"heartbeat::\x83t\x00\x00\x00\x02" + NEW[17:],
        b"heartbeat::\x83t\xff\xff\xff\xff" + NEW[17:],
        b"heartbeat::\x83t\x00\x00\x00\x01w\x04nodem\x00\x00\x00\x0ba@127.0.0.1",
        b"heartbeat::\x83t\x00\x00\x00\x01w\x04nodew\xffa@127.0.0.1",
        b"heartbeat::\x83t\x00\x00\x00\x01w\x04edonw\x0ba@127.0.0.1",
        b"heartbeat::\x83t\x00\x00\x00\x01w\x04nodew\x09nonsense!",
        b"heartbeat::\x83t\x00\x00\x00\x01w\x04nodew\x05a@\xc3\xa4b",
        b"heartbeat::\x83t\x00\x00\x00\x01w\x04nodew\x05a@b\x00c",
        b"heartbeat::\x83t\x00\x00\x00\x01w\x04noded",
        b"heartbeat::\x83t\x00\x00\x00\x01w\x04node",
        b"heartbeat::\x83" + b"l\x00\x00\x00\x01" * 1000,
        NEW + bytes(65_000),
        OLD_ENCRYPTED,
    ],
)
def test_nothing_else_is_read(data: bytes) -> None:
    refused(PlainWire(), data)


@pytest.mark.parametrize(
    "data",
    [b"", NEW, NEW_ENCRYPTED[:16], NEW_ENCRYPTED[:-1], NEW_ENCRYPTED[:-16], NEW_ENCRYPTED * 100],
)
def test_what_is_not_encrypted_is_ignored(data: bytes) -> None:
    refused(EncryptedWire(SECRET), data)


def test_what_is_encrypted_with_another_secret_is_ignored() -> None:
    for number in range(300):  # a padding is right by chance every 256th time
        other = EncryptedWire(str(number).encode())
        refused(EncryptedWire(SECRET), other.encode("heartbeat", NAME))


# -- our own ---------------------------------------------------------------------------------------


class Clock:
    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_a_sealed_packet_counts_once() -> None:
    clock = Clock()
    sender, receiver = SealedWire(LONG_SECRET, clock), SealedWire(LONG_SECRET, clock)
    first = sender.encode("heartbeat", NAME)
    second = sender.encode("heartbeat", NAME)
    receiver.decode(first)
    receiver.decode(second)
    assert refused(receiver, first) == refused(receiver, second) == "it was heard before"


def test_an_older_packet_does_not_come_after_a_newer_one() -> None:
    sender, receiver = SealedWire(LONG_SECRET), SealedWire(LONG_SECRET)
    older, newer = (sender.encode("heartbeat", NAME) for _ in range(2))
    receiver.decode(newer)
    assert refused(receiver, older) == "it was heard before"


@pytest.mark.parametrize("away", [MAX_SKEW + 1, -MAX_SKEW - 1])
def test_a_stranger_of_other_times_is_refused(away: float) -> None:
    clock = Clock()
    data = SealedWire(LONG_SECRET, clock).encode("heartbeat", NAME)
    clock.now += away
    assert "clock is more than 60 s off ours" in refused(SealedWire(LONG_SECRET, clock), data)
    clock.now -= away / 2
    SealedWire(LONG_SECRET, clock).decode(data)


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0])
@pytest.mark.parametrize("whose", ["sender", "receiver"])
def test_a_clock_that_is_set_separates_nobody_for_long(jump: float, whose: str) -> None:
    clocks = {"sender": Clock(), "receiver": Clock()}
    sender = SealedWire(LONG_SECRET, clocks["sender"])
    receiver = SealedWire(LONG_SECRET, clocks["receiver"])
    receiver.decode(sender.encode("heartbeat", NAME))
    clocks[whose].now += jump
    if (whose, jump) == ("sender", -86_400.0):  # it begins anew, and that is of other times
        assert "clock is more than" in refused(receiver, sender.encode("heartbeat", NAME))
        clocks["receiver"].now += jump
    receiver.decode(sender.encode("heartbeat", NAME))


def test_no_more_senders_are_remembered_than_there_is_room() -> None:
    receiver = SealedWire(LONG_SECRET)
    first = SealedWire(LONG_SECRET)
    receiver.decode(first.encode("heartbeat", NAME))
    sender = SealedWire(LONG_SECRET)
    for number in range(MAX_SESSIONS + 10):
        sender._session = number.to_bytes(8)
        receiver.decode(sender.encode("heartbeat", NAME))
    assert len(receiver._heard) == MAX_SESSIONS


def test_a_sealed_packet_is_sealed_with_the_secret_for_this_use_alone() -> None:
    data = SealedWire(LONG_SECRET).encode("heartbeat", NAME)
    assert NAME.encode() not in data
    assert refused(SealedWire(b"another secret of theirs"), data) == (
        "it is not sealed with this secret"
    )
    refused(SealedWire(sha256(LONG_SECRET).digest()), data)
    refused(EncryptedWire(LONG_SECRET), data)
    refused(PlainWire(), data)
    assert not data.startswith(b"heartbeat::")


def test_every_bit_of_a_sealed_packet_counts() -> None:
    data = SealedWire(LONG_SECRET).encode("heartbeat", NAME)
    for position in range(len(data) * 8):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        refused(SealedWire(LONG_SECRET), bytes(changed))
    for length in range(len(data)):
        refused(SealedWire(LONG_SECRET), data[:length])


# -- secrets ---------------------------------------------------------------------------------------


def test_cryptography_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    wire_maker(None, "libcluster")
    for secret, wire in ((SECRET, "libcluster"), (LONG_SECRET, "sealed")):
        with pytest.raises(ConfigurationError, match=r"pip install 'barnacle-trio\[gossip\]'"):
            wire_maker(secret, wire)  # type: ignore[arg-type]


def test_a_short_secret_seals_nothing() -> None:
    with pytest.raises(ConfigurationError, match="16 at least") as caught:
        wire_maker(b"fifteen letters", "sealed")
    assert "fifteen letters" not in str(caught.value)


# -- whatever comes --------------------------------------------------------------------------------


def mutations(seeds: list[bytes], count: int, rng: random.Random) -> Iterator[bytes]:
    """Packets with bytes changed, cut, put in, joined: some still whole, most of them not."""
    for _ in range(count):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 8))):
            at = rng.randrange(len(data) + 1)
            match rng.randrange(6):
                case 0 if at < len(data):
                    data[at] ^= 1 << rng.randrange(8)
                case 1 if at < len(data):
                    data[at] = rng.choice(b"\x00\x01\xff@dwvstmjlhP\x83")
                case 2:
                    del data[at : at + rng.randrange(20)]
                case 3:
                    data[at:at] = rng.randbytes(rng.randrange(20))
                case 4:
                    other = rng.choice(seeds)
                    data[at:] = other[rng.randrange(len(other)) :]
                case _:
                    data[at : at + 16] = data[: rng.randrange(40)]
        yield bytes(data)


@pytest.mark.parametrize("make", WIRES.values(), ids=WIRES)
def test_no_mutated_packet_raises_or_names_whom_it_may_not(make: Callable[[], Wire]) -> None:
    count = 1_000_000 if os.environ.get("BARNACLE_TRIO_LONG") else 5_000
    allowed = {NodeName(f"my_app@10.0.0.{number}") for number in range(5)}
    others = [NodeName("other@10.0.0.9"), NodeName("my_app@elsewhere"), NodeName("a" * 99 + "@b")]
    sender = make()
    seeds = [OLD, NEW, OLD_ENCRYPTED, NEW_ENCRYPTED]
    for name in (*allowed, *others):
        seeds += [sender.encode("heartbeat", name), sender.encode("goodbye", name)]
    local = NodeName("me@10.0.0.1")
    admission = Admission(
        local, allowed.__contains__, authenticated=True, is_here=lambda source: source == "::1"
    )
    members = Members(local, admission, Rules(max_names=3, max_new_names=1e6))
    wire, heard = make(), 0
    for number, data in enumerate(mutations(seeds, count, random.Random(count))):
        try:
            members.take(wire.decode(data), f"10.0.0.{number % 256}", number / 100)
            heard += 1
        except PacketError:
            pass
        assert len(members.names) <= 3
        assert members.names <= allowed
    assert heard, "none of them was whole, so nothing was tried"


# -- Erlang ----------------------------------------------------------------------------------------


def test_erlang_reads_ours_and_we_read_its(erlang: Erlang) -> None:
    ours = PlainWire().encode("heartbeat", NAME).hex()
    read, written = erlang.run(
        f"""
        <<"heartbeat::", Term/binary>> = binary:decode_hex(<<"{ours}">>),
        io:format("~p~n", [binary_to_term(Term) =:= #{{node => 'a@127.0.0.1'}}]),
        Packet = <<"heartbeat::", (term_to_binary(#{{node => 'a@127.0.0.1'}}))/binary>>,
        io:format("~s~n", [binary:encode_hex(Packet)])
        """
    ).splitlines()
    assert read == "true"
    assert bytes.fromhex(written) == (NEW if int(erlang.version) >= 26 else OLD)
    assert PlainWire().decode(bytes.fromhex(written)).name == NAME


def test_erlang_decrypts_ours_and_we_decrypt_its(erlang: Erlang) -> None:
    ours = EncryptedWire(SECRET).encode("heartbeat", NAME).hex()
    read, written = erlang.run(
        f"""
        {{ok, _}} = application:ensure_all_started(crypto),
        Key = crypto:hash(sha256, <<"{SECRET.decode()}">>),
        Options = fun(Encrypt) -> [{{encrypt, Encrypt}}, {{padding, pkcs_padding}}] end,
        <<Iv:16/binary, Ours/binary>> = binary:decode_hex(<<"{ours}">>),
        <<"heartbeat::", Term/binary>> =
            crypto:crypto_one_time(aes_256_cbc, Key, Iv, Ours, Options(false)),
        io:format("~p~n", [binary_to_term(Term) =:= #{{node => 'a@127.0.0.1'}}]),
        Plain = <<"heartbeat::", (term_to_binary(#{{node => 'a@127.0.0.1'}}))/binary>>,
        Theirs = crypto:crypto_one_time(aes_256_cbc, Key, Iv, Plain, Options(true)),
        io:format("~s~n", [binary:encode_hex(<<Iv/binary, Theirs/binary>>)])
        """
    ).splitlines()
    assert read == "true"
    assert EncryptedWire(SECRET).decode(bytes.fromhex(written)).name == NAME
