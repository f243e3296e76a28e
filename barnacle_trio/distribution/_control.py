"""Control messages as bytes: read, checked and written.

Source: OTP's "Distribution Protocol", section "Protocol between Connected Nodes". Bodies are in
the pass-through form (``112``, then a control term and for some a payload, each with its version
byte), which is what two nodes speak that agreed on neither the atom cache nor fragments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from barnacle_trio._errors import RemoteProtocolError
from barnacle_trio.distribution._flags import OUR_FLAGS, Flag
from barnacle_trio.distribution._messages import (
    SPAWNED_LINKED,
    SPAWNED_MONITORED,
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
)
from barnacle_trio.etf import Atom, Limits, Pid, Reference, decode_prefix, encode

__all__ = [
    "SPAWNED_LINKED",
    "SPAWNED_MONITORED",
    "AliasSend",
    "Demonitor",
    "Exit",
    "Exit2",
    "GroupLeader",
    "Link",
    "Message",
    "Monitor",
    "MonitorExit",
    "OldUnlink",
    "Op",
    "RegSend",
    "Send",
    "SpawnReply",
    "SpawnRequest",
    "Unknown",
    "Unlink",
    "UnlinkAck",
    "alias_send",
    "alias_send_head",
    "demonitor",
    "exit2",
    "exit_",
    "group_leader",
    "link",
    "monitor",
    "monitor_exit",
    "parse",
    "reg_send",
    "reg_send_head",
    "send",
    "send_head",
    "spawn_reply",
    "spawn_request",
    "unlink",
    "unlink_ack",
]

# --- From bytes ---------------------------------------------------------------------------------

_PASS_THROUGH = 112
_DEFAULT = Limits()


def parse(body: bytes, limits: Limits = _DEFAULT) -> Message:
    """Read the body of a frame (not of a tick, which has none).

    Trace tokens are dropped. Bytes after the last term are ignored, as OTP does.

    Raises:
      RemoteProtocolError: another form of body than agreed, a term that is none or beyond
        ``limits``, or a control message whose arity or types are not those of the table.
    """
    if not body or body[0] != _PASS_THROUGH:
        raise RemoteProtocolError(f"a distribution header was not agreed on: {body[:2].hex()!r}")
    control, end = decode_prefix(body, 1, limits=limits)
    if type(control) is not tuple or not control or type(control[0]) is not int:
        raise RemoteProtocolError("a control message is no tuple that begins with a number")
    op: int = control[0]
    traced = _TRACED.get(op)
    if traced is not None:
        op, place = traced
        if len(control) <= place:
            raise _invalid(control[0])
        control = control[:place] + control[place + 1 :]
    entry = _READERS.get(op)
    if entry is None:
        return Unknown(op)
    arity, has_payload, read = entry
    if len(control) != arity:
        raise _invalid(op)
    if not has_payload:
        return read(control, None)
    if end >= len(body):
        raise RemoteProtocolError(f"control message {op} came without its payload")
    return read(control, decode_prefix(body, end, limits=limits)[0])


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

_Tuple: TypeAlias = tuple[Any, ...]


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
    if type(arguments) is not list or type(function[2]) is not int:
        raise _invalid(control[0])
    if len(arguments) != function[2]:
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


# --- To bytes -----------------------------------------------------------------------------------
#
# Each returns the whole body of a frame and raises `EncodeError` for a term that has no encoding.
# ``agreed`` is what both nodes can do: peers of before OTP 25 take the older forms.

_NOTHING = Atom("").wire  # fills a place that was the cookie's once
_SEND = b"\x70\x83h\x03a\x02" + _NOTHING
_SEND_SENDER = b"\x70\x83h\x03a\x16"
_REG_SEND = b"\x70\x83h\x04a\x06"
_ALIAS_SEND = b"\x70\x83h\x03a\x21"


def send(sender: Pid, to: Pid, payload: Any, agreed: Flag = OUR_FLAGS) -> bytes:
    """A message to a process."""
    return send_head(sender, to, agreed) + encode(payload)


def send_head(sender: Pid, to: Pid, agreed: Flag = OUR_FLAGS) -> bytes:
    """The body of `send` up to its payload."""
    if agreed & Flag.SEND_SENDER:
        return b"".join((_SEND_SENDER, sender.wire, to.wire))
    return _SEND + to.wire


def reg_send(sender: Pid, to: Atom, payload: Any) -> bytes:
    """A message to a registered name of the peer."""
    return reg_send_head(sender, to) + encode(payload)


def reg_send_head(sender: Pid, to: Atom) -> bytes:
    """The body of `reg_send` up to its payload."""
    return b"".join((_REG_SEND, sender.wire, _NOTHING, to.wire))


def alias_send(sender: Pid, to: Reference, payload: Any) -> bytes:
    """A message to an alias (where `Flag.ALIAS` was agreed; an alias of a peer says that much)."""
    return alias_send_head(sender, to) + encode(payload)


def alias_send_head(sender: Pid, to: Reference) -> bytes:
    """The body of `alias_send` up to its payload."""
    return b"".join((_ALIAS_SEND, sender.wire, to.wire))


def link(sender: Pid, to: Pid) -> bytes:
    """Link ``sender``, a process of ours, to ``to``."""
    return _control(Op.LINK, sender, to)


def unlink(unlink_id: int, sender: Pid, to: Pid, agreed: Flag = OUR_FLAGS) -> bytes:
    """Undo a link. The id (1 to 2^64-1) comes back in an `UnlinkAck`, if the peer knows those."""
    if agreed & Flag.UNLINK_ID:
        return _control(Op.UNLINK_ID, unlink_id, sender, to)
    return _control(Op.UNLINK, sender, to)


def unlink_ack(unlink_id: int, sender: Pid, to: Pid) -> bytes:
    """Answer an `Unlink`; ``sender`` is who was unlinked."""
    return _control(Op.UNLINK_ID_ACK, unlink_id, sender, to)


def exit_(sender: Pid, to: Pid, reason: Any, agreed: Flag = OUR_FLAGS) -> bytes:
    """Tell a linked process that ``sender`` ended."""
    if agreed & Flag.EXIT_PAYLOAD:
        return _control(Op.PAYLOAD_EXIT, sender, to) + encode(reason)
    return _control(Op.EXIT, sender, to, reason)


def exit2(sender: Pid, to: Pid, reason: Any, agreed: Flag = OUR_FLAGS) -> bytes:
    """Ask a process of the peer to end."""
    if agreed & Flag.EXIT_PAYLOAD:
        return _control(Op.PAYLOAD_EXIT2, sender, to) + encode(reason)
    return _control(Op.EXIT2, sender, to, reason)


def monitor(sender: Pid, target: Pid | Atom, ref: Reference) -> bytes:
    """Monitor a process of the peer, by its pid or its name."""
    return _control(Op.MONITOR_P, sender, target, ref)


def demonitor(sender: Pid, target: Pid | Atom, ref: Reference) -> bytes:
    """End a monitor; ``target`` as it was given to `monitor`."""
    return _control(Op.DEMONITOR_P, sender, target, ref)


def monitor_exit(
    target: Pid | Atom, to: Pid, ref: Reference, reason: Any, agreed: Flag = OUR_FLAGS
) -> bytes:
    """Tell who monitors ``target`` (as it named it) that it ended."""
    if agreed & Flag.EXIT_PAYLOAD:
        return _control(Op.PAYLOAD_MONITOR_P_EXIT, target, to, ref) + encode(reason)
    return _control(Op.MONITOR_P_EXIT, target, to, ref, reason)


def group_leader(sender: Pid, to: Pid) -> bytes:
    """Make ``sender`` the group leader of a process of the peer."""
    return _control(Op.GROUP_LEADER, sender, to)


def spawn_request(
    ref: Reference,
    sender: Pid,
    group_leader: Pid,
    function: tuple[Atom, Atom],
    arguments: list[Any],
    options: list[Any],
) -> bytes:
    """Ask the peer for a process that runs ``(module, function)`` with these arguments.

    ``options`` are `monitor`, `link` and ``{priority, _}`` alone: others are not for the wire.
    """
    mfa = (*function, len(arguments))
    return _control(Op.SPAWN_REQUEST, ref, sender, group_leader, mfa, options) + encode(arguments)


def spawn_reply(ref: Reference, to: Pid, flags: int, result: Pid | Atom) -> bytes:
    """Answer a `SpawnRequest`: the new pid and the ``SPAWNED_`` flags, or 0 and why not."""
    return _control(Op.SPAWN_REPLY, ref, to, flags, result)


def _control(op: Op, *rest: Any) -> bytes:
    return b"\x70" + encode((int(op), *rest))
