"""From Python values to the External Term Format.

One loop walks the term; the iterators of the containers that are open stand on a stack of our own,
so the depth of a term is bounded by the limits and never by Python's stack. A list is walked with
the empty list after it, an improper one with its tail: that is how they look on the wire.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from math import isfinite
from struct import Struct
from typing import Any

from barnacle_trio.etf._errors import EncodeError
from barnacle_trio.etf._limits import DEFAULT_LIMITS, Limits
from barnacle_trio.etf._terms import (
    Atom,
    BitString,
    Export,
    Fun,
    ImproperList,
    Pid,
    Port,
    Reference,
)

VERSION = b"\x83"

_TRUE, _FALSE, _NIL = (Atom(name).wire for name in ("true", "false", "nil"))
_BYTE = [b"a%c" % number for number in range(256)]
_SMALL_TUPLE = [b"h%c" % arity for arity in range(256)]
_SHORT_LIST = [b"l\0\0\0%c" % size for size in range(256)]
_SHORT_MAP = [b"t\0\0\0%c" % size for size in range(256)]
_SHORT_BINARY = [b"m\0\0\0%c" % size for size in range(256)]
_SIZED = Struct("!BI").pack
_INTEGER = Struct("!Bi").pack
_FLOAT = Struct("!Bd").pack
_BITS = Struct("!BIB").pack

# What goes over the wire as it stands in `wire`. Atoms and pids have branches of their own.
_WIRED = frozenset({Reference, Port, Export, Fun})
# Types of keys that, one type alone in a map, cannot give the same term twice.
_DISTINCT = frozenset({str, Atom, bytes, int, Pid, Reference, float, bool, type(None)})
_END_OF_LIST: tuple[list[Any]] = ([],)

LARGE = 64 * 1024
"""Bytes of a binary that is worth not being copied."""

# How many maps may stand in one another inside the key of a map. Each level is compared once more.
MAX_MAPS_IN_KEY = 8
_UNORDERED = -1


def encode(term: Any, *, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The External Term Format of a term, with the version byte 131 before it.

    `None`, `True` and `False` are the atoms ``nil``, ``true`` and ``false``; `str` is a binary in
    UTF-8, `bytes` (`bytearray`, `memoryview`) a binary, and any mapping a map. Subclasses go as
    what they derive from. The rest is what `barnacle_trio.etf` exports.

    Raises:
      EncodeError: the format, or the limits, have no room for a part of the term: another type,
        a float that is not finite, text with lone surrogates, two keys of a map that are one and
        the same in Erlang (``"a"`` and ``b"a"``), a structure that contains itself.
    """
    data = b"".join(_parts(term, limits, _UNORDERED, [VERSION]))
    if len(data) > limits.max_bytes:
        raise _too_large(limits)
    return data


class Encoded:
    """A term that was encoded before, without the version byte: it goes out as it stands."""

    __slots__ = ("wire",)

    def __init__(self, wire: bytes) -> None:
        self.wire = wire


class Pieces:
    """An encoding with large binaries in it, which are not copied. ``len()`` is its size."""

    __slots__ = ("_size", "parts")

    def __init__(self, parts: list[bytes]) -> None:
        self.parts = parts
        self._size = sum(map(len, parts))

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return b"".join(self.parts)


def encode_bare(term: Any, *, limits: Limits = DEFAULT_LIMITS, head: bytes = b"") -> bytes | Pieces:
    """As `encode`, without the version byte: what stands behind a distribution header.

    ``head`` goes before it.
    """
    large: list[bytes] = []
    parts = _parts(term, limits, _UNORDERED, [head] if head else [], large)
    data = Pieces(parts) if large else b"".join(parts)
    if len(data) - len(head) >= limits.max_bytes:
        raise _too_large(limits)
    return data


def canonical(term: Any, limits: Limits = DEFAULT_LIMITS, levels: int = MAX_MAPS_IN_KEY) -> bytes:
    """Bytes that are equal when two terms are one and the same to Erlang, and only then.

    Raises:
      EncodeError: as `encode`; also for maps that stand deeper in one another than ``levels``.
    """
    return b"".join(_parts(term, limits, levels, []))


