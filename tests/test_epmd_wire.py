from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barnacle_trio import _errors
from barnacle_trio.epmd import _wire as wire

RemoteProtocolError = _errors.RemoteProtocolError

NAMES = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="@"),
    min_size=1,
    max_size=255,
)
U8, U16, U32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
ENTRIES = st.builds(
    wire.PortEntry,
    name=NAMES,
    port=st.integers(1, 0xFFFF),
    node_type=U8,
    protocol=U8,
    highest=U16,
    lowest=U16,
    extra=st.binary(max_size=200),
)
REQUESTS = st.one_of(
    st.builds(wire.AliveRequest, ENTRIES),
    st.builds(wire.PortRequest, NAMES),
    st.builds(wire.StopRequest, NAMES),
    st.sampled_from([wire.NamesRequest(), wire.DumpRequest(), wire.KillRequest()]),
)


def entry(name: str = "a", port: int = 1234, **more: int) -> wire.PortEntry:
    return wire.PortEntry(name=name, port=port, **more)  # type: ignore[arg-type]


def sliced(data: bytes, sizes: list[int]) -> list[bytes]:
    """The same bytes in slices of these sizes, the rest in one."""
    slices: list[bytes] = []
    for size in sizes:
        slices.append(data[:size])
        data = data[size:]
    return [each for each in (*slices, data) if each]


# --- requests -----------------------------------------------------------------------------------


def test_a_registration_has_the_bytes_that_a_beam_sends() -> None:
    request = wire.AliveRequest(entry("e25", 0x80CD))
    expected = bytes.fromhex("7880cd4d00000600050003653235" + "0000")
    assert wire.encode_request(request) == struct.pack(">H", len(expected)) + expected


@given(request=REQUESTS, sizes=st.lists(st.integers(1, 9), max_size=40))
def test_requests_survive_the_wire_in_any_slices(request: wire.Request, sizes: list[int]) -> None:
    cutter = wire.RequestCutter()
    bodies = [cutter.feed(data) for data in sliced(wire.encode_request(request), sizes)]
    assert bodies[:-1] == [None] * (len(bodies) - 1)
    assert bodies[-1] is not None
    assert wire.parse_request(bodies[-1]) == request


@given(
    body=st.binary(max_size=64)
    | st.builds(
        lambda tag, rest: bytes((tag,)) + rest,
        st.sampled_from([120, 122, 115]),
        st.binary(max_size=64),
    )
)
def test_any_request_is_read_or_refused(body: bytes) -> None:
    try:
        request = wire.parse_request(body)
    except RemoteProtocolError:
        return
    if isinstance(request, (wire.PortRequest, wire.StopRequest)):
        assert request.name
        assert "\0" not in request.name


@pytest.mark.parametrize("size", [0, wire.MAX_REQUEST + 1, 0xFFFF])
def test_a_bad_length_is_refused_before_anything_is_kept(size: int) -> None:
    cutter = wire.RequestCutter()
    with pytest.raises(RemoteProtocolError, match="bytes"):
        cutter.feed(struct.pack(">H", size))


