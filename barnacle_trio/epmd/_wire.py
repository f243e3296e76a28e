"""The port mapper's wire format: bytes in, plain values out, and back. Knows no sockets.

Source: OTP's "Distribution Protocol", section "EPMD Protocol". All numbers are big-endian. A
request is a length (u16) and a body; an answer has no length, and apart from a successful
registration the connection is closed after it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from barnacle_trio._errors import RemoteProtocolError
from barnacle_trio._names import MAX_NAME_BYTES, shorten, show

MAX_REQUEST: Final = 2048
"""Bytes of one request's body. A registration with the longest name and no extra data has 268."""

MAX_PORT_ANSWER: Final = 4096
"""Bytes of one answer to a look-up."""

MAX_NAMES_ANSWER: Final = 1 << 20
"""Bytes of one list of names."""

MAX_NAMES: Final = 10_000
"""Names taken from one list; the rest is counted as skipped."""

NORMAL_NODE: Final = 77
HIDDEN_NODE: Final = 72
HIGHEST_VERSION: Final = 6
LOWEST_VERSION: Final = 5

_ALIVE2_REQ, _PORT2_REQ = 120, 122
_NAMES_REQ, _DUMP_REQ, _KILL_REQ, _STOP_REQ = 110, 100, 107, 115
_PORT2_RESP, _ALIVE2_X_RESP, _ALIVE2_RESP = 119, 118, 121

_ENTRY = struct.Struct(">HBBHHH")  # port, type, protocol, highest, lowest, length of the name
_ANY_SHORT = struct.Struct(">H")
_ANY_LONG = struct.Struct(">I")

