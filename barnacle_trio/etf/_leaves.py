"""The tags that hold no terms, and are not met in every message: a reader for each.

A reader takes the bytes, the place after the tag, and what is left of the limits; it gives the
value and the place after it. Reading behind the end raises `IndexError` or `struct.error`, or is
found out by `cut`; the decoder makes one `DecodeError` of them all. Sources: "External Term
Format", and what OTP 25 and 28 accept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import isfinite
from struct import Struct
from typing import Any

from barnacle_trio.etf._errors import BeyondLimits, DecodeError
from barnacle_trio.etf._limits import Limits
from barnacle_trio.etf._terms import (
    MAX_ATOM_CHARACTERS,
    MAX_REFERENCE_WORDS,
    Atom,
    BitString,
    Export,
    Pid,
    Port,
    Reference,
    reference,
)

u16 = Struct("!H").unpack_from
u32 = Struct("!I").unpack_from
_U64 = Struct("!Q").unpack_from
_NEW_PID = Struct("!III").unpack_from
_TWO = Struct("!II").unpack_from
_I32 = Struct("!i").unpack_from
_FLOAT_TEXT = re.compile(rb"[+-]?[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?")

# Atoms and pids recur, so the decoder knows them by their bytes without looking inside. A peer
# chooses those bytes: a full table starts afresh, and so holds what was met of late.
MAX_KNOWN = 8192
_VALUES: dict[Atom, Any] = {Atom("true"): True, Atom("false"): False, Atom("nil"): None}
atom_values: dict[bytes, Any] = {}
"""What atoms are decoded to, by their encoded form: an `Atom`, `True`, `False` or `None`."""
pids: dict[bytes, Pid] = {}
"""Pids by their encoded form, the tag included."""


class Room:
    """What the limits still allow in the term that is being read."""

    __slots__ = ("atoms", "limits", "refs")

    def __init__(self, limits: Limits, refs: Sequence[Atom]) -> None:
        self.limits = limits
        self.atoms = limits.max_atoms
        self.refs = refs  # what ATOM_CACHE_REF stands for, from a distribution header


Reader = Callable[[bytes, int, Room], tuple[Any, int]]


def cut(data: bytes, start: int, size: int) -> bytes:
    """So many bytes from there, or `DecodeError` where there are not so many."""
    piece = data[start : start + size]
    if len(piece) != size:
        raise DecodeError(f"{size} bytes announced at byte {start}, {len(piece)} are there")
    return piece


def learn_atom(data: bytes, start: int, room: Room) -> Any:
    """The value of a SMALL_ATOM_UTF8 whose bytes are not known, and are from now on."""
    raw = cut(data, start, 2 + data[start + 1])
    atom = _utf8_atom(raw[2:], room)
    value = _VALUES.get(atom, atom)
    if len(atom_values) >= MAX_KNOWN:
        atom_values.clear()
    atom_values[raw] = value
    return value


def learn_pid(data: bytes, start: int, room: Room) -> tuple[Pid, int]:
    """The NEW_PID at ``start``, known by its bytes from now on, and the place after it."""
    pid, end = _new_pid(data, start + 1, room)
    if data[start + 1] != 119:  # another spelling; a cached atom means another one next time
        return pid, end
    if len(pids) >= MAX_KNOWN:
        pids.clear()
    pids[data[start:end]] = pid
    return pid, end


def _utf8_atom(text: bytes, room: Room) -> Atom:
    room.atoms -= 1
    if room.atoms < 0:
        raise BeyondLimits(f"more than {room.limits.max_atoms} new atoms in one term")
    try:
        name = text.decode()
    except UnicodeDecodeError:
        raise DecodeError("the name of an atom is not UTF-8") from None
    if len(name) > MAX_ATOM_CHARACTERS:
        raise DecodeError(f"an atom of {len(name)} characters; at most 255 are allowed")
    return Atom(name)


def _latin1_atom(text: bytes, room: Room) -> Atom:
    return _utf8_atom(text.decode("latin-1").encode(), room)


def read_atom(data: bytes, place: int, room: Room) -> tuple[Atom, int]:
    """The atom whose tag is at ``place``: inside another term ``true`` is an `Atom` too."""
    tag = data[place]
    if tag == 119:
        end = place + 2 + data[place + 1]
        known = atom_values.get(data[place:end])
        if type(known) is Atom:
            return known, end
        return _utf8_atom(cut(data, place + 2, data[place + 1]), room), end
    if tag == 82:
        return _cached_atom(data, place + 1, room)
    if tag in (118, 100):
        (size,) = u16(data, place + 1)
        start = place + 3
    elif tag == 115:
        size = data[place + 1]
        start = place + 2
    else:
        raise DecodeError(f"an atom is due at byte {place}, not tag {tag}")
    text = cut(data, start, size)
    return (_utf8_atom if tag == 118 else _latin1_atom)(text, room), start + size


def _cached_atom(data: bytes, place: int, room: Room) -> tuple[Atom, int]:
    index = data[place]
    if index >= len(room.refs):
        raise DecodeError(f"atom {index} of a header that names {len(room.refs)}")
    return room.refs[index], place + 1


def _atom(data: bytes, place: int, room: Room) -> tuple[Any, int]:
    value: Any
    value, end = read_atom(data, place - 1, room)
    # What a reference stands for may be a binary that was put together elsewhere: to look it up
    # would be to hash all of it.
    return (_VALUES.get(value, value) if type(value) is Atom else value), end


def _float_text(data: bytes, place: int, _room: Room) -> tuple[float, int]:
    text, nul, _rest = cut(data, place, 31).partition(b"\0")
    if not nul or not _FLOAT_TEXT.fullmatch(text):
        raise DecodeError("the text of a float is not one")
    value = float(text)
    if not isfinite(value):
        raise DecodeError("the text of a float is out of range")
    return value, place + 31


def _small_big(data: bytes, place: int, room: Room) -> tuple[int, int]:
    return _bignum(data, place + 1, data[place], room)


def _large_big(data: bytes, place: int, room: Room) -> tuple[int, int]:
    (size,) = u32(data, place)
    return _bignum(data, place + 4, size, room)


def _bignum(data: bytes, place: int, size: int, room: Room) -> tuple[int, int]:
    """``place`` is that of the sign, before the digits."""
    if room.limits.max_bignum_bytes < size < len(data) - place:
        raise BeyondLimits(f"an integer of {size} bytes; at most {room.limits.max_bignum_bytes}")
    number = int.from_bytes(cut(data, place + 1, size), "little")
    return (-number if data[place] else number), place + 1 + size


def _bit_binary(data: bytes, place: int, _room: Room) -> tuple[bytes | BitString, int]:
    (size,) = u32(data, place)
    bits = data[place + 4]
    # Of no bytes nobody writes one, and OTP 28 dies of it, were it passed on inside a fun.
    if not 1 <= bits <= 8 or not size:
        raise DecodeError(f"{bits} bits in the last of {size} bytes")
    start = place + 5
    piece = cut(data, start, size)
    return (piece if bits in (0, 8) else BitString(piece, bits)), start + size


def _new_pid(data: bytes, place: int, room: Room) -> tuple[Pid, int]:
    node, place = read_atom(data, place, room)
    return Pid(node, *_NEW_PID(data, place)), place + 12


def _old_pid(data: bytes, place: int, room: Room) -> tuple[Pid, int]:
    node, place = read_atom(data, place, room)
    number, serial = _TWO(data, place)
    return Pid(node, number, serial, _old_creation(data, place + 8)), place + 9


def _old_creation(data: bytes, place: int) -> int:
    """The creation in the forms that have one byte for it, of which two bits were ever used."""
    creation = data[place]
    if creation > 3:
        raise DecodeError(f"a creation of {creation} in a form that has two bits for it")
    return creation


def _newer_reference(data: bytes, place: int, room: Room) -> tuple[Reference, int]:
    node, start = read_atom(data, place + 2, room)
    ids, end = _words(data, place, start + 4)
    (creation,) = u32(data, start)
    if data[place + 2] == 119:  # spelt as we spell it
        return reference(node, creation, ids, data[place - 1 : end]), end
    return Reference(node, creation, ids), end


def _new_reference(data: bytes, place: int, room: Room) -> tuple[Reference, int]:
    node, start = read_atom(data, place + 2, room)
    ids, end = _words(data, place, start + 1)
    return _old_style(node, _old_creation(data, start), ids), end


def _old_reference(data: bytes, place: int, room: Room) -> tuple[Reference, int]:
    node, place = read_atom(data, place, room)
    return _old_style(node, _old_creation(data, place + 4), u32(data, place)), place + 5


def _words(data: bytes, place: int, start: int) -> tuple[tuple[int, ...], int]:
    (words,) = u16(data, place)
    if not 1 <= words <= MAX_REFERENCE_WORDS:
        raise DecodeError(f"a reference of {words} words")
    return _WORDS[words](data, start), start + 4 * words


_WORDS = {words: Struct(f"!{words}I").unpack_from for words in range(1, MAX_REFERENCE_WORDS + 1)}


def _old_style(node: Atom, creation: int, ids: tuple[int, ...]) -> Reference:
    if ids[0] >= 1 << 18:
        raise DecodeError("the first word of a reference in an old form has more than 18 bits")
    return Reference(node, creation, ids)


def _new_port(data: bytes, place: int, room: Room) -> tuple[Port, int]:
    node, place = read_atom(data, place, room)
    return Port(node, *_TWO(data, place)), place + 8


def _v4_port(data: bytes, place: int, room: Room) -> tuple[Port, int]:
    node, place = read_atom(data, place, room)
    return Port(node, _U64(data, place)[0], u32(data, place + 8)[0]), place + 12


def _old_port(data: bytes, place: int, room: Room) -> tuple[Port, int]:
    node, place = read_atom(data, place, room)
    return Port(node, u32(data, place)[0], _old_creation(data, place + 4)), place + 5


def _export(data: bytes, place: int, room: Room) -> tuple[Export, int]:
    module, place = read_atom(data, place, room)
    function, place = read_atom(data, place, room)
    arity, place = _integer(data, place, room)
    if not 0 <= arity <= 255:
        raise DecodeError("the arity of an export is out of range")
    return Export(module, function, arity), place


def _integer(data: bytes, place: int, room: Room) -> tuple[int, int]:
    tag = data[place]
    if tag == 97:
        return data[place + 1], place + 2
    if tag == 98:
        return _I32(data, place + 1)[0], place + 5
    if tag == 110:
        return _small_big(data, place + 1, room)
    raise DecodeError(f"an integer is due at byte {place}, not tag {tag}")


READERS: dict[int, Reader] = {
    82: _atom,
    88: _new_pid,
    89: _new_port,
    90: _newer_reference,
    99: _float_text,
    100: _atom,
    101: _old_reference,
    102: _old_port,
    103: _old_pid,
    110: _small_big,
    111: _large_big,
    113: _export,
    114: _new_reference,
    115: _atom,
    118: _atom,
    120: _v4_port,
    77: _bit_binary,
}