def _parts(
    term: Any,
    limits: Limits,
    levels: int,
    parts: list[bytes],
    large: list[bytes] | None = None,
) -> list[bytes]:
    """Append the pieces of one term; ``levels`` >= 0 asks for the canonical order of maps.

    Binaries that are better not copied are told by appending them to ``large`` as well.
    """
    append = parts.append
    room = limits.max_bytes
    elements = limits.max_elements
    max_depth = limits.max_depth
    stack: list[Iterator[Any]] = []
    inner: Iterator[Any]
    todo: Iterator[Any] = iter((term,))
    while True:
        for term in todo:
            kind = type(term)
            if kind is Atom:
                append(term.wire)
            elif kind is int:
                if 0 <= term <= 255:
                    append(_BYTE[term])
                elif -0x8000_0000 <= term <= 0x7FFF_FFFF:
                    append(_INTEGER(98, term))
                else:
                    append(_bignum(term, limits))
            elif kind is str or kind is bytes:
                if kind is str:
                    try:
                        term = term.encode()
                    except UnicodeEncodeError as error:
                        raise EncodeError("text with lone surrogates has no UTF-8") from error
                size = len(term)
                if size < 256:
                    append(_SHORT_BINARY[size])
                else:
                    room -= size
                    if room < 0:  # before the header, whose size has 32 bits
                        raise _too_large(limits)
                    append(_SIZED(109, size))
                    if size >= LARGE and large is not None:
                        large.append(term)
                append(term)
            elif kind is tuple:
                size = len(term)
                append(_SMALL_TUPLE[size] if size < 256 else _header(105, size))
                if size:
                    inner = iter(term)
                    break
            elif kind is list:
                if not term:
                    append(b"j")
                    continue
                size = len(term)
                append(_SHORT_LIST[size] if size < 256 else _header(108, size))
                inner = chain(term, _END_OF_LIST)
                break
            elif kind is Pid:
                append(term.wire)
            elif kind is dict:
                size = len(term)
                append(_SHORT_MAP[size] if size < 256 else _header(116, size))
                if levels >= 0:
                    append(_ordered(term.items(), limits, levels))
                elif size:
                    kinds = {*map(type, term)}
                    if len(kinds) > 1 or not kinds <= _DISTINCT:
                        _check_keys(term, limits)
                    size *= 2
                    inner = chain.from_iterable(term.items())
                    break
            elif kind is bool:
                append(_TRUE if term else _FALSE)
            elif term is None:
                append(_NIL)
            elif kind is float:
                if not isfinite(term):
                    raise EncodeError("Erlang has no float that is infinite or not a number")
                append(_FLOAT(70, term))
            elif kind in _WIRED:
                append(term.wire)
            elif kind is Encoded:
                append(term.wire)
                if large is not None and len(term.wire) >= LARGE:
                    large.append(term.wire)
            elif kind is ImproperList:
                size = len(term.elements)
                append(_header(108, size))
                inner = chain(term.elements, (term.tail,))
                break
            elif kind is BitString:
                room -= len(term.data)
                if room < 0:
                    raise _too_large(limits)
                append(_BITS(77, len(term.data), term.bits))
                append(term.data)
            elif isinstance(term, Mapping) and not isinstance(term, dict):
                size = len(term)
                append(_SHORT_MAP[size] if size < 256 else _header(116, size))
                if levels >= 0:
                    append(_ordered(term.items(), limits, levels))
                    continue
                _check_keys(term, limits)
                size *= 2
                inner = chain.from_iterable(term.items())
                break
            else:
                size = 1
                inner = iter((_plain(term),))
                break
        else:
            if not stack:
                return parts
            todo = stack.pop()
            continue
        # A container was opened, whose `size` elements stand in `inner`.
        elements -= size
        if elements < 0:
            raise EncodeError(f"a term of more than {limits.max_elements} elements")
        if len(stack) >= max_depth:
            raise EncodeError(f"a term deeper than {max_depth}, or one that contains itself")
        stack.append(todo)
        todo = inner


def _too_large(limits: Limits) -> EncodeError:
    return EncodeError(
        f"a term of more than {limits.max_bytes} bytes (a node's max_message, or Limits.max_bytes)"
    )


def _header(tag: int, size: int) -> bytes:
    if size > 0xFFFF_FFFF:
        raise EncodeError(f"a container of {size} elements")
    return _SIZED(tag, size)


def _bignum(number: int, limits: Limits) -> bytes:
    size = (number.bit_length() + 7) // 8
    if size > limits.max_bignum_bytes:
        raise EncodeError(f"an integer of {size} bytes; at most {limits.max_bignum_bytes} are sent")
    digits = abs(number).to_bytes(size, "little")
    sign = number < 0
    head = b"n%c%c" % (size, sign) if size < 256 else _BITS(111, size, sign)
    return head + digits


def _check_keys(keys: Collection[Any], limits: Limits) -> None:
    if len({canonical(key, limits) for key in keys}) != len(keys):
        raise _same_key()


def _same_key() -> EncodeError:
    return EncodeError("two keys of a map are the same term to Erlang")


def _ordered(pairs: Collection[tuple[Any, Any]], limits: Limits, levels: int) -> bytes:
    """The pairs of a map inside a key: in the order of their bytes, which is the same always."""
    if levels == 0:
        raise EncodeError(f"more than {MAX_MAPS_IN_KEY} maps in one another inside a map's key")
    levels -= 1
    values = {
        canonical(key, limits, levels): canonical(value, limits, levels) for key, value in pairs
    }
    if len(values) != len(pairs):
        raise _same_key()
    return b"".join(chain.from_iterable(sorted(values.items())))


def _plain(term: Any) -> Any:
    """A term of the exact type that the loop knows, from a subclass or from a buffer."""
    for kind in (str, int, float, bytes, tuple, list, dict):
        if isinstance(term, kind):
            # The base type's own reading: a subclass may have redefined its own.
            return kind.__str__(term) if kind is str else _COPY[kind](term)
    if isinstance(term, bytearray | memoryview):
        return bytes(term)
    raise EncodeError(f"a {type(term).__qualname__} is not a term")


_COPY: dict[type, Any] = {
    int: int.__int__,
    float: float.__float__,
    bytes: bytes,
    tuple: tuple,
    list: list,
    dict: dict,
}
