"""Bytes that are known: as Erlang writes them, as older ones did, and as we write them."""

from __future__ import annotations

import zlib
from typing import Any

import pytest

from barnacle_trio.etf import (
    Atom,
    BitString,
    DecodeError,
    Export,
    ImproperList,
    Map,
    Pid,
    Port,
    Reference,
    decode,
    decode_prefix,
    encode,
)
from barnacle_trio.etf._decode import decode_bare
from tests.terms import same

NODE = Atom("a@b")
NODE_HEX = "7703614062"
PID = Pid(NODE, 1, 2, 3)

# A term, and its one spelling by us without the version byte.
BOTH_WAYS: list[tuple[Any, str]] = [
    (0, "6100"),
    (255, "61ff"),
    (256, "6200000100"),
    (-1, "62ffffffff"),
    (2**31 - 1, "627fffffff"),
    (-(2**31), "6280000000"),
    (2**31, "6e040000000080"),
    (-(2**31) - 1, "6e040101000080"),
    (2**64, "6e0900000000000000000001"),
    (2**2040 - 1, "6eff00" + "ff" * 255),
    (2**2040, "6f0000010000" + "00" * 255 + "01"),
    (-(2**2040), "6f0000010001" + "00" * 255 + "01"),
    (1.5, "463ff8000000000000"),
    (-0.0, "468000000000000000"),
    (5e-324, "460000000000000001"),
    (None, "77036e696c"),
    (True, "770474727565"),
    (False, "770566616c7365"),
    (Atom(""), "7700"),
    (Atom("ok"), "77026f6b"),
    (Atom("undefined"), "7709756e646566696e6564"),
    (Atom("\N{LATIN SMALL LETTER E WITH ACUTE}"), "7702c3a9"),
    (Atom("a" * 255), "77ff" + "61" * 255),
    (Atom("\N{SNOWMAN}" * 255), "7602fd" + "e29883" * 255),
    (b"", "6d00000000"),
    (b"hi", "6d000000026869"),
    (b"\xff" * 256, "6d00000100" + "ff" * 256),
    (BitString(b"\xff\xe0", 3), "4d0000000203ffe0"),
    ((), "6800"),
    ((1, ()), "680261016800"),
    ((None,) * 255, "68ff" + "77036e696c" * 255),
    ((0,) * 256, "6900000100" + "6100" * 256),
    ([], "6a"),
    ([1, [2]], "6c0000000261016c0000000161026a6a"),
    (ImproperList([1, 2], 3), "6c00000002610161026103"),
    ({}, "7400000000"),
    ({Atom("a"): 1, b"k": []}, "740000000277016161016d000000016b6a"),
    (Map([(1, 2), (1.0, 3)]), "740000000261016102463ff00000000000006103"),
    (Map([([], 1), ({}, 2)]), "74000000026a610174000000006102"),
    (PID, f"58{NODE_HEX}000000010000000200000003"),
    (Reference(NODE, 7, (1,)), f"5a0001{NODE_HEX}0000000700000001"),
    (Reference(NODE, 7, (1, 2, 3, 4, 5)), f"5a0005{NODE_HEX}00000007" + "0000000{}" * 5),
    (Port(NODE, 2**28 - 1, 7), f"59{NODE_HEX}0fffffff00000007"),
    (Port(NODE, 2**28, 7), f"78{NODE_HEX}000000001000000000000007"),
    (Export(Atom("m"), Atom("f"), 255), "7177016d77016661ff"),
]


def _bytes(text: str) -> bytes:
    return b"\x83" + bytes.fromhex(text.format(1, 2, 3, 4, 5))


@pytest.mark.parametrize(("term", "text"), BOTH_WAYS, ids=lambda value: repr(value)[:24])
def test_each_term_has_its_bytes(term: Any, text: str) -> None:
    data = _bytes(text)
    assert encode(term) == data
    assert same(decode(data), term)


