"""Frames to throw: those that we write, and faults of them, in their bytes and in their terms."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._flags import PLAIN, Flag
from barnacle_trio.distribution._messages import Op
from barnacle_trio.etf import Atom, BitString, Export, ImproperList, Pid, Reference
from barnacle_trio.etf._encode import encode_bare
from tests.frame_judges import TARGET, Place
from tests.fuzz.mutation import mutated

Bodies = list[bytes]
NOTHING, NOBODY = Atom(""), Atom("nobody")
_NONE = object()
HEADER, PASS_THROUGH = b"\x83D\0", b"\x70"


def tuples(place: Place) -> list[tuple[tuple[Any, ...], Any]]:
    """Every control message that there is, with its payload."""
    one, two, target, monitored = place.one, place.two, place.target, place.monitored
    ref = Reference(one.node, one.creation, (1, 2, 3))
    payload = (Atom("hello"), [1, 2.5, b"x", one], {1: 2})
    function = (Atom("erlang"), Atom("phash2"), 1)
    return [
        ((Op.LINK, one, target), _NONE),
        ((Op.SEND, NOTHING, target), payload),
        ((Op.EXIT, one, target, payload), _NONE),
        ((Op.UNLINK, one, target), _NONE),
        ((Op.REG_SEND, one, NOTHING, TARGET), payload),
        ((Op.GROUP_LEADER, one, target), _NONE),
        ((Op.EXIT2, one, target, Atom("why")), _NONE),
        ((Op.SEND_TT, NOTHING, target, (0, 1, 2, one, 1)), payload),
        ((Op.MONITOR_P, one, target, ref), _NONE),
        ((Op.MONITOR_P, one, NOBODY, ref), _NONE),
        ((Op.DEMONITOR_P, one, target, ref), _NONE),
        ((Op.MONITOR_P_EXIT, monitored, target, place.monitor, Atom("why")), _NONE),
        ((Op.SEND_SENDER, one, target), payload),
        ((Op.PAYLOAD_EXIT, one, target), payload),
        ((Op.PAYLOAD_EXIT2, two, target), payload),
        ((Op.PAYLOAD_MONITOR_P_EXIT, monitored, target, place.monitor), payload),
        ((Op.SPAWN_REQUEST, ref, one, two, function, [Atom("monitor")]), [[1, 2]]),
        ((Op.SPAWN_REPLY, place.monitor, target, 3, two), _NONE),
        ((Op.ALIAS_SEND, one, place.alias), payload),
        ((Op.UNLINK_ID, 5, one, target), _NONE),
        ((Op.UNLINK_ID_ACK, 5, one, target), _NONE),
    ]


def body(term: tuple[Any, ...], payload: Any, *, headed: bool) -> bytes:
    version = b"" if headed else b"\x83"
    parts = [HEADER if headed else PASS_THROUGH, version, encode_bare(term)]
    if payload is not _NONE:
        parts += [version, encode_bare(payload)]
    return b"".join(map(bytes, parts))


def pieces(place: Place, rng: Random, sequence: int) -> Bodies:
    """A message in pieces, cut much smaller than a node would."""
    payload = rng.choice([b"x" * 90, [b"y" * 20, (1, 2, 3)], b"z" * 200])
    whole = control.send(place.one, place.target, payload, PLAIN | Flag.FRAGMENTS)
    head = len(control.send_control(place.one, place.target, PLAIN)) + 10
    parts = [whole[2:head], *[whole[at : at + 60] for at in range(head, len(whole), 60)]]
    bodies: Bodies = []
    for number, part in enumerate(parts):
        ids = sequence.to_bytes(8) + (len(parts) - number).to_bytes(8)
        bodies.append((b"\x83F" if number else b"\x83E") + ids + part)
    return bodies


class Cases:
    """Faulty frames without end, the same ones for the same seed."""

    def __init__(self, seed: int, *, headed: bool) -> None:
        self.rng = Random(seed)
        self.headed = headed
        self._place: Place | None = None
        self._right: Bodies = []
        self._sequence = 0

    def next(self, place: Place) -> Bodies:
        rng = self.rng
        if place is not self._place:
            self._place = place
            self._right = [body(*each, headed=self.headed) for each in tuples(place)]
        kind = rng.randrange(20)
        if kind == 0:  # of the other form
            return [body(*rng.choice(tuples(place)), headed=not self.headed)]
        if kind < 4 and self.headed:
            self._sequence += 1
            return self._faulty_pieces(pieces(place, rng, self._sequence))
        if kind < 12:
            return [mutated(rng.choice(self._right), rng, self._right)]
        return [self._faulty_term(place)]

    def _faulty_pieces(self, bodies: Bodies) -> Bodies:
        rng = self.rng
        at = rng.randrange(len(bodies))
        match rng.randrange(6):
            case 0:
                del bodies[at]
            case 1:
                bodies.insert(rng.randrange(len(bodies) + 1), bodies[at])
            case 2:
                rng.shuffle(bodies)
            case _:
                bodies[at] = mutated(bodies[at], rng, bodies)
        return bodies

    def _faulty_term(self, place: Place) -> bytes:
        rng = self.rng
        term, payload = rng.choice(tuples(place))
        fields = list(term)
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.randrange(len(fields) + 1)
            match rng.randrange(8):
                case 0:
                    fields[0:1] = [rng.choice(_OPS)]
                case 1:
                    del fields[at : at + 1]
                case 2:
                    fields.insert(at, any_term(rng, place))
                case 3:
                    payload = _NONE if payload is not _NONE else any_term(rng, place)
                case 4 if payload is not _NONE:
                    payload = any_term(rng, place)
                case _:
                    fields[at : at + 1] = [any_term(rng, place)]
        return body(tuple(fields), payload, headed=self.headed)


def any_term(rng: Random, place: Place) -> Any:
    """A term that may stand in a message, and mostly should not."""
    one, target = place.one, place.target
    known, creation = target.node, target.creation
    return rng.choice(
        [
            one, place.two, target, place.alias, place.monitor, TARGET, NOBODY, NOTHING,
            Pid(one.node, 1, 0, 8), Pid(known, target.id, target.serial, creation ^ 1),
            Pid(known, target.id, target.serial, 0), Pid(Atom("other@127.0.0.1"), 1, 2, 3),
            Pid(known, 2**31 + 5, 2**30, creation), Pid(Atom("no node"), 1, 2, 3),
            Reference(one.node, 7, (1, 2, 3)), Reference(one.node, 7, (1,)),
            Reference(one.node, 8, (1, 2, 3)), Reference(known, creation, (1, 2, 3, 4, 5)),
            0, 1, -1, 255, 2**32, 2**64 - 1, 2**64, -(2**70), 1.5, [], [1], (), (1, 2), {}, {1: 2},
            b"", b"binary", BitString(b"\xa0", 3), True, None, Atom("kill"), Atom("normal"),
            Atom("monitor"), ImproperList([1], 2), Export(Atom("m"), Atom("f"), 1),
            [Atom("monitor")], [Atom("link")], (Atom("erlang"), Atom("phash2"), 1),
            [(Atom("a"), 1)],
        ]
    )  # fmt: skip


_OPS = [*range(42), 255, 256, -1, 2**64, Atom("op"), 1.0]


# -- what processes of OTP are told --------------------------------------------------------------

to_otp: dict[str, Callable[[Place], Any]] = {
    "global_name_server": lambda place: (
        Atom("$gen_cast"),
        (Atom("in_sync"), place.one.node, True),
    ),
    "user": lambda place: (Atom("io_reply"), place.monitor, Atom("ok")),
}
"""What we say to a registered name of a BEAM node, if there is such a one."""


def faulty_term(term: Any, rng: Random, place: Place) -> Any:
    """A term with a fault somewhere in it."""
    if not isinstance(term, tuple | list) or not term or not rng.randrange(4):
        return any_term(rng, place)
    items = list(term)
    at = rng.randrange(len(items))
    match rng.randrange(6):
        case 0:
            del items[at]
        case 1:
            items.insert(at, any_term(rng, place))
        case _:
            items[at] = faulty_term(items[at], rng, place)
    return type(term)(items)
