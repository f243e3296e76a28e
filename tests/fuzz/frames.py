"""What connected nodes send: frames, control messages in both forms, and messages in pieces."""

from __future__ import annotations

from typing import Any

from barnacle_trio._errors import RemoteProtocolError
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._flags import OUR_FLAGS, PLAIN, Flag
from barnacle_trio.distribution._fragments import (
    MAX_UNFINISHED,
    MAX_UNFINISHED_SHARE,
    Reassembly,
    Transfer,
    is_fragment,
)
from barnacle_trio.distribution._frames import FrameDecoder, frame
from barnacle_trio.distribution._inbound import ShortCut
from barnacle_trio.etf import Atom, Limits, Pid, Reference

MAX_FRAME = 600
LIMITS = Limits(max_bytes=1000, max_elements=500, max_depth=50)

_OLD = PLAIN & ~(Flag.EXIT_PAYLOAD | Flag.UNLINK_ID | Flag.SEND_SENDER)
_A, _B = Atom("a@127.0.0.1"), Atom("b@127.0.0.1")
_ONE, _TWO = Pid(_A, 1, 0, 7), Pid(_B, 2, 0, 8)
_REF = Reference(_A, 7, (1, 2, 3))


# -- frames --------------------------------------------------------------------------------------


def stream(data: bytes) -> None:
    """A stream gives the same frames in whatever slices it comes; the first byte says in which."""
    if not data:
        return
    size, data = 1 + data[0], data[1:]
    whole, whole_broke = _cut([data])
    pieces, pieces_broke = _cut([data[at : at + size] for at in range(0, len(data), size)])
    assert whole_broke == pieces_broke
    # A whole slice that breaks gives none of the frames before it: the connection closes anyway.
    assert whole_broke or whole == pieces
    assert all(len(body) <= MAX_FRAME for body in pieces)


def _cut(slices: list[bytes]) -> tuple[list[bytes], bool]:
    decoder = FrameDecoder(MAX_FRAME)
    bodies: list[bytes] = []
    for piece in slices:
        try:
            bodies += decoder.feed(piece)
        except RemoteProtocolError:
            return bodies, True
    held = sum(map(len, decoder._parts)) + len(decoder._tail) + len(decoder._header)
    assert held <= MAX_FRAME + 4
    fed = sum(map(len, slices))
    assert fed == sum(len(body) + 4 for body in bodies) + held + 4 * bool(decoder._missing)
    return bodies, False


# -- control messages ----------------------------------------------------------------------------


class _Taker:
    """Stands at the end of the short way in."""

    ended = False

    def __init__(self) -> None:
        self.taken: list[Any] = []

    def deliver(self, payload: Any, _size: int) -> None:
        self.taken.append(payload)


def message(data: bytes) -> None:
    """A body, with headers and without: what is read from it is what is written of it again."""
    for headed in (False, True):
        try:
            read = control.parse(data, LIMITS, headed=headed)
        except RemoteProtocolError:
            continue
        _check_short_cut(data, read, headed)
        agreed = OUR_FLAGS if headed else PLAIN
        written = _write(read, agreed)
        if written is not None:
            assert control.parse(written, headed=headed) == read
            repr(read)


def _check_short_cut(data: bytes, read: control.Message, headed: bool) -> None:
    short_cut, taker = ShortCut(LIMITS), _Taker()
    short_cut.learn(data, taker, headed=headed)  # type: ignore[arg-type]
    if short_cut.deliver(data, headed=headed):
        assert isinstance(read, control.Send | control.RegSend)
        assert taker.taken == [read.payload]


def _write(read: control.Message, agreed: Flag) -> bytes | None:
    """The bytes of a message; None where there are none, or more than one may have."""
    match read:
        case control.Send(sender, to, payload) if not isinstance(payload, control.Unread):
            if sender is None:
                return control.send(_ONE, to, payload, agreed & ~Flag.SEND_SENDER)
            return control.send(sender, to, payload, agreed)
        case control.RegSend(sender, to, payload) if not isinstance(payload, control.Unread):
            return control.reg_send(sender, to, payload, agreed)
        case control.AliasSend(sender, to, payload) if not isinstance(payload, control.Unread):
            return control.alias_send(sender, to, payload, agreed)
        case control.Link(sender, to):
            return control.link(sender, to, agreed)
        case control.Unlink(number, sender, to):
            return control.unlink(number, sender, to, agreed)
        case control.UnlinkAck(number, sender, to):
            return control.unlink_ack(number, sender, to, agreed)
        case control.OldUnlink(sender, to):
            return control.unlink(1, sender, to, agreed & ~Flag.UNLINK_ID)
        case control.Exit(sender, to, reason) if not isinstance(reason, control.Unread):
            return control.exit_(sender, to, reason, agreed)
        case control.Exit2(sender, to, reason) if not isinstance(reason, control.Unread):
            return control.exit2(sender, to, reason, agreed)
        case control.Monitor(sender, target, ref):
            return control.monitor(sender, target, ref, agreed)
        case control.Demonitor(sender, target, ref):
            return control.demonitor(sender, target, ref, agreed)
        case control.MonitorExit(target, to, ref, why) if not isinstance(why, control.Unread):
            return control.monitor_exit(target, to, ref, why, agreed)
        case control.GroupLeader(sender, to):
            return control.group_leader(sender, to, agreed)
        case control.SpawnReply(ref, to, flags, result):
            return control.spawn_reply(ref, to, flags, result, agreed)
        case control.SpawnRequest() if isinstance(read.arguments, list):
            return control.spawn_request(
                read.ref,
                read.sender,
                read.group_leader,
                (read.module, read.function),
                read.arguments,
                read.options,
                agreed,
            )
    return None


