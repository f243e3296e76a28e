"""The packets of gossip: libcluster's, plain and encrypted, and the sealed ones of our own.

Pure: bytes in, packets out. Nothing but the very shape that libcluster sends is read. Its term is
compared, not decoded: in plain packets anybody may have written it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from secrets import token_bytes
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import NodeName

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

MAX_PACKET = 1024
"""Bytes of the longest packet that is read; the longest possible one of ours has some 330."""
MAX_SKEW = 60.0
"""Seconds by which the clock of a sender that is not known yet may differ from ours."""
MAX_SESSIONS = 10_000
"""Senders of sealed packets that are remembered; beyond them the one heard least recently goes."""
MIN_SEALED_SECRET = 16
"""Bytes: whoever records a packet can try secrets on it at leisure, so a short one is refused."""

Kind: TypeAlias = Literal["heartbeat", "goodbye"]
WireName: TypeAlias = Literal["libcluster", "sealed"]

# libcluster's receivers pass over whatever does not begin with its own prefix, so they never see
# the other one.
_PREFIXES: dict[Kind, bytes] = {"heartbeat": b"heartbeat::", "goodbye": b"goodbye::"}

# "External Term Format": version, MAP_EXT and its arity; the tags of atoms with the number of
# bytes that hold the length. ATOM_EXT until OTP 25, SMALL_ATOM_UTF8_EXT since.
_MAP_OF_ONE = b"\x83t\x00\x00\x00\x01"
_ATOM_TAGS = {b"d"[0]: 2, b"w"[0]: 1, b"v"[0]: 2, b"s"[0]: 1}


class PacketError(ValueError):
    """A packet to ignore. The text says why, in words of ours: nothing of the packet is in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """What a packet says. ``session`` tells one run of a sender from another, where it is known."""

    kind: Kind
    name: NodeName
    session: bytes = b""


class Wire(Protocol):
    """One way to write packets. It may remember: every service has its own."""

    def encode(self, kind: Kind, name: NodeName) -> bytes:
        """Write a packet."""
        ...

    def decode(self, data: bytes) -> Packet:
        """Read a packet.

        Raises:
          PacketError: it is to be ignored.
        """
        ...


# -- libcluster ------------------------------------------------------------------------------------


class PlainWire:
    """libcluster's packets without a secret: ``heartbeat::`` and ``#{node => Name}``."""

    def encode(self, kind: Kind, name: NodeName) -> bytes:
        """Write a packet, with the atoms of today's OTP, which older ones read as well."""
        text = name.encode("ascii")  # at most 255 bytes, as every `NodeName`
        return _PREFIXES[kind] + _MAP_OF_ONE + b"w\x04nodew" + bytes([len(text)]) + text

    def decode(self, data: bytes) -> Packet:
        """Read a packet of any OTP's.

        Raises:
          PacketError: it is none.
        """
        if len(data) > MAX_PACKET:
            raise PacketError("it is too long")
        for kind, prefix in _PREFIXES.items():
            if data.startswith(prefix):
                return Packet(kind=kind, name=_node_of(data[len(prefix) :]))
        raise PacketError("it is no heartbeat in the clear")


def _node_of(term: bytes) -> NodeName:
    """The node that a map names. Other keys and other terms are never sent, and not read."""
    if not term.startswith(_MAP_OF_ONE):
        raise PacketError("its term is not what libcluster sends")
    key, rest = _atom(term[len(_MAP_OF_ONE) :])
    value, rest = _atom(rest)
    if key != b"node" or rest:
        raise PacketError("its term is not what libcluster sends")
    return _node_name(value)


def _atom(data: bytes) -> tuple[bytes, bytes]:
    """An atom's text, and what comes after it."""
    digits = _ATOM_TAGS.get(data[0]) if data else None
    if digits is None or len(data) < 1 + digits:
        raise PacketError("its term is not what libcluster sends")
    begin = 1 + digits
    end = begin + int.from_bytes(data[1:begin])
    if end > len(data):
        raise PacketError("it is cut short")
    return data[begin:end], data[end:]


def _node_name(text: bytes) -> NodeName:
    try:
        return NodeName(text.decode("ascii"))
    except ValueError as error:
        raise PacketError("what it names is no node name") from error


