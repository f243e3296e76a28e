"""Control messages, written as bytes.

Source: OTP's "Distribution Protocol", sections "Protocol between Connected Nodes" and
"Distribution Header".
"""

from __future__ import annotations

from typing import Any

from barnacle_trio.distribution._flags import PLAIN, Flag
from barnacle_trio.distribution._messages import Op
from barnacle_trio.etf import Atom, Limits, Pid, Reference
from barnacle_trio.etf._encode import Encoded, encode_bare
from barnacle_trio.etf._limits import DEFAULT_LIMITS

# Each function returns the whole body of a frame and raises `EncodeError` for a term that has no
# encoding. ``agreed`` is what both nodes can do: with fragments go distribution headers, without
# them the pass-through form, and peers of before OTP 25 take older messages.

_HEADER = b"\x83D\0"  # a distribution header that refers to no atoms
_PASS_THROUGH = b"\x70\x83"
_VERSION = b"\x83"
_FRAGMENTS = int(Flag.FRAGMENTS)

_NOTHING = Atom("").wire  # fills a place that was the cookie's once
_SEND = b"h\x03a\x02" + _NOTHING
_SEND_SENDER = b"h\x03a\x16"
_REG_SEND = b"h\x04a\x06"
_ALIAS_SEND = b"h\x03a\x21"


def head(control: bytes, agreed: int) -> bytes:
    """A body up to its payload: the form that was agreed on, and the control term.

    The payload that follows has no version byte of its own.
    """
    if agreed & _FRAGMENTS:
        return _HEADER + control
    return b"".join((_PASS_THROUGH, control, _VERSION))


def send(
    sender: Pid, to: Pid, payload: Any, agreed: Flag = PLAIN, limits: Limits = DEFAULT_LIMITS
) -> bytes:
    """A message to a process."""
    return _with(send_control(sender, to, agreed), payload, agreed, limits)


def send_control(sender: Pid, to: Pid, agreed: Flag = PLAIN) -> bytes:
    """The control term of `send`."""
    if agreed & Flag.SEND_SENDER:
        return b"".join((_SEND_SENDER, sender.wire, to.wire))
    return _SEND + to.wire


def reg_send(
    sender: Pid, to: Atom, payload: Any, agreed: Flag = PLAIN, limits: Limits = DEFAULT_LIMITS
) -> bytes:
    """A message to a registered name of the peer."""
    return _with(reg_send_control(sender, to), payload, agreed, limits)


def reg_send_control(sender: Pid, to: Atom) -> bytes:
    """The control term of `reg_send`."""
    return b"".join((_REG_SEND, sender.wire, _NOTHING, to.wire))


def alias_send(
    sender: Pid, to: Reference, payload: Any, agreed: Flag = PLAIN, limits: Limits = DEFAULT_LIMITS
) -> bytes:
    """A message to an alias (where `Flag.ALIAS` was agreed; an alias of a peer says that much)."""
    return _with(alias_send_control(sender, to), payload, agreed, limits)


def alias_send_control(sender: Pid, to: Reference) -> bytes:
    """The control term of `alias_send`."""
    return b"".join((_ALIAS_SEND, sender.wire, to.wire))


def link(sender: Pid, to: Pid, agreed: Flag = PLAIN) -> bytes:
    """Link ``sender``, a process of ours, to ``to``."""
    return _alone(_control(Op.LINK, sender, to), agreed)


def unlink(unlink_id: int, sender: Pid, to: Pid, agreed: Flag = PLAIN) -> bytes:
    """Undo a link. The id (1 to 2^64-1) comes back in an `UnlinkAck`, if the peer knows those."""
    if agreed & Flag.UNLINK_ID:
        return _alone(_control(Op.UNLINK_ID, unlink_id, sender, to), agreed)
    return _alone(_control(Op.UNLINK, sender, to), agreed)


def unlink_ack(unlink_id: int, sender: Pid, to: Pid, agreed: Flag = PLAIN) -> bytes:
    """Answer an `Unlink`; ``sender`` is who was unlinked."""
    return _alone(_control(Op.UNLINK_ID_ACK, unlink_id, sender, to), agreed)