def test_a_second_request_is_refused() -> None:
    asked = wire.encode_request(wire.NamesRequest())
    with pytest.raises(RemoteProtocolError, match="after the request"):
        wire.RequestCutter().feed(asked + asked)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"?",
        b"\0",
        b"x",
        b"x" + bytes(11),
        b"x" + bytes(12),  # an empty name
        wire.encode_request(wire.AliveRequest(entry()))[2:-1],
        b"x" + struct.pack(">HBBHHH", 1, 77, 0, 6, 5, 50) + b"a\0\0",
        b"x" + struct.pack(">HBBHHH", 1, 77, 0, 6, 5, 1) + b"a\0\x50",
        b"x" + struct.pack(">HBBHHH", 1, 77, 0, 6, 5, 3) + b"a\0b\0\0",
        b"z",
        b"z\0",
        b"za\0b",
        b"z" + b"n" * 256,
        b"s",
    ],
)
def test_malformed_requests_are_refused(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.parse_request(body)


def test_a_terminator_of_c_programs_is_no_part_of_a_name() -> None:
    assert wire.parse_request(b"za\0") == wire.PortRequest("a")


# --- answers ------------------------------------------------------------------------------------


@given(result=U8, creation=U32, highest=st.integers(6, 0xFFFF), sizes=st.lists(st.integers(1, 3)))
def test_answers_to_registrations_survive_the_wire(
    result: int, creation: int, highest: int, sizes: list[int]
) -> None:
    data = wire.encode_alive_answer(wire.AliveAnswer(result, creation), highest=highest)
    assert wire.parse_alive_answer(data) == wire.AliveAnswer(result, creation)
    for end in range(len(data)):
        assert wire.parse_alive_answer(data[:end]) is None


@pytest.mark.parametrize(
    ("highest", "taken", "refused"),
    [(6, "760012345678", "760100000063"), (5, "79000001", "79010063")],
)
def test_both_widths_of_an_answer_to_a_registration(highest: int, taken: str, refused: str) -> None:
    answer = wire.AliveAnswer(0, 0x12345678)
    assert wire.encode_alive_answer(answer, highest=highest).hex() == taken
    assert wire.encode_alive_answer(wire.REFUSED, highest=highest).hex() == refused


@given(creation=st.integers(4, 2**32 - 1))
def test_old_nodes_get_a_creation_of_two_bits_that_is_not_zero(creation: int) -> None:
    data = wire.encode_alive_answer(wire.AliveAnswer(0, creation), highest=5)
    answer = wire.parse_alive_answer(data)
    assert answer is not None
    assert answer.creation in (1, 2, 3)


@pytest.mark.parametrize("data", [b"HTTP/1.1", b"\0", b"v" + bytes(6), b"y" + bytes(4)])
def test_what_is_no_answer_to_a_registration_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.parse_alive_answer(data)


@given(told=ENTRIES)
def test_answers_to_lookups_survive_the_wire(told: wire.PortEntry) -> None:
    data = wire.encode_port_answer(told)
    if told.highest < told.lowest:
        with pytest.raises(RemoteProtocolError, match="versions"):
            wire.parse_port_answer(data, name=told.name)
    else:
        assert wire.parse_port_answer(data, name=told.name) == told
    for end in range(len(data)):
        with pytest.raises(RemoteProtocolError):
            wire.parse_port_answer(data[:end], name=told.name)


def test_an_unknown_name_has_no_entry() -> None:
    assert wire.encode_port_answer(None) == b"w\x01"
    assert wire.parse_port_answer(b"w\x01", name="a") is None
    assert wire.parse_port_answer(b"w\x63", name="a") is None


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "answered by"),
        (b"x\0", "answered by"),
        (wire.encode_port_answer(entry("b")), "answered for 'b'"),
        (wire.encode_port_answer(entry(port=0)), "port 0"),
        (wire.encode_port_answer(entry(highest=4, lowest=5)), "versions"),
        (wire.encode_port_answer(entry()) + b"?", "after the answer"),
        (b"w\0" + struct.pack(">HBBHHH", 1, 77, 0, 6, 5, 0xFFFF) + b"abc", "65535 bytes"),
        (wire.encode_port_answer(entry())[:-2] + b"\x01\x00", "256 bytes"),
    ],
)
def test_malformed_answers_to_lookups_are_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        wire.parse_port_answer(data, name="a")


@given(told=st.lists(ENTRIES, unique_by=lambda each: each.name, max_size=20))
def test_lists_of_names_survive_the_wire(told: list[wire.PortEntry]) -> None:
    answer = wire.parse_names_answer(wire.encode_names_answer(4369, told))
    assert answer == wire.NamesAnswer({each.name: each.port for each in told}, 0)
    assert list(answer.names) == [each.name for each in told]


@given(
    data=st.binary(max_size=200)
    | st.builds(lambda rest: b"\0\0\x11\x11name " + rest, st.binary(max_size=200))
)
def test_any_list_of_names_is_read_or_refused(data: bytes) -> None:
    try:
        answer = wire.parse_names_answer(data)
    except RemoteProtocolError:
        return
    for name, port in answer.names.items():
        assert name.isprintable()
        assert name.isascii()
        assert not set(name) & {"@", " "}
        assert 0 < port <= 0xFFFF


def test_bad_lines_are_left_out_and_counted_and_good_ones_kept() -> None:
    lines = [
        b"name good at port 1",
        b"name a@b at port 2",
        b"name with blank at port 2",
        b"name \xff at port 2",
        b"name nul\0 at port 2",
        b"name \xc3\xa9 at port 2",
        b"name zero at port 0",
        b"name high at port 65536",
        b"name long at port 123456",
        b"name  at port 2",
        b"",
        b"name good at port 3",
        b"name " + b"n" * 256 + b" at port 2",
        b"fine name at port 2",
        b"name last at port 65535",
        b"name cut at port 12",  # of 1234, it may be
    ]
    answer = wire.parse_names_answer(bytes(4) + b"\n".join(lines))
    assert answer == wire.NamesAnswer({"good": 1, "last": 65535}, len(lines) - 2)


def test_names_beyond_the_bound_are_counted() -> None:
    told = [entry(f"n{number}") for number in range(wire.MAX_NAMES + 7)]
    answer = wire.parse_names_answer(wire.encode_names_answer(4369, told))
    assert (len(answer.names), answer.skipped) == (wire.MAX_NAMES, 7)


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\x11", b"HTTP/1.1 400 Bad Request\r\n", bytes(wire.MAX_NAMES_ANSWER + 1)]
)
def test_what_is_no_list_of_names_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.parse_names_answer(data)


def test_a_dump_has_the_bytes_that_epmd_sends() -> None:
    expected = b"\0\0\x11\x11active name     <a> at port 1234, fd = 7\n\0"
    assert wire.encode_dump_answer(4369, [(entry(), 7)]) == expected
