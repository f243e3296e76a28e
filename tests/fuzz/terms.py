"""Terms: whole ones, those behind a distribution header, and compressed ones."""

from __future__ import annotations

import zlib
from typing import Any

from barnacle_trio.etf import (
    Atom,
    BitString,
    DecodeError,
    Export,
    ImproperList,
    Limits,
    Map,
    Pid,
    Port,
    Reference,
    decode,
    decode_prefix,
    encode,
)
from barnacle_trio.etf._decode import decode_bare
from barnacle_trio.etf._encode import encode_bare
from barnacle_trio.etf._leaves import atom_values, pids

SMALL = Limits(
    max_bytes=2000, max_elements=300, max_depth=20, max_atoms=10, max_inflated_bytes=2000
)
HEADER_ATOMS = (Atom("a@127.0.0.1"), Atom("ok"), Atom("true"))

_NODE = Atom("a@127.0.0.1")
_PID = Pid(_NODE, 1, 2, 3)
EXAMPLES: list[Any] = [
    (6, _PID, Atom(""), Atom("echo")),
    [1, -1, 256, 2**31, 2**64, -(2**70), 2**2048, 1.5, -0.0],
    [Atom("ok"), Atom("\N{SNOWMAN}" * 90), True, None, "text", b"\0\xff"],
    {"key": [{}, (), []], Atom("a"): {1: (2, 3)}, 3: {(4,): 5}},
    Map([(1, 2), (1.0, 3), (True, 4), ([5], 6), ({7: 8}, 9)]),
    [Reference(_NODE, 7, (1, 2, 3)), Reference(_NODE, 7, (1,)), Port(_NODE, 1, 2)],
    [Port(_NODE, 2**40, 2), Export(Atom("m"), Atom("f"), 3), BitString(b"\xaa\xa0", 3)],
    ImproperList([Atom("alias")], Reference(_NODE, 7, (1, 2, 3, 4, 5))),
    ImproperList([1, [2, ImproperList([3], 4)]], b"tail"),
    [[[[[[[[[[]]]]]]]]]],
]

# The spellings of older releases, and a fun, none of which we write ourselves.
_OLD_ATOM = b"d\0\x0ba@127.0.0.1"
_NEW_ATOM = b"w\x0ba@127.0.0.1"
_FUN_BODY = b"\1" + bytes(range(16)) + bytes(4) + b"\0\0\0\1w\1ma\1a\2X" + _NEW_ATOM + bytes(12)
SPELLINGS: list[bytes] = [
    b"\x83g" + _OLD_ATOM + bytes(8) + b"\1",
    b"\x83f" + _OLD_ATOM + bytes(4) + b"\2",
    b"\x83e" + _OLD_ATOM + bytes(4) + b"\3",
    b"\x83r\0\2" + _OLD_ATOM + b"\1" + bytes(8),
    b"\x83Y" + _NEW_ATOM + bytes(8),
    b"\x83c1.50000000000000000000e+00".ljust(33, b"\0"),
    b"\x83l\0\0\0\1a\1k\0\3abc",
    b"\x83l\0\0\0\1a\1l\0\0\0\1a\2j",
    b"\x83s\3caf\x83v\0\1x",
    b"\x83i\0\0\0\1a\1",
    b"\x83o\0\0\0\4\1\1\2\3\4",
    b"\x83p" + (len(_FUN_BODY) + 6).to_bytes(4) + _FUN_BODY + b"k\0\2hi",
    b"\x83M\0\0\0\2\3\xaa\xa0",
]


def _same_again(term: Any, again: bytes) -> None:
    """What was decoded is what its own bytes decode to, and can be shown and compared."""
    back, end = decode_prefix(again)
    assert end == len(again)
    assert encode(back) == again
    assert back == term
    assert repr(back) == repr(term)


def whole(data: bytes) -> None:
    """Any bytes as a term, with all that is known of atoms and pids, and with nothing."""
    atom_values.clear()
    pids.clear()
    found = _attempt(data)
    # What was learnt of it meanwhile makes no other term of it, and none of what is none.
    known = _attempt(data)
    if found is None or known is None:
        assert known is found
        return
    term, end = found
    assert 1 < end <= len(data)
    again = encode(term)
    assert known[1] == end
    assert encode(known[0]) == again
    assert decode(data[:end]) == term
    _same_again(term, again)


def _attempt(data: bytes) -> tuple[Any, int] | None:
    try:
        return decode_prefix(data)
    except DecodeError:
        return None


def bounded(data: bytes) -> None:
    """The same within narrow limits: what is within them is what it is without them."""
    try:
        term, end = decode_prefix(data, limits=SMALL)
    except DecodeError:
        return
    assert end <= SMALL.max_bytes
    unbounded, unbounded_end = decode_prefix(data)
    assert unbounded_end == end
    assert encode(unbounded) == encode(term)


def bare(data: bytes) -> None:
    """Any bytes as a term behind a header that names atoms, the first byte being the place."""
    place = data[0] if data else 0
    try:
        term, end = decode_bare(data, place, refs=HEADER_ATOMS)
    except DecodeError:
        return
    assert place < end <= len(data)
    _same_again(term, encode(term))
    assert decode_bare(bytes(encode_bare(term)))[0] == term


def compressed(data: bytes) -> None:
    """Compressed terms: any bytes at all, and, behind an even byte, any bytes well compressed."""
    if data and not data[0] % 2:
        plain = data[2:]
        announced = len(plain) + (data[1:2] == b"\1")
        data = b"\x83P" + announced.to_bytes(4) + zlib.compress(plain, 1)
    else:
        data = data[1:]
    try:
        term = decode(data, limits=SMALL, compressed=True)
    except DecodeError:
        return
    _same_again(term, encode(term))


def whole_seeds() -> list[bytes]:
    return [*map(encode, EXAMPLES), *SPELLINGS]


def bounded_seeds() -> list[bytes]:
    return whole_seeds()[1::3]


def bare_seeds() -> list[bytes]:
    # With atoms of the header in the place of their own.
    return [
        b"\1" + seed[1:].replace(_NEW_ATOM, b"R\0").replace(b"w\2ok", b"R\1")
        for seed in whole_seeds()
    ][::2]


def compressed_seeds() -> list[bytes]:
    plain = [encode(example)[1:] for example in EXAMPLES]
    packed = [b"\1\x83P" + len(each).to_bytes(4) + zlib.compress(each) for each in plain[:2]]
    return (
        [b"\0\0" + each for each in plain[::2]] + packed + [b"\0\1" + plain[0], packed[0] + b"more"]
    )