def exit_(
    sender: Pid, to: Pid, reason: Any, agreed: Flag = PLAIN, limits: Limits = DEFAULT_LIMITS
) -> bytes:
    """Tell a linked process that ``sender`` ended."""
    if agreed & Flag.EXIT_PAYLOAD:
        return _with(_control(Op.PAYLOAD_EXIT, sender, to), reason, agreed, limits)
    return _alone(_control(Op.EXIT, sender, to, reason, limits=limits), agreed)


def exit2(
    sender: Pid, to: Pid, reason: Any, agreed: Flag = PLAIN, limits: Limits = DEFAULT_LIMITS
) -> bytes:
    """Ask a process of the peer to end."""
    if agreed & Flag.EXIT_PAYLOAD:
        return _with(_control(Op.PAYLOAD_EXIT2, sender, to), reason, agreed, limits)
    return _alone(_control(Op.EXIT2, sender, to, reason, limits=limits), agreed)


def monitor(sender: Pid, target: Pid | Atom, ref: Reference, agreed: Flag = PLAIN) -> bytes:
    """Monitor a process of the peer, by its pid or its name."""
    return _alone(_control(Op.MONITOR_P, sender, target, ref), agreed)


def demonitor(sender: Pid, target: Pid | Atom, ref: Reference, agreed: Flag = PLAIN) -> bytes:
    """End a monitor; ``target`` as it was given to `monitor`."""
    return _alone(_control(Op.DEMONITOR_P, sender, target, ref), agreed)


def monitor_exit(
    target: Pid | Atom,
    to: Pid,
    ref: Reference,
    reason: Any,
    agreed: Flag = PLAIN,
    limits: Limits = DEFAULT_LIMITS,
) -> bytes:
    """Tell who monitors ``target`` (as it named it) that it ended."""
    if agreed & Flag.EXIT_PAYLOAD:
        return _with(_control(Op.PAYLOAD_MONITOR_P_EXIT, target, to, ref), reason, agreed, limits)
    return _alone(_control(Op.MONITOR_P_EXIT, target, to, ref, reason, limits=limits), agreed)


def group_leader(sender: Pid, to: Pid, agreed: Flag = PLAIN) -> bytes:
    """Make ``sender`` the group leader of a process of the peer."""
    return _alone(_control(Op.GROUP_LEADER, sender, to), agreed)


def spawn_request(
    ref: Reference,
    sender: Pid,
    group_leader: Pid,
    function: tuple[Atom, Atom],
    arguments: list[Any],
    options: list[Any],
    agreed: Flag = PLAIN,
    limits: Limits = DEFAULT_LIMITS,
) -> bytes:
    """Ask the peer for a process that runs ``(module, function)`` with these arguments.

    ``options`` are `monitor`, `link` and ``{priority, _}`` alone: others are not for the wire.
    """
    control = spawn_request_control(ref, sender, group_leader, function, len(arguments), options)
    return _with(control, arguments, agreed, limits)


def spawn_request_control(
    ref: Reference,
    sender: Pid,
    group_leader: Pid,
    function: tuple[Atom, Atom],
    arity: int,
    options: list[Any],
) -> bytes:
    """The control term of `spawn_request`; the list of arguments is its payload."""
    return _control(Op.SPAWN_REQUEST, ref, sender, group_leader, (*function, arity), options)


def spawn_reply(
    ref: Reference, to: Pid, flags: int, result: Pid | Atom, agreed: Flag = PLAIN
) -> bytes:
    """Answer a `SpawnRequest`: the new pid and the ``SPAWNED_`` flags, or 0 and why not."""
    return _alone(_control(Op.SPAWN_REPLY, ref, to, flags, result), agreed)


def _control(op: Op, *rest: Any, limits: Limits = DEFAULT_LIMITS) -> bytes:
    return bytes(encode_bare((int(op), *rest), limits=limits))


def _with(control: bytes, payload: Any, agreed: Flag, limits: Limits) -> bytes:
    if type(payload) is Encoded:  # held against the limits when it was made
        return head(control, agreed) + payload.wire
    return bytes(encode_bare(payload, limits=limits, head=head(control, agreed)))


def _alone(control: bytes, agreed: Flag) -> bytes:
    return (_HEADER if agreed & _FRAGMENTS else _PASS_THROUGH) + control
