"""Packets of gossip on every wire. The first byte says on which, and who wrote the packet.

Anybody may write a plain one. What is fuzzed of the others is what a stranger sends, and what
somebody says who knows the secret: sealed, and for the cipher padded, by the harness.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.padding import PKCS7

from barnacle_trio._names import NodeName
from barnacle_trio.strategies._gossip_packets import (
    MAX_PACKET,
    EncryptedWire,
    Packet,
    PacketError,
    PlainWire,
    SealedWire,
    Wire,
)
from tests.fuzz.checks import check_brief

NOW = 1_767_225_600.0
NAME = NodeName("a@127.0.0.1")
_SECRET = b"correct horse battery staple"
_MAGIC = b"\xb4trio\x01"
_IV, _NONCE = bytes(range(16)), bytes(range(12))
_PLAIN, _ENCRYPTED, _SEALED = PlainWire(), EncryptedWire(_SECRET), SealedWire(_SECRET, lambda: NOW)


def one_input(data: bytes) -> None:
    if not data:
        return
    kind, data = data[0] % 5, data[1:]
    wire: Wire
    if kind == 0:
        wire = _PLAIN
    elif kind in (1, 2):
        wire = _ENCRYPTED
        data = _encrypted(data) if kind == 2 else data
    else:
        _SEALED._heard.clear()
        wire = _SEALED
        data = _sealed(data) if kind == 4 else data
    packet = _read(wire, data)
    if packet is None:
        return
    assert len(data) <= MAX_PACKET
    assert isinstance(packet.name, NodeName)
    if wire is _SEALED:
        assert _read(wire, data) is None, "it counts once"
        assert len(_SEALED._heard) == 1
    again = _read(wire, wire.encode(packet.kind, packet.name))
    assert again is not None
    assert (again.kind, again.name) == (packet.kind, packet.name)


def _read(wire: Wire, data: bytes) -> Packet | None:
    try:
        return wire.decode(data)
    except PacketError as error:
        check_brief(error, 200)
        return None


def _encrypted(plain: bytes) -> bytes:
    padder, encryptor = PKCS7(128).padder(), _ENCRYPTED._cipher(_IV).encryptor()
    padded = padder.update(plain) + padder.finalize()
    return _IV + encryptor.update(padded) + encryptor.finalize()


def _sealed(says: bytes) -> bytes:
    return _MAGIC + _NONCE + _SEALED._aead.encrypt(_NONCE, says, _MAGIC) if says else b""


def seeds() -> list[bytes]:
    plain = [_PLAIN.encode("heartbeat", NAME), _PLAIN.encode("goodbye", NAME)]
    old = plain[0].replace(b"w\x04node", b"d\0\x04node").replace(b"w\x0ba@", b"d\0\x0ba@")
    stamp = int(NOW * 1e6).to_bytes(8)
    says = [bytes([kind]) + b"session_" + stamp + b"a@127.0.0.1" for kind in (1, 2, 3)]
    stranger = SealedWire(b"another secret of some length", lambda: NOW)
    return [
        *[b"\0" + each for each in (*plain, old)],
        *[b"\2" + each for each in (plain[1], old)],
        *[b"\1" + _encrypted(each) for each in plain],
        *[b"\4" + each for each in says],
        *[b"\3" + _sealed(each) for each in says],
        b"\3" + _MAGIC + bytes(12) + stranger._aead.encrypt(bytes(12), says[0], _MAGIC),
        b"\4\1session_" + bytes(8) + b"a@127.0.0.1",
    ]