# What others write, or once wrote, for the same terms.
ONE_WAY: list[tuple[str, Any]] = [
    ("6200000007", 7),
    ("6e010007", 7),
    ("6e0000", 0),
    ("6e0001", 0),
    ("6e02010500", -5),
    ("6e0102ff", -255),  # any sign but 0 is a minus
    ("6f000000010107", -7),
    ("6f0000000000", 0),
    ("63" + b"1.50000000000000000000e+00\0\0\0\0\0".hex(), 1.5),
    ("63" + b"-0.0".ljust(31, b"\0").hex(), -0.0),
    ("6400026f6b", Atom("ok")),
    ("640001e9", Atom("\N{LATIN SMALL LETTER E WITH ACUTE}")),
    ("73026f6b", Atom("ok")),
    ("7301e9", Atom("\N{LATIN SMALL LETTER E WITH ACUTE}")),
    ("76000474727565", True),
    ("64000566616c7365", False),
    ("73036e696c", None),
    ("6b00026869", [104, 105]),
    ("6b0000", []),
    ("6c000000006a", []),
    ("6c000000006107", 7),  # nothing before the tail is the tail
    ("6c0000000161016c0000000161026a", [1, 2]),
    ("6c0000000161016b00026869", [1, 104, 105]),
    ("6c0000000161016c0000000161026103", ImproperList([1, 2], 3)),
    ("69000000016107", (7,)),
    ("6900000000", ()),
    ("4d0000000108ff", b"\xff"),
    ("4d0000000101ff", BitString(b"\x80", 1)),
    (f"67{NODE_HEX}000000010000000203", PID),
    ("67640003614062000000010000000203", PID),
    ("58640003614062000000010000000200000003", PID),
    (f"65{NODE_HEX}0000000103", Reference(NODE, 3, (1,))),
    (f"720002{NODE_HEX}030000000100000002", Reference(NODE, 3, (1, 2))),
    (f"66{NODE_HEX}0000000503", Port(NODE, 5, 3)),
    (f"78{NODE_HEX}000000000000000500000003", Port(NODE, 5, 3)),
    ("716400016d73016662000000ff", Export(Atom("m"), Atom("f"), 255)),
    ("7177047472756577036e696c6e010003", Export(Atom("true"), Atom("nil"), 3)),
    ("58770474727565000000010000000200000003", Pid(Atom("true"), 1, 2, 3)),
]


@pytest.mark.parametrize(("text", "term"), ONE_WAY, ids=lambda value: repr(value)[:24])
def test_other_spellings_are_read_as_the_same_term(text: str, term: Any) -> None:
    assert same(decode(_bytes(text)), term)


def test_a_frame_of_otp_25() -> None:
    frame = bytes.fromhex(
        "7083680461065877 0d62323540313237 2e302e302e31"
        + "00000009000000006b02841f7700770465 63686f8377026869"
    )
    control, offset = decode_prefix(frame, 1)
    payload, end = decode_prefix(frame, offset)
    sender = Pid(Atom("b25@127.0.0.1"), 9, 0, 0x6B02841F)
    assert control == (6, sender, Atom(""), Atom("echo"))
    assert payload == Atom("hi")
    assert end == len(frame)
    assert b"\x70" + encode(control) + encode(payload) == frame


def closure(module: str, free: str) -> bytes:
    head = "02" + "ab" * 16 + "00000005" + "00000001" + module + "6107" + "6200bc614e"
    wire = head + f"58{NODE_HEX}000000000000000000000000" + free
    return _bytes("70" + f"{len(wire) // 2 + 4:08x}" + wire)


def test_a_closure_is_carried_byte_for_byte() -> None:
    data = closure("77016d", "6c0000000161016a")
    fun = decode(data)
    assert encode(fun) == data
    assert decode(encode([fun, fun])) == [fun, fun]
    assert repr(fun) == f"<Fun of {len(data) - 1} bytes>"


def test_atoms_behind_a_distribution_header() -> None:
    refs = (Atom("a@b"), Atom("ok"), Atom("true"))
    data = b"h\x04R\x01R\x02XR\0" + PID.wire[-12:] + b"w\x02ok"
    assert decode_bare(data, refs=refs) == ((Atom("ok"), True, PID, Atom("ok")), len(data))
    other = (Atom("c@d"), Atom("no"), Atom("x"))
    assert decode_bare(data, refs=other)[0][2].node == Atom("c@d")
    with pytest.raises(DecodeError, match="atom 2 of a header that names 2"):
        decode_bare(data, refs=refs[:2])
    with pytest.raises(DecodeError, match="atom 1 of a header that names 0"):
        decode(b"\x83" + data)


def test_a_large_value_behind_a_reference_is_not_looked_through() -> None:
    class Large(bytes):
        def __hash__(self) -> int:
            raise AssertionError("hashing reads all of it")

    large: Any = Large(b"much")
    assert decode_bare(b"h\2a\1R\0", refs=(large,)) == ((1, large), 6)


def test_a_closure_that_leans_on_a_distribution_header_is_refused() -> None:
    refs = (Atom("m"),)
    whole = closure("77016d", "6a")[1:]
    assert decode_bare(whole, refs=refs)[0] == decode(b"\x83" + whole)
    for leaning in (closure("5200", "6a"), closure("77016d", "5200")):
        with pytest.raises(DecodeError, match="a header that names 0"):
            decode_bare(leaning[1:], refs=refs)


def test_a_compressed_term_is_read_where_it_is_allowed() -> None:
    plain = encode([b"x" * 1000] * 3)[1:]
    data = b"\x83P" + len(plain).to_bytes(4) + zlib.compress(plain)
    assert decode(data, compressed=True) == [b"x" * 1000] * 3
    assert decode(data + b"more", compressed=True, trailing=True) == [b"x" * 1000] * 3
    with pytest.raises(DecodeError, match="4 bytes after the term"):
        decode(data + b"more", compressed=True)
    for refusing in (decode, decode_prefix):
        with pytest.raises(DecodeError, match="tag 80"):
            refusing(data)


def test_a_plain_term_is_read_where_compressed_ones_are_allowed() -> None:
    assert decode(encode({"a": 1}), compressed=True) == {b"a": 1}
