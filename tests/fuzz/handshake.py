"""The handshake, in both roles. The challenge of ours is always the same one here.

The first byte of an input says how the driver behaves and in which slices the rest comes: message
by message, as a peer that waits for answers sends them, or so many bytes at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from barnacle_trio._errors import BarnacleError
from barnacle_trio.distribution._challenges import ChallengeBook, digest
from barnacle_trio.distribution._handshake import (
    Acceptor,
    AliveAsked,
    Done,
    Event,
    Initiator,
    NameReceived,
    Send,
)
from barnacle_trio.distribution._handshake_base import ENDED, MAX_MESSAGE
from tests.handshakes import (
    ANN,
    BOB,
    COOKIE,
    FLAGS,
    OTP_25,
    challenge_message,
    framed,
    name_message,
    reply_message,
    status,
)

CHALLENGE = 0x00C0FFEE
PROOF = digest(COOKIE, CHALLENGE)


class _Book(ChallengeBook):
    def __init__(self) -> None:
        super().__init__(lambda: 1000.0)
        self.issued = CHALLENGE

    def issue(self) -> int:
        if CHALLENGE in self._answered:  # as the real one avoids it
            self.issued += 1
        self._pending[self.issued] = 1000.0
        return self.issued


def _slices(data: bytes, header: int, how: int) -> list[bytes]:
    if how:
        return [data[at : at + how] for at in range(0, len(data), how)]
    slices: list[bytes] = []
    while data:
        size = header + int.from_bytes(data[:header])
        slices.append(data[:size])
        data = data[size:]
    return slices


def acceptor(data: bytes) -> None:
    """A peer that dials us."""
    if not data:
        return
    how, data = data[0], data[1:]
    header = 4 if how & 1 else 2
    book = _Book()
    machine = Acceptor(BOB, book, header=header)

    def answer(event: Event) -> bytes:
        if not isinstance(event, NameReceived):
            return b""
        if event.peer.name == BOB.name or how & 6 == 6:
            return machine.refuse("nok")
        if how & 6 == 4:
            return machine.ask_alive(COOKIE)
        return machine.accept(COOKIE, simultaneous=bool(how & 2))

    _run(machine, book, _slices(data, header, how >> 3), answer)


def initiator(data: bytes) -> None:
    """A peer that we dialled."""
    if not data:
        return
    how, data = data[0], data[1:]
    header = 4 if how & 1 else 2
    book = _Book()
    machine = Initiator(ANN, BOB.name, COOKIE, book, header=header)
    machine.begin()

    def answer(event: Event) -> bytes:
        return machine.answer_alive(bool(how & 2)) if isinstance(event, AliveAsked) else b""

    _run(machine, book, _slices(data, header, how >> 3), answer)


def _run(
    machine: Acceptor | Initiator,
    book: _Book,
    slices: list[bytes],
    answer: Callable[[Event], bytes],
) -> None:
    sent = fed = b""
    finished: Done | None = None
    for piece in slices:
        fed += piece
        try:
            events = machine.receive(piece)
        except BarnacleError:
            break
        for event in events:
            sent += event.data if isinstance(event, Send) else answer(event)
            if isinstance(event, Done):
                finished = event
        assert len(machine._buffer) < MAX_MESSAGE + machine._header
        if machine._state in ENDED:
            break
    else:
        with suppress(BarnacleError):
            machine.eof()
    # Whatever came, it is over, nothing is kept, and it does not begin again.
    machine.close()
    assert not book._pending
    assert not machine._buffer
    assert machine._cookie is None
    try:
        machine.receive(b"")
    except RuntimeError:
        pass
    else:
        raise AssertionError("a handshake that goes on after its end")
    if finished is None:
        return
    # Nobody is let in without the proof, and nobody gets it from us.
    proof = digest(COOKIE, book.issued)
    assert proof in fed
    assert proof not in sent
    assert fed.endswith(finished.leftover)
    assert isinstance(machine, Acceptor) or finished.peer.name == BOB.name


def acceptor_seeds() -> list[bytes]:
    seeds: list[bytes] = []
    for how, header in ((0, 2), (1, 4), (2, 2), (4, 2), (6, 2), (0xF8, 2)):
        name = name_message(header=header)
        reply = framed(reply_message(99, PROOF)[2:], header)
        alive = framed(b"strue", header) if how & 6 == 4 else b""
        seeds.append(bytes([how]) + name + alive + reply)
    return [
        *seeds,
        b"\0" + name_message(flags=OTP_25) + reply_message(99, PROOF) + b"\0\0\0\0",
        b"\4" + name_message() + status(b"false"),
        b"\0" + name_message(flags=FLAGS | 1 << 33, name=b"host"),
        b"\0" + name_message(b"bob@127.0.0.1"),
        b"\0" + name_message(flags=0),
        b"\0" + name_message() + reply_message(CHALLENGE, PROOF),
        b"\0" + framed(b"n\0\5" + bytes(4) + b"ann@127.0.0.1"),
        b"\0GET / HTTP/1.1\r\n\r\n",
    ]


def initiator_seeds() -> list[bytes]:
    ack = framed(b"a" + PROOF)
    whole = status(b"ok") + challenge_message() + ack
    return [
        b"\0" + whole,
        b"\x38" + whole,
        b"\0" + whole + b"\0\0\0\1p",
        b"\1" + framed(b"sok", 4) + challenge_message(header=4) + framed(b"a" + PROOF, 4),
        b"\0" + status(b"ok_simultaneous") + challenge_message(flags=OTP_25) + ack,
        b"\2" + status(b"alive") + challenge_message() + ack,
        b"\0" + status(b"alive"),
        b"\0" + status(b"nok"),
        b"\0" + status(b"not_allowed"),
        b"\0" + status(b"named:"),
        b"\0" + status(b"ok") + challenge_message(CHALLENGE) + ack,
        b"\0" + status(b"ok") + challenge_message(name=b"eve@127.0.0.1"),
        b"\0" + status(b"ok") + challenge_message(flags=0),
    ]
