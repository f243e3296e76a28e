"""From the External Term Format to Python values, however hostile the bytes.

One loop reads the terms; the containers that are open stand on a stack of our own, so no nesting
reaches Python's. Every count is held against the bytes that are there before it is believed.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import repeat
from math import isfinite
from struct import Struct
from struct import error as StructError
from typing import Any

from barnacle_trio.etf._errors import BeyondLimits, CutBinary, DecodeError, EncodeError
from barnacle_trio.etf._leaves import (
    READERS,
    Room,
    atom_values,
    cut,
    learn_atom,
    learn_pid,
    pids,
    read_atom,
    u16,
    u32,
)
from barnacle_trio.etf._limits import DEFAULT_LIMITS, Limits
from barnacle_trio.etf._map import Map
from barnacle_trio.etf._terms import Atom, Fun, Pid, improper_list

_I32 = Struct("!i").unpack_from
_F64 = Struct("!d").unpack_from

# What is open. A list becomes a _TAIL when something else than a list stands at its end.
_TERM, _TUPLE, _LIST, _TAIL, _MAP, _FUN = range(6)
_ONCE = (None,)  # begun anew when it is met again, unlike an iterator: for the term itself alone

# A fun after its tag: size u32, arity u8, unique 16 bytes, index u32, number of free variables u32.
_FUN_FREE = 25
_FUN_HEADER = 29
_MAX_FREE = 255
_NATIVE_RECORD = 67  # of OTP 29, which sends it to whoever does not offer to take it, too

# Keys of a map whose hashes are equal make a dict slow: a peer can choose integers so.
_MAX_SAME_HASH = 64


def decode(
    data: bytes | bytearray | memoryview,
    *,
    limits: Limits = DEFAULT_LIMITS,
    compressed: bool = False,
    trailing: bool = False,
) -> Any:
    """The term in these bytes, which begin with the version byte 131.

    The atoms ``nil``, ``true`` and ``false`` become `None`, `True` and `False`, a binary `bytes`
    (never `str`), a list a `list`. A list of small integers, which is what Erlang has for text in
    double quotes, stays a list of `int` in either of its two encodings, so it is never taken for a
    binary: ``bytes(chars).decode("latin-1")`` gives its text. A map becomes a `dict` where that can
    hold it, else a `Map`.

    Args:
      data: exactly one term.
      limits: see `Limits`.
      compressed: also take what ``term_to_binary(Term, [compressed])`` gives. Nodes never send it.
      trailing: leave bytes after the term alone, instead of refusing them.

    Raises:
      DecodeError: the bytes are no term, or one beyond the limits. Nothing else comes out, whatever
        the bytes.
    """
    rest = b""
    if compressed:
        data = _as_bytes(data)
        if data[:2] == b"\x83P":
            data, rest = _inflate(data, limits)
    term, end = decode_prefix(data, limits=limits)
    if (rest or end != len(data)) and not trailing:
        raise DecodeError(f"{len(rest) + len(data) - end} bytes after the term")
    return term


def decode_prefix(
    data: bytes | bytearray | memoryview, offset: int = 0, *, limits: Limits = DEFAULT_LIMITS
) -> tuple[Any, int]:
    """The term at an offset, with its version byte 131, and the offset behind it.

    Raises:
      DecodeError: as `decode`. A compressed term is one too.
    """
    if type(data) is not bytes:
        data = _as_bytes(data)
    try:
        if data[offset] != 131:
            raise DecodeError("a term begins with the version byte 131")
        return _read(data, offset + 1, limits, ())
    except (IndexError, StructError):
        raise _short(len(data)) from None


def decode_bare(
    data: bytes, offset: int = 0, *, refs: Sequence[Atom] = (), limits: Limits = DEFAULT_LIMITS
) -> tuple[Any, int]:
    """As `decode_prefix`, for a term without version byte: one behind a distribution header.

    ``refs`` are the atoms that the header names. A fun that refers to them is refused: its bytes
    would mean something else behind the next header.
    """
    try:
        return _read(data, offset, limits, refs)
    except (IndexError, StructError):
        raise _short(len(data)) from None


def _as_bytes(data: bytes | bytearray | memoryview) -> bytes:
    if type(data) is bytes:
        return data
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"a term is decoded from bytes, not from a {type(data).__name__}")
    return bytes(data)


def _inflate(data: bytes, limits: Limits) -> tuple[bytes, bytes]:
    """The plain form of a compressed term, and the bytes behind it."""
    if len(data) < 6:
        raise _short(len(data))
    (announced,) = u32(data, 2)
    if announced > limits.max_inflated_bytes:
        raise DecodeError(f"{announced} compressed bytes; at most {limits.max_inflated_bytes}")
    inflater = zlib.decompressobj()
    try:
        # One byte more shows whether it is the size that was announced.
        plain = inflater.decompress(data[6:], announced + 1)
    except zlib.error:
        raise DecodeError("a compressed term is damaged") from None
    if len(plain) != announced or not inflater.eof:
        raise DecodeError("a compressed term has not the size that it announces")
    return b"\x83" + plain, inflater.unused_data


def _read(data: bytes, place: int, limits: Limits, refs: Sequence[Atom]) -> tuple[Any, int]:
    """One term. The order of the branches is that of how often they are met."""
    room: Room | None = None  # made when something is met for which it is needed
    size = len(data)
    first = place
    elements = limits.max_elements
    max_depth = limits.max_depth
    # The elements of all that is open, one behind the other; where those of the last begin.
    items: list[Any] = []
    append = items.append
    start = 0
    kind = _TERM
    todo: Iterable[None] = _ONCE
    stack: list[tuple[int, int, Iterable[None]]] = []
    funs: list[int] = []  # where those that are open begin
    while True:
        for _ in todo:
            tag = data[place]
            if tag == 119:
                # A slice that the end has cut off has not the length that its second byte
                # tells, so it is none of the known ones.
                end = place + 2 + data[place + 1]
                try:
                    append(atom_values[data[place:end]])
                except KeyError:
                    if room is None:
                        room = Room(limits, refs)
                    append(learn_atom(data, place, room))
                place = end
            elif tag == 97:
                append(data[place + 1])
                place += 2
            elif tag == 109:
                begin = place + 5
                place = begin + u32(data, place + 1)[0]
                if place > size:
                    raise CutBinary(begin, place, size)
                append(data[begin:place])
            elif tag == 104:
                count = data[place + 1]
                place += 2
                if count:
                    opened = _TUPLE
                    break
                append(())
            elif tag == 116:
                count = u32(data, place + 1)[0] * 2
                place += 5
                if count:
                    opened = _MAP
                    break
                append({})
            elif tag == 108:
                (count,) = u32(data, place + 1)
                place += 5
                opened = _LIST
                break
            elif tag == 106:
                append([])
                place += 1
            elif tag == 88:
                # The same holds here, where the node's name is in its usual form.
                end = place + 15 + data[place + 2]
                try:
                    append(pids[data[place:end]])
                    place = end
                except KeyError:
                    if room is None:
                        room = Room(limits, refs)
                    pid, place = learn_pid(data, place, room)
                    append(pid)
            elif tag == 98:
                append(_I32(data, place + 1)[0])
                place += 5
            elif tag == 70:
                (number,) = _F64(data, place + 1)
                if not isfinite(number):
                    raise DecodeError(f"no number in the float at byte {place}")
                append(number)
                place += 9
            elif tag == 107:
                count = u16(data, place + 1)[0]
                elements -= count
                if elements < 0:
                    raise _too_many(limits)
                append(list(cut(data, place + 3, count)))
                place += 3 + count
            elif tag in READERS:
                if room is None:
                    room = Room(limits, refs)
                value, place = READERS[tag](data, place + 1, room)
                append(value)
            elif tag == 105:
                (count,) = u32(data, place + 1)
                place += 5
                opened = _TUPLE
                break
            elif tag == 112:
                (count,) = u32(data, place + _FUN_FREE + 1)
                if count > _MAX_FREE:
                    raise DecodeError(f"a fun with {count} free variables")
                count += 3  # and before them the old index, the old unique number and a pid
                funs.append(place)
                if room is None:
                    room = Room(limits, refs)
                _module, place = read_atom(data, place + 1 + _FUN_HEADER, room)
                opened = _FUN
                break
            elif tag == _NATIVE_RECORD:
                raise BeyondLimits(
                    f"a native record (at byte {place}), for which there is no value"
                )
            else:
                raise DecodeError(f"tag {tag} at byte {place} begins no term that may stand here")
        else:
            # All elements of what is open are there.
            if kind == _TUPLE:
                value = tuple(items[start:])
            elif kind == _MAP:
                value = _map(items[start:], limits)
            elif kind == _LIST:
                tag = data[place]
                if tag == 106:
                    place += 1
                elif tag == 108:  # the tail is a list: the same list goes on
                    (count,) = u32(data, place + 1)
                    place += 5
                    elements -= count
                    if elements < 0:
                        raise _too_many(limits)
                    if count > size - place:
                        raise _short(size)
                    todo = repeat(None, count)
                    continue
                elif tag == 107:
                    count = u16(data, place + 1)[0]
                    elements -= count
                    if elements < 0:
                        raise _too_many(limits)
                    items += cut(data, place + 3, count)
                    place += 3 + count
                else:
                    kind = _TAIL
                    todo = repeat(None, 1)
                    continue
                value = items[start:]
            elif kind == _TAIL:
                value = items.pop()
                if len(items) > start:
                    value = improper_list(items[start:], value)
            elif kind == _FUN:
                value = _fun(data[funs.pop() : place], items[start:])
                if refs and not funs:  # atoms of this header mean nothing in another frame
                    _read(value.wire, 0, limits, ())
            else:
                value = items[0]
            if kind != _TERM:
                del items[start:]
                kind, start, todo = stack.pop()
            if kind == _TERM:
                if place - first > limits.max_bytes - 1:
                    raise BeyondLimits(f"a term of more than {limits.max_bytes} bytes")
                return value, place
            append(value)
            continue
        # A container begins, of `count` terms.
        if count > size - place:  # each takes a byte at least
            raise _short(size)
        elements -= count
        if elements < 0:
            raise _too_many(limits)
        if len(stack) >= max_depth:
            raise BeyondLimits(f"a term deeper than {max_depth}")
        stack.append((kind, start, todo))
        kind = opened
        start = len(items)
        todo = repeat(None, count)


def _short(size: int) -> DecodeError:
    return DecodeError(f"the {size} bytes end inside the term")


def _too_many(limits: Limits) -> BeyondLimits:
    return BeyondLimits(f"a term of more than {limits.max_elements} elements")


def _map(items: list[Any], limits: Limits) -> dict[Any, Any] | Map:
    """The map of these keys and values in turn: a dict if that is exact, else a `Map`."""
    size = len(items)
    alternate = iter(items)
    pairs = zip(alternate, alternate)  # noqa: B905 - they cannot differ in length
    try:
        if size <= 2 * _MAX_SAME_HASH or _well_spread(items[::2]):
            plain = dict(pairs)
            if 2 * len(plain) == size:
                return plain
    except (TypeError, RecursionError):
        pass  # keys without a hash, or deep ones
    try:
        return Map(zip(items[::2], items[1::2], strict=True), limits=limits)
    except EncodeError as error:
        raise DecodeError(f"a map that cannot be: {error}") from None


def _well_spread(keys: list[Any]) -> bool:
    return max(Counter(map(hash, keys)).values()) <= _MAX_SAME_HASH


def _fun(wire: bytes, items: list[Any]) -> Fun:
    if u32(wire, 1)[0] != len(wire) - 1:
        raise DecodeError("a fun has not the size that it announces")
    old_index, old_unique, pid = items[:3]
    if type(old_index) is not int or type(old_unique) is not int or type(pid) is not Pid:
        raise DecodeError("what a fun holds is not what belongs there")
    return Fun(wire)
