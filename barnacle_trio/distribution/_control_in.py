"""Control messages, read from bytes and checked.

Source: OTP's "Distribution Protocol", sections "Protocol between Connected Nodes" and
"Distribution Header".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from barnacle_trio._errors import RemoteProtocolError
from barnacle_trio.distribution._messages import (
    AliasSend,
    Demonitor,
    Exit,
    Exit2,
    GroupLeader,
    Link,
    Message,
    Monitor,
    MonitorExit,
    OldUnlink,
    Op,
    RegSend,
    Send,
    SpawnReply,
    SpawnRequest,
    Unknown,
    Unlink,
    UnlinkAck,
    Unread,
)
from barnacle_trio.etf import Atom, Limits, Pid, Reference, decode_prefix
from barnacle_trio.etf._decode import decode_bare
from barnacle_trio.etf._errors import BeyondLimits

_PASS_THROUGH = b"\x70"
_HEADER = b"\x83D\0"  # a distribution header that refers to no atoms
_DEFAULT = Limits()

_Tuple: TypeAlias = tuple[Any, ...]


class Control(NamedTuple):
    """A control term whose payload, if it takes one, is still to come. See `parse_control`."""

    op: int
    term: _Tuple
    end: int  # where it ends in the bytes that it was read from
    has_payload: bool


def parse(body: bytes, limits: Limits = _DEFAULT, *, headed: bool = False) -> Message:
    """Read the body of a frame that holds a whole message.

    Trace tokens are dropped. Bytes after the last term are ignored, as OTP does. A payload beyond
    the limits is not read any further: an `Unread` stands for it.

    Args:
      body: of a frame that is no tick, which has none.
      limits: for each of its terms.
      headed: whether distribution headers were agreed on (with fragments), else pass-through.

    Raises:
      RemoteProtocolError: another form of body than agreed, a term that is none, or a control
        message that is beyond ``limits`` or whose arity or types are not those of the table.
    """
    if headed:
        if not body.startswith(_HEADER):
            raise _unagreed(body)
        control = parse_control(body, 3, limits)
    else:
        if not body.startswith(_PASS_THROUGH):
            raise _unagreed(body)
        control = _check(*decode_prefix(body, 1, limits=limits))
    if not control.has_payload:
        return complete(control, None)
    if control.end >= len(body):
        raise RemoteProtocolError(f"control message {control.op} came without its payload")
    read = decode_bare if headed else decode_prefix
    try:
        payload = read(body, control.end, limits=limits)[0]
    except BeyondLimits as error:
        payload = Unread(str(error))
    return complete(control, payload)


def parse_control(data: bytes, start: int, limits: Limits = _DEFAULT) -> Control:
    """Read the control term behind a distribution header that ends at ``start``.

    Raises:
      RemoteProtocolError: it is none.
    """
    return _check(*decode_bare(data, start, limits=limits))


def complete(control: Control, payload: Any) -> Message:
    """The message of a control term and its payload (None where it takes none).

    Raises:
      RemoteProtocolError: arity or types are not those of the table.
    """
    entry = _READERS.get(control.op)
    return Unknown(control.op) if entry is None else entry[2](control.term, payload)


def _check(term: Any, end: int) -> Control:
    if type(term) is not tuple or not term or type(term[0]) is not int:
        raise RemoteProtocolError("a control message is no tuple that begins with a number")
    op: int = term[0]
    traced = _TRACED.get(op)
    if traced is not None:
        op, place = traced
        if len(term) <= place:
            raise _invalid(term[0])
        term = term[:place] + term[place + 1 :]
    entry = _READERS.get(op)
    if entry is None:
        return Control(op, term, end, has_payload=False)
    if len(term) != entry[0]:
        raise _invalid(op)
    return Control(op, term, end, has_payload=entry[1])


def _unagreed(body: bytes) -> RemoteProtocolError:
    return RemoteProtocolError(f"a form of message that was not agreed on: {body[:3].hex()!r}")


# Which plain message it is, and where in the tuple the token stands.
_TRACED: dict[int, tuple[int, int]] = {
    Op.SEND_TT: (Op.SEND, 3),
    Op.EXIT_TT: (Op.EXIT, 3),
    Op.REG_SEND_TT: (Op.REG_SEND, 4),
    Op.EXIT2_TT: (Op.EXIT2, 3),
    Op.SEND_SENDER_TT: (Op.SEND_SENDER, 3),
    Op.PAYLOAD_EXIT_TT: (Op.PAYLOAD_EXIT, 3),
    Op.PAYLOAD_EXIT2_TT: (Op.PAYLOAD_EXIT2, 3),
    Op.SPAWN_REQUEST_TT: (Op.SPAWN_REQUEST, 6),
    Op.SPAWN_REPLY_TT: (Op.SPAWN_REPLY, 5),
    Op.ALIAS_SEND_TT: (Op.ALIAS_SEND, 3),
}


def _invalid(op: int) -> RemoteProtocolError:
    return RemoteProtocolError(f"control message {op} is not built as the protocol says")


def _pid(control: _Tuple, place: int) -> Pid:
    value = control[place]
    if type(value) is not Pid:
        raise _invalid(control[0])
    return value


def _reference(control: _Tuple, place: int) -> Reference:
    value = control[place]
    if type(value) is not Reference:
        raise _invalid(control[0])
    return value


def _atom(control: _Tuple, value: object) -> Atom:
    if type(value) is Atom:
        return value
    # The decoder makes Python's own values of these three, which are names like others here.
    if value is None:
        return Atom("nil")
    if isinstance(value, bool):
        return Atom("true" if value else "false")
    raise _invalid(control[0])


def _target(control: _Tuple, place: int) -> Pid | Atom:
    value = control[place]
    return value if type(value) is Pid else _atom(control, value)


def _number(control: _Tuple, place: int, least: int, most: int) -> int:
    value = control[place]
    if type(value) is not int or not least <= value <= most:
        raise _invalid(control[0])
    return value


def _unlink_id(control: _Tuple) -> int:
    return _number(control, 1, 1, (1 << 64) - 1)


def _read_spawn_request(control: _Tuple, arguments: Any) -> SpawnRequest:
    _, _, _, _, function, options = control
    if type(function) is not tuple or len(function) != 3 or type(options) is not list:
        raise _invalid(control[0])
    if type(arguments) is not Unread and (
        type(arguments) is not list or len(arguments) != function[2]
    ):
        raise _invalid(control[0])
    return SpawnRequest(
        ref=_reference(control, 1),
        sender=_pid(control, 2),
        group_leader=_pid(control, 3),
        module=_atom(control, function[0]),
        function=_atom(control, function[1]),
        arguments=arguments,
        options=options,
    )


# Arity, whether a payload follows, and how tuple and payload become a value.
_READERS: dict[int, tuple[int, bool, Callable[[_Tuple, Any], Message]]] = {
    Op.LINK: (3, False, lambda c, _: Link(_pid(c, 1), _pid(c, 2))),
    Op.SEND: (3, True, lambda c, p: Send(None, _pid(c, 2), p)),
    Op.EXIT: (4, False, lambda c, _: Exit(_pid(c, 1), _pid(c, 2), c[3])),
    Op.UNLINK: (3, False, lambda c, _: OldUnlink(_pid(c, 1), _pid(c, 2))),
    Op.REG_SEND: (4, True, lambda c, p: RegSend(_pid(c, 1), _atom(c, c[3]), p)),
    Op.GROUP_LEADER: (3, False, lambda c, _: GroupLeader(_pid(c, 1), _pid(c, 2))),
    Op.EXIT2: (4, False, lambda c, _: Exit2(_pid(c, 1), _pid(c, 2), c[3])),
    Op.MONITOR_P: (4, False, lambda c, _: Monitor(_pid(c, 1), _target(c, 2), _reference(c, 3))),
    Op.DEMONITOR_P: (4, False, lambda c, _: Demonitor(_pid(c, 1), _target(c, 2), _reference(c, 3))),
    Op.MONITOR_P_EXIT: (
        5,
        False,
        lambda c, _: MonitorExit(_target(c, 1), _pid(c, 2), _reference(c, 3), c[4]),
    ),
    Op.SEND_SENDER: (3, True, lambda c, p: Send(_pid(c, 1), _pid(c, 2), p)),
    Op.PAYLOAD_EXIT: (3, True, lambda c, p: Exit(_pid(c, 1), _pid(c, 2), p)),
    Op.PAYLOAD_EXIT2: (3, True, lambda c, p: Exit2(_pid(c, 1), _pid(c, 2), p)),
    Op.PAYLOAD_MONITOR_P_EXIT: (
        4,
        True,
        lambda c, p: MonitorExit(_target(c, 1), _pid(c, 2), _reference(c, 3), p),
    ),
    Op.SPAWN_REQUEST: (6, True, _read_spawn_request),
    Op.SPAWN_REPLY: (
        5,
        False,
        lambda c, _: SpawnReply(
            _reference(c, 1), _pid(c, 2), _number(c, 3, 0, 0xFFFF), _target(c, 4)
        ),
    ),
    Op.ALIAS_SEND: (3, True, lambda c, p: AliasSend(_pid(c, 1), _reference(c, 2), p)),
    Op.UNLINK_ID: (
        4,
        False,
        lambda c, _: Unlink(_unlink_id(c), _pid(c, 2), _pid(c, 3)),
    ),
    Op.UNLINK_ID_ACK: (
        4,
        False,
        lambda c, _: UnlinkAck(_unlink_id(c), _pid(c, 2), _pid(c, 3)),
    ),
}
