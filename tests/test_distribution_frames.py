"""Frames: the same bodies come out for any slicing, and a peer cannot choose our memory use."""

from __future__ import annotations

import tracemalloc
from itertools import cycle, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barnacle_trio._errors import RemoteProtocolError
from barnacle_trio.distribution._frames import MAX_FRAME, TICK, FrameDecoder, frame


def slices(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


@given(st.lists(st.binary(max_size=40), max_size=12), st.lists(st.integers(0, 10_000), max_size=30))
def test_any_slicing_gives_the_same_frames(bodies: list[bytes], cuts: list[int]) -> None:
    decoder = FrameDecoder()
    got: list[bytes] = []
    for part in slices(b"".join(frame(body) for body in bodies), cuts):
        got += decoder.feed(part)
    assert got == bodies
    assert decoder.partial == 0


def test_a_tick_is_an_empty_body() -> None:
    assert frame() == frame(b"") == TICK == b"\0\0\0\0"
    assert FrameDecoder().feed(TICK * 3) == [b"", b"", b""]


def test_a_body_may_be_given_in_parts() -> None:
    assert frame(b"ab", b"", b"c") == b"\0\0\0\3abc"


def test_partial_counts_what_is_still_missing() -> None:
    decoder = FrameDecoder()
    seen = []
    for byte in frame(b"abc"):
        decoder.feed(bytes([byte]))
        seen.append(decoder.partial)
    assert seen == [3, 2, 1, 3, 2, 1, 0]
    decoder.feed(frame(b"x") + frame(b"abc")[:5])
    assert decoder.partial == 2


def test_58_a_frame_of_4_gib_is_refused_before_its_bytes_come() -> None:
    decoder = FrameDecoder()
    with pytest.raises(RemoteProtocolError, match="4294967295 bytes"):
        decoder.feed(b"\xff\xff\xff\xff")
    with pytest.raises(RuntimeError):
        decoder.feed(TICK)


@pytest.mark.parametrize("cut", range(13))
def test_the_limit_holds_at_any_slicing(cut: int) -> None:
    stream = frame(b"1234") + (11).to_bytes(4) + b"x"
    decoder = FrameDecoder(max_frame=10)
    reason = ""
    try:
        decoder.feed(stream[:cut])
        decoder.feed(stream[cut:])
    except RemoteProtocolError as error:
        reason = str(error)
    assert reason == "a frame of 11 bytes was announced, the limit is 10"


def test_a_frame_at_the_limit_passes() -> None:
    assert FrameDecoder(max_frame=10).feed(frame(bytes(10))) == [bytes(10)]
    with pytest.raises(RemoteProtocolError):
        FrameDecoder().feed((MAX_FRAME + 1).to_bytes(4))
    assert FrameDecoder().feed(MAX_FRAME.to_bytes(4)) == []


def test_an_announcement_costs_no_memory() -> None:
    decoders = [FrameDecoder() for _ in range(10)]
    tracemalloc.start()
    try:
        for decoder in decoders:
            decoder.feed(MAX_FRAME.to_bytes(4) + b"some")
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


def test_dripped_bytes_cost_no_more_than_themselves() -> None:
    size = 300_000
    decoder = FrameDecoder()
    tracemalloc.start()
    try:
        decoder.feed(size.to_bytes(4))
        for _ in range(size // 3 - 1):
            decoder.feed(b"abc")
        assert tracemalloc.get_traced_memory()[0] < 3 * size
    finally:
        tracemalloc.stop()
    assert decoder.partial == 3
    assert decoder.feed(b"abc") == [b"abc" * (size // 3)]


def test_small_and_large_reads_are_joined_in_their_order() -> None:
    body = bytes(range(251)) * 4000
    stream = frame(body) + frame(b"next")
    for sizes in ([1, 4095, 4096, 4097, 70_000, 3], [100], [5000], [4096, 1], [2_000_000]):
        decoder = FrameDecoder()
        got: list[bytes] = []
        at = 0
        for size in cycle(sizes):
            got += decoder.feed(stream[at : at + size])
            at += size
            if at >= len(stream):
                break
        assert got == [body, b"next"]
        assert decoder.partial == 0


def test_a_large_frame_keeps_no_memory_behind() -> None:
    decoder = FrameDecoder()
    tracemalloc.start()
    try:
        stream = frame(bytes(20_000_000)) + TICK
        frames = [
            body
            for at in range(0, len(stream), 65_536)
            for body in decoder.feed(stream[at : at + 65_536])
        ]
        assert [len(body) for body in frames] == [20_000_000, 0]
        del frames, stream
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=10))
def test_nothing_but_a_protocol_error_comes_of_garbage(stream: bytes, cuts: list[int]) -> None:
    decoder = FrameDecoder(max_frame=50)
    got: list[bytes] = []
    try:
        for part in slices(stream, cuts):
            got += decoder.feed(part)
    except RemoteProtocolError:
        return
    assert b"".join(frame(body) for body in got) == stream[: sum(4 + len(body) for body in got)]
    assert decoder.partial == 0 or sum(4 + len(body) for body in got) < len(stream)
