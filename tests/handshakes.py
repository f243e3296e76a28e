"""Handshakes for tests: messages by hand, two nodes, and the line between them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from barnacle_trio._names import NodeName
from barnacle_trio.distribution._challenges import ChallengeBook
from barnacle_trio.distribution._flags import OUR_FLAGS, Flag
from barnacle_trio.distribution._handshake import (
    Acceptor,
    AliveAsked,
    Done,
    Event,
    Identity,
    Initiator,
    NameReceived,
    Send,
)

COOKIE = b"a cookie of some length"
FLAGS = int(OUR_FLAGS | Flag.PUBLISHED)
ANN = Identity(NodeName("ann@127.0.0.1"), FLAGS, 7)
BOB = Identity(NodeName("bob@127.0.0.1"), FLAGS, 8)
OTP_25 = 0xD07DF7FBD
OTP_29 = 0x6D07DF7FBD


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def book() -> ChallengeBook:
    return ChallengeBook(Clock())


def initiator(
    cookie: bytes = COOKIE, challenges: ChallengeBook | None = None, header: int = 2
) -> Initiator:
    return Initiator(
        ANN, BOB.name, cookie, book() if challenges is None else challenges, header=header
    )


def framed(body: bytes, header: int = 2) -> bytes:
    return len(body).to_bytes(header) + body


def name_message(
    name: bytes = b"ann@127.0.0.1", flags: int = FLAGS, creation: int = 7, header: int = 2
) -> bytes:
    return framed(struct.pack(">cQIH", b"N", flags, creation, len(name)) + name, header)


def challenge_message(
    challenge: int = 99, name: bytes = b"bob@127.0.0.1", flags: int = FLAGS, header: int = 2
) -> bytes:
    return framed(struct.pack(">cQIIH", b"N", flags, challenge, 8, len(name)) + name, header)


def reply_message(challenge: int, proof: bytes) -> bytes:
    return framed(struct.pack(">cI", b"r", challenge) + proof)


def status(text: bytes) -> bytes:
    return framed(b"s" + text)


def challenge_in(data: bytes) -> int:
    """The challenge in an acceptor's status and challenge, or in an initiator's reply."""
    if data[2:3] == b"s":
        data = data[2 + int.from_bytes(data[:2]) :]
    at = 11 if data[2:3] == b"N" else 3
    return int.from_bytes(data[at : at + 4])


def sent(events: list[Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, Send))


def done(events: list[Event]) -> Done:
    [found] = [event for event in events if isinstance(event, Done)]
    return found


def known_peer(acceptor: Acceptor, data: bytes | None = None) -> Acceptor:
    [event] = acceptor.receive(name_message() if data is None else data)
    assert isinstance(event, NameReceived)
    return acceptor


def challenged(
    cookie: bytes = COOKIE, challenges: ChallengeBook | None = None
) -> tuple[Acceptor, int]:
    acceptor = known_peer(Acceptor(BOB, book() if challenges is None else challenges))
    return acceptor, challenge_in(acceptor.accept(cookie))


@dataclass
class Line:
    """Two machines joined by bytes; ``decide`` and ``steal`` are what their drivers would do."""

    decide: Callable[[Acceptor, NameReceived], bytes] = field(
        default=lambda acceptor, _: acceptor.accept(COOKIE)
    )
    steal: bool = True
    header: int = 2
    cuts: list[int] = field(default_factory=list)
    cookie: bytes = COOKIE
    after: bytes = b""
    log: list[Event] = field(default_factory=list)

    def run(self) -> tuple[Done | None, Done | None]:
        ann = initiator(self.cookie, header=self.header)
        bob = Acceptor(BOB, book(), header=self.header)
        results: dict[str, Done] = {}
        to_bob, to_ann = ann.begin(), b""
        while to_bob or to_ann:
            replies = b""
            for part in self.sliced(to_bob):
                for event in bob.receive(part) if "bob" not in results else ():
                    match event:
                        case NameReceived():
                            replies += self.decide(bob, event)
                        case Send():
                            replies += event.data
                        case Done():
                            results["bob"] = event
                            replies += self.after
                        case _:
                            self.log.append(event)
            to_ann, to_bob, replies = replies, b"", b""
            ended = False
            leftover = b""
            for part in self.sliced(to_ann):
                if ended:
                    leftover += part
                    continue
                for event in ann.receive(part):
                    match event:
                        case AliveAsked():
                            replies += ann.answer_alive(self.steal)
                            ended = not self.steal
                        case Send():
                            replies += event.data
                        case Done():
                            results["ann"] = event
                            leftover = event.leftover
                            ended = True
                        case _:
                            self.log.append(event)
            if "ann" in results:
                assert leftover == self.after
            to_bob, to_ann = replies, b""
        return results.get("ann"), results.get("bob")

    def sliced(self, data: bytes) -> list[bytes]:
        edges = [0, *sorted(cut % (len(data) + 1) for cut in self.cuts), len(data)]
        return [data[start:end] for start, end in pairwise(edges) if end > start]


def initiator_told(answer: bytes) -> list[Event]:
    machine = initiator()
    machine.begin()
    return machine.receive(answer)


MESSAGES = {
    "name": name_message(),
    "status": status(b"ok"),
    "alive": status(b"true"),
    "challenge": challenge_message(1),
    "reply": reply_message(1, bytes(16)),
    "ack": framed(b"a" + bytes(16)),
    "old": framed(b"n\0\5" + bytes(4) + b"ann@127.0.0.1"),
    "complement": framed(b"c" + bytes(8)),
    "tick": bytes(4),
    "frame": framed(b"\x70\x83h\x01a\x01", header=4),
}