class EncryptedWire:
    """libcluster's packets with a secret: AES-256-CBC, the key a plain SHA-256.

    That keeps names from being read, and strangers out who never saw a packet. It authenticates
    nothing: packets can be sent again, and with effort be bent.
    """

    def __init__(self, secret: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.algorithms import AES
        from cryptography.hazmat.primitives.ciphers.modes import CBC
        from cryptography.hazmat.primitives.padding import PKCS7

        key = AES(sha256(secret).digest())
        self._cipher: Callable[[bytes], Cipher[CBC]] = lambda iv: Cipher(key, CBC(iv))
        self._padding = PKCS7(128)
        self._plain = PlainWire()

    def encode(self, kind: Kind, name: NodeName, *, iv: bytes | None = None) -> bytes:
        """Write a packet; ``iv`` are 16 bytes, by default random ones."""
        iv = token_bytes(16) if iv is None else iv
        padder, encryptor = self._padding.padder(), self._cipher(iv).encryptor()
        padded = padder.update(self._plain.encode(kind, name)) + padder.finalize()
        return iv + encryptor.update(padded) + encryptor.finalize()

    def decode(self, data: bytes) -> Packet:
        """Read a packet.

        Raises:
          PacketError: it is none, or of another secret.
        """
        if len(data) > MAX_PACKET:
            raise PacketError("it is too long")
        if len(data) < 32 or len(data) % 16:
            raise PacketError("it is not encrypted with this secret")
        decryptor, unpadder = self._cipher(data[:16]).decryptor(), self._padding.unpadder()
        try:
            padded = decryptor.update(data[16:]) + decryptor.finalize()
            plain = unpadder.update(padded) + unpadder.finalize()
        except ValueError as error:
            raise PacketError("it is not encrypted with this secret") from error
        if not plain.startswith(tuple(_PREFIXES.values())):
            raise PacketError("it is not encrypted with this secret")
        return self._plain.decode(plain)


# -- our own ---------------------------------------------------------------------------------------

_MAGIC = b"\xb4trio\x01"
_NONCE = 12
_TAG = 16
_SESSION = 8
_STAMP = 8
_KINDS: dict[int, Kind] = {1: "heartbeat", 2: "goodbye"}
_NUMBERS = {kind: number for number, kind in _KINDS.items()}
_INFO = b"barnacle_trio gossip, sealed packets, version 1"


class SealedWire:
    """Packets that only who knows the secret can write, each of which counts once.

    ``magic || nonce || AES-256-GCM-SIV(kind || session || stamp || name)``, the key derived from
    the secret by HKDF-SHA256 for this use alone. A session is one run of a sender, its stamps
    (microseconds of its clock) only grow: a packet with an older one was heard before. Of a
    session that is not known yet the stamp must be of these times. So a clock that is set while
    a cluster runs separates nobody who knows each other.
    """

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self._aead = _sealing(secret)
        self._clock = clock
        self._session = token_bytes(_SESSION)
        self._stamp = 0
        self._heard: OrderedDict[bytes, int] = OrderedDict()

    def encode(self, kind: Kind, name: NodeName) -> bytes:
        """Write a packet."""
        now = int(self._clock() * 1e6)
        if now < self._stamp - 1_000_000:  # the clock was set back: who knows us must not wait
            self._session = token_bytes(_SESSION)
            self._stamp = 0
        self._stamp = max(now, self._stamp + 1)
        says = (
            bytes([_NUMBERS[kind]]) + self._session + self._stamp.to_bytes(_STAMP) + name.encode()
        )
        nonce = token_bytes(_NONCE)
        return _MAGIC + nonce + self._aead.encrypt(nonce, says, _MAGIC)

    def decode(self, data: bytes) -> Packet:
        """Read a packet, once.

        Raises:
          PacketError: it is none, of another secret, changed on its way, heard before or too old.
        """
        from cryptography.exceptions import InvalidTag

        if len(data) > MAX_PACKET:
            raise PacketError("it is too long")
        begin = len(_MAGIC) + _NONCE
        if not data.startswith(_MAGIC) or len(data) <= begin + _TAG + 1 + _SESSION + _STAMP:
            raise PacketError("it is not a sealed packet")
        try:
            says = self._aead.decrypt(data[len(_MAGIC) : begin], data[begin:], _MAGIC)
        except InvalidTag:
            raise PacketError("it is not sealed with this secret") from None
        kind = _KINDS.get(says[0])
        session, stamp = says[1:9], int.from_bytes(says[9:17])
        if kind is None:
            raise PacketError("it is of a kind that this version does not know")
        self._check_fresh(session, stamp)
        return Packet(kind=kind, name=_node_name(says[17:]), session=session)

    def _check_fresh(self, session: bytes, stamp: int) -> None:
        last = self._heard.get(session)
        if last is None:
            if abs(stamp / 1e6 - self._clock()) > MAX_SKEW:
                raise PacketError(
                    f"it is old, or its sender's clock is more than {MAX_SKEW:g} s off ours"
                )
        elif stamp <= last:
            raise PacketError("it was heard before")
        self._heard[session] = stamp
        self._heard.move_to_end(session)
        if len(self._heard) > MAX_SESSIONS:
            self._heard.popitem(last=False)


def _sealing(secret: bytes) -> AESGCMSIV:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=_INFO).derive(secret)
    try:
        return AESGCMSIV(key)
    except UnsupportedAlgorithm as error:
        raise ConfigurationError(
            "wire='sealed' needs a cryptography that is built upon OpenSSL 3.2 or later, as its "
            "wheels are"
        ) from error


def wire_maker(secret: bytes | None, wire: WireName) -> Callable[[], Wire]:
    """What makes a wire for each service; tried once, so that errors come at once.

    Raises:
      ConfigurationError: cryptography is missing or too old, or the secret will not do.
    """
    if secret is None:
        return PlainWire
    if wire == "sealed" and len(secret) < MIN_SEALED_SECRET:
        raise ConfigurationError(
            f"the secret is {len(secret)} bytes long; wire='sealed' asks for {MIN_SEALED_SECRET} "
            "at least, such as secrets.token_urlsafe() gives"
        )
    kind = SealedWire if wire == "sealed" else EncryptedWire
    try:
        kind(secret)
    except ImportError as error:
        raise ConfigurationError(
            "gossip with a secret needs cryptography: pip install 'barnacle-trio[gossip]'"
        ) from error
    return lambda: kind(secret)