# What may stand before the '@' of a node name. A name that epmd lists but that no node can have
# (it takes blanks, line ends and '@' at registration) would only mislead who reads the list.
_LISTED = re.compile(rb"name ([!-?A-~]{1,%d}) at port ([0-9]{1,5})" % MAX_NAME_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortEntry:
    """What a port mapper knows of a node.

    ``name`` is the part of the node name before the ``@``. ``node_type`` (77, or 72 for a hidden
    node), ``protocol`` and the two versions are what the node said at its registration; no
    runtime acts on them. ``extra`` is free for the node's use and normally empty.
    """

    name: str
    port: int
    node_type: int = NORMAL_NODE
    protocol: int = 0
    highest: int = HIGHEST_VERSION
    lowest: int = LOWEST_VERSION
    extra: bytes = b""

    @property
    def hidden(self) -> bool:
        """Whether the node registered as a hidden one."""
        return self.node_type == HIDDEN_NODE


@dataclass(frozen=True, slots=True)
class AliveRequest:
    """ALIVE2_REQ: register ``entry`` for as long as this connection stands."""

    entry: PortEntry


@dataclass(frozen=True, slots=True)
class PortRequest:
    """PORT_PLEASE2_REQ: where does the node of this name listen?"""

    name: str


@dataclass(frozen=True, slots=True)
class NamesRequest:
    """NAMES_REQ: which nodes are registered?"""


@dataclass(frozen=True, slots=True)
class DumpRequest:
    """DUMP_REQ: the same for people who debug."""


@dataclass(frozen=True, slots=True)
class KillRequest:
    """KILL_REQ: end the port mapper."""


@dataclass(frozen=True, slots=True)
class StopRequest:
    """STOP_REQ: free this name by force."""

    name: str


Request: TypeAlias = (
    AliveRequest | PortRequest | NamesRequest | DumpRequest | KillRequest | StopRequest
)


@dataclass(frozen=True, slots=True)
class AliveAnswer:
    """Whether a registration was taken (``result`` 0), and the creation handed out."""

    result: int
    creation: int


@dataclass(frozen=True, slots=True)
class NamesAnswer:
    """A list of names, and how many of its lines were left out as unusable or beyond the bound."""

    names: dict[str, int]
    skipped: int


KILL_REFUSED: Final = b"NO"
UNKNOWN_NAME: Final = bytes((_PORT2_RESP, 1))
REFUSED: Final = AliveAnswer(1, 99)  # the creation that OTP's port mapper gives with a refusal


# --- requests -----------------------------------------------------------------------------------


def encode_request(request: Request) -> bytes:
    """The bytes of a request, its length in front."""
    match request:
        case AliveRequest(entry):
            body = bytes((_ALIVE2_REQ,)) + _pack_entry(entry)
        case PortRequest(name):
            body = bytes((_PORT2_REQ,)) + name.encode()
        case StopRequest(name):
            body = bytes((_STOP_REQ,)) + name.encode()
        case NamesRequest():
            body = bytes((_NAMES_REQ,))
        case DumpRequest():
            body = bytes((_DUMP_REQ,))
        case KillRequest():
            body = bytes((_KILL_REQ,))
    return _ANY_SHORT.pack(len(body)) + body


class RequestCutter:
    """Cuts the one request of a connection out of a byte stream, in whatever slices it comes."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> bytes | None:
        """Take any slice of the stream; returns the request's body once it is there, else None.

        Raises:
          RemoteProtocolError: the length is zero or above `MAX_REQUEST`, or more than one request
            came. The buffer never holds more than the slice on top of a bounded request.
        """
        self._buffer += data
        if len(self._buffer) < 2:
            return None
        (size,) = _ANY_SHORT.unpack_from(self._buffer)
        if not 0 < size <= MAX_REQUEST:
            raise RemoteProtocolError(f"a request of {size} bytes, the limit is {MAX_REQUEST}")
        if len(self._buffer) > 2 + size:
            raise RemoteProtocolError("bytes after the request")
        return bytes(self._buffer[2:]) if len(self._buffer) == 2 + size else None


def parse_request(body: bytes) -> Request:
    """Read the body of a request.

    Raises:
      RemoteProtocolError: the operation is unknown, a length lies, or a name is empty, has a NUL
        in it, or is asked for and not printable. What can be registered is the registry's to say.
    """
    if not body:
        raise RemoteProtocolError("an empty request")
    tag, rest = body[0], body[1:]
    if tag == _ALIVE2_REQ:
        return AliveRequest(_unpack_entry(rest)[0])  # bytes behind it are for later versions
    if tag == _PORT2_REQ:
        return PortRequest(_asked_name(rest))
    if tag == _STOP_REQ:
        return StopRequest(_asked_name(rest))
    if tag == _NAMES_REQ:
        return NamesRequest()
    if tag == _DUMP_REQ:
        return DumpRequest()
    if tag == _KILL_REQ:
        return KillRequest()
    raise RemoteProtocolError(f"unknown request {tag}")


def _asked_name(raw: bytes) -> str:
    raw = raw.removesuffix(b"\0")  # C programs send their terminator along
    if len(raw) > MAX_NAME_BYTES:
        raise RemoteProtocolError(f"a name of {len(raw)} bytes")
    name = _name(raw)
    if not name.isprintable():
        raise RemoteProtocolError(f"a name that nobody has: {shorten(name)}")
    return name


def _name(raw: bytes) -> str:
    if not raw or b"\0" in raw:
        raise RemoteProtocolError("a name that is empty or has a NUL in it")
    # What is not UTF-8 becomes lone surrogates, which no name that anybody registers has.
    return raw.decode(errors="surrogateescape")


# --- answers ------------------------------------------------------------------------------------


def encode_alive_answer(answer: AliveAnswer, *, highest: int) -> bytes:
    """The answer to a registration, in the width that the registering node understands.

    Nodes that speak version 6 get 32 bits of creation, older ones 16 (of which they use two).
    """
    if highest >= 6:
        return struct.pack(">BBI", _ALIVE2_X_RESP, answer.result, answer.creation)
    creation = answer.creation if answer.result else 1 + answer.creation % 3
    return struct.pack(">BBH", _ALIVE2_RESP, answer.result, creation)


def parse_alive_answer(data: bytes) -> AliveAnswer | None:
    """Read the answer to a registration; None while it is incomplete.

    Raises:
      RemoteProtocolError: this is no such answer, or more than one.
    """
    if not data:
        return None
    if data[0] not in (_ALIVE2_X_RESP, _ALIVE2_RESP):
        raise RemoteProtocolError(f"a registration was answered by {show(data[:20])}")
    layout = struct.Struct(">BBI" if data[0] == _ALIVE2_X_RESP else ">BBH")
    if len(data) < layout.size:
        return None
    if len(data) > layout.size:
        raise RemoteProtocolError("bytes after the answer to a registration")
    _tag, result, creation = layout.unpack(data)
    return AliveAnswer(result, creation)


def encode_port_answer(entry: PortEntry | None) -> bytes:
    """The answer to a look-up; None for a name that is not registered."""
    if entry is None:
        return UNKNOWN_NAME
    return bytes((_PORT2_RESP, 0)) + _pack_entry(entry)


def parse_port_answer(data: bytes, *, name: str) -> PortEntry | None:
    """Read the whole answer to a look-up of ``name``; None for a name that is not registered.

    Raises:
      RemoteProtocolError: it is truncated or too long, its lengths lie, it is about another name,
        or it gives a port or versions that no node can have.
    """
    if len(data) < 2 or data[0] != _PORT2_RESP:
        raise RemoteProtocolError(f"a look-up was answered by {show(data[:20])}")
    if data[1] != 0:
        return None
    entry, rest = _unpack_entry(data[2:])
    if rest:
        raise RemoteProtocolError("bytes after the answer to a look-up")
    if entry.name != name:
        raise RemoteProtocolError(f"asked for {shorten(name)}, answered for {shorten(entry.name)}")
    if entry.port == 0:
        raise RemoteProtocolError(f"port 0 was given for {shorten(name)}")
    if entry.highest < entry.lowest:
        raise RemoteProtocolError(f"versions {entry.lowest} to {entry.highest} were given")
    return entry


def encode_names_answer(mapper_port: int, entries: Iterable[PortEntry]) -> bytes:
    """The list of names, in the order given."""
    lines = (f"name {entry.name} at port {entry.port}\n".encode() for entry in entries)
    return _ANY_LONG.pack(mapper_port) + b"".join(lines)


def parse_names_answer(data: bytes) -> NamesAnswer:
    """Read a whole list of names, leaving out and counting the lines that are unusable.

    Unusable are: what does not read ``name N at port P``, a last line without its end (its port
    may be cut off), names that no node can have, ports out of range, a name for the second time,
    and everything beyond `MAX_NAMES`.

    Raises:
      RemoteProtocolError: it is longer than `MAX_NAMES_ANSWER`, or this is no such list at all.
    """
    if len(data) > MAX_NAMES_ANSWER:
        raise RemoteProtocolError(f"a list of names of more than {MAX_NAMES_ANSWER} bytes")
    if len(data) < 4 or _ANY_LONG.unpack_from(data)[0] > 0xFFFF:
        raise RemoteProtocolError(
            f"what answers there is no port mapper: it says {show(data[:20])}"
        )
    *lines, unfinished = data[4:].split(b"\n")
    names: dict[str, int] = {}
    skipped = 1 if unfinished else 0
    for line in lines:
        found = _LISTED.fullmatch(line)
        port = int(found[2]) if found else 0
        if found and 0 < port <= 0xFFFF and len(names) < MAX_NAMES:
            name = found[1].decode("ascii")
            if name not in names:
                names[name] = port
                continue
        skipped += 1
    return NamesAnswer(names, skipped)


def encode_dump_answer(mapper_port: int, entries: Iterable[tuple[PortEntry, int]]) -> bytes:
    """The list for people who debug: entries and the file descriptors of their connections."""
    lines = (
        f"active name     <{entry.name}> at port {entry.port}, fd = {fd}\n\0".encode()
        for entry, fd in entries
    )
    return _ANY_LONG.pack(mapper_port) + b"".join(lines)


# --- the part that registrations and look-ups share ---------------------------------------------


def _pack_entry(entry: PortEntry) -> bytes:
    name = entry.name.encode()
    return b"".join(
        (
            _ENTRY.pack(
                entry.port,
                entry.node_type,
                entry.protocol,
                entry.highest,
                entry.lowest,
                len(name),
            ),
            name,
            _ANY_SHORT.pack(len(entry.extra)),
            entry.extra,
        )
    )


def _unpack_entry(data: bytes) -> tuple[PortEntry, bytes]:
    if len(data) < _ENTRY.size:
        raise RemoteProtocolError(f"an entry of {len(data)} bytes")
    port, node_type, protocol, highest, lowest, name_size = _ENTRY.unpack_from(data)
    name_end = _ENTRY.size + name_size
    if len(data) < name_end + 2:
        raise RemoteProtocolError(f"a name of {name_size} bytes in an entry of {len(data)}")
    (extra_size,) = _ANY_SHORT.unpack_from(data, name_end)
    end = name_end + 2 + extra_size
    if len(data) < end:
        raise RemoteProtocolError(f"extra data of {extra_size} bytes in an entry of {len(data)}")
    entry = PortEntry(
        name=_name(data[_ENTRY.size : name_end]),
        port=port,
        node_type=node_type,
        protocol=protocol,
        highest=highest,
        lowest=lowest,
        extra=data[name_end + 2 : end],
    )
    return entry, data[end:]