# -- messages in pieces --------------------------------------------------------------------------


def pieces(data: bytes) -> None:
    """Frames that are pieces of messages: what is held is counted, and bounded."""
    try:
        bodies = FrameDecoder(10_000).feed(data)
    except RemoteProtocolError:
        return
    reassembly = Reassembly(LIMITS)
    for body in bodies:
        if not is_fragment(body):
            continue
        try:
            found = reassembly.feed(body)
        except RemoteProtocolError:
            return
        if found is not None:
            repr(found[0])
        sizes = [each.size for each in reassembly._unfinished.values()]
        assert reassembly._held == sum(sizes) <= MAX_UNFINISHED_SHARE * LIMITS.max_bytes
        assert len(reassembly) <= MAX_UNFINISHED
        assert all(size <= LIMITS.max_bytes for size in sizes)


# -- seeds ---------------------------------------------------------------------------------------


def message_seeds() -> list[bytes]:
    # With a trace token, which some peers add.
    traced = b"p\x83h\4a\x17" + _ONE.wire + _TWO.wire + b"a\0\x83a\1"
    return [*_messages(OUR_FLAGS), *_messages(_OLD)[::3], traced]


def _messages(agreed: Flag) -> list[bytes]:
    payload = (Atom("hello"), [1, 2.5, b"x"], {1: 2})
    function = (Atom("m"), Atom("f"))
    return [
        control.send(_ONE, _TWO, payload, agreed),
        control.reg_send(_ONE, Atom("rex"), payload, agreed),
        control.alias_send(_ONE, _REF, payload, agreed),
        control.link(_ONE, _TWO, agreed),
        control.unlink(5, _ONE, _TWO, agreed),
        control.unlink_ack(5, _ONE, _TWO, agreed),
        control.exit_(_ONE, _TWO, payload, agreed),
        control.exit2(_ONE, _TWO, Atom("kill"), agreed),
        control.monitor(_ONE, _TWO, _REF, agreed),
        control.monitor(_ONE, Atom("name"), _REF, agreed),
        control.demonitor(_ONE, _TWO, _REF, agreed),
        control.monitor_exit(_TWO, _ONE, _REF, Atom("noproc"), agreed),
        control.group_leader(_ONE, _TWO, agreed),
        control.spawn_request(_REF, _ONE, _TWO, function, [1, 2], [Atom("monitor")], agreed),
        control.spawn_reply(_REF, _ONE, 3, _TWO, agreed),
    ]


def stream_seeds() -> list[bytes]:
    bodies = message_seeds()
    every = b"".join(map(frame, bodies[:4]))
    return [b"\0" + every, b"\x07" + every, b"\xff" + every, b"\2" + bytes(12), b"\1\0\0\4\0"]


def _transfers() -> list[bytes]:
    """Two messages in pieces, cut much smaller than a node would."""
    frames: list[bytes] = []
    for sequence, payload in ((1, b"x" * 90), (2, [b"y" * 20, (1, 2, 3)])):
        body = control.send(_ONE, _TWO, payload, OUR_FLAGS)
        head = len(control.send_control(_ONE, _TWO, OUR_FLAGS)) + 10
        parts = [body[:head], *[body[at : at + 30] for at in range(head, len(body), 30)]]
        for number, part in enumerate(parts):
            ids = sequence.to_bytes(8) + (len(parts) - number).to_bytes(8)
            kind = b"\x83F" if number else b"\x83E"
            frames.append(frame(kind + ids + (part if number else part[2:])))
    return frames


def piece_seeds() -> list[bytes]:
    frames = _transfers()
    shuffled = [each for pair in zip(frames[:3], frames[-3:], strict=True) for each in pair]
    transfer = Transfer(9, [control.send(_ONE, _TWO, b"small", OUR_FLAGS)])
    return [b"".join(frames), b"".join(frames[:5]), b"".join(shuffled), transfer.next()]
