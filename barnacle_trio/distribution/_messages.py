"""Control messages as values: what connected nodes tell each other.

Source: OTP's "Distribution Protocol", section "Protocol between Connected Nodes".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

from barnacle_trio.etf import Atom, Pid, Reference


class Op(IntEnum):
    """What the first element of a control tuple says. ``_TT``: with a trace token."""

    LINK = 1
    SEND = 2
    EXIT = 3
    UNLINK = 4
    NODE_LINK = 5
    REG_SEND = 6
    GROUP_LEADER = 7
    EXIT2 = 8
    SEND_TT = 12
    EXIT_TT = 13
    REG_SEND_TT = 16
    EXIT2_TT = 18
    MONITOR_P = 19
    DEMONITOR_P = 20
    MONITOR_P_EXIT = 21
    SEND_SENDER = 22
    SEND_SENDER_TT = 23
    PAYLOAD_EXIT = 24
    PAYLOAD_EXIT_TT = 25
    PAYLOAD_EXIT2 = 26
    PAYLOAD_EXIT2_TT = 27
    PAYLOAD_MONITOR_P_EXIT = 28
    SPAWN_REQUEST = 29
    SPAWN_REQUEST_TT = 30
    SPAWN_REPLY = 31
    SPAWN_REPLY_TT = 32
    ALIAS_SEND = 33
    ALIAS_SEND_TT = 34
    UNLINK_ID = 35
    UNLINK_ID_ACK = 36
    ALTACT_SIG_SEND = 37


SPAWNED_LINKED = 1  # a bit of `SpawnReply.flags`
SPAWNED_MONITORED = 2


@dataclass(frozen=True, slots=True)
class Unread:
    """Stands for a payload beyond the limits, and says of what kind it is."""

    why: str


@dataclass(frozen=True, slots=True)
class Send:
    """A message to a process. Old forms, and the first message of all, do not tell the sender."""

    sender: Pid | None
    to: Pid
    payload: Any


@dataclass(frozen=True, slots=True)
class RegSend:
    """A message to a registered name."""

    sender: Pid
    to: Atom
    payload: Any


@dataclass(frozen=True, slots=True)
class AliasSend:
    """A message to an alias; the answers of gen_servers travel so.

    ``owner`` is the process whose alias it is, where that is known. It is not sent.
    """

    sender: Pid
    to: Reference
    payload: Any
    owner: Pid | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """``sender`` links itself to ``to``."""

    sender: Pid
    to: Pid


@dataclass(frozen=True, slots=True)
class Unlink:
    """``sender`` unlinks. To be answered by `UnlinkAck` before anything else is said to it."""

    id: int
    sender: Pid
    to: Pid


@dataclass(frozen=True, slots=True)
class UnlinkAck:
    """``sender`` saw the unlinking of that ``id``, which ``to`` asked for."""

    id: int
    sender: Pid
    to: Pid


@dataclass(frozen=True, slots=True)
class OldUnlink:
    """``sender`` unlinks, in the way of before OTP 26, which is not answered."""

    sender: Pid
    to: Pid


@dataclass(frozen=True, slots=True)
class Exit:
    """A linked process ended."""

    sender: Pid
    to: Pid
    reason: Any


@dataclass(frozen=True, slots=True)
class Exit2:
    """``exit(Pid, Reason)``: ``sender`` asks ``to`` to end."""

    sender: Pid
    to: Pid
    reason: Any


@dataclass(frozen=True, slots=True)
class GroupLeader:
    """``sender`` makes itself the group leader of ``to``."""

    sender: Pid
    to: Pid


@dataclass(frozen=True, slots=True)
class Monitor:
    """``sender`` monitors a process, by its pid or its name."""

    sender: Pid
    target: Pid | Atom
    ref: Reference


@dataclass(frozen=True, slots=True)
class Demonitor:
    """``sender`` ends the monitor ``ref``, which may be unknown by now."""

    sender: Pid
    target: Pid | Atom
    ref: Reference


@dataclass(frozen=True, slots=True)
class MonitorExit:
    """What ``to`` monitors ended; ``target`` is what it had named, a pid or a name."""

    target: Pid | Atom
    to: Pid
    ref: Reference
    reason: Any


@dataclass(frozen=True, slots=True)
class SpawnRequest:
    """``sender`` asks for a new process; `rpc` and `erpc` travel so. Answer by `SpawnReply`."""

    ref: Reference
    sender: Pid
    group_leader: Pid
    module: Atom
    function: Atom
    arguments: Any  # a list, or `Unread`
    options: list[Any]


@dataclass(frozen=True, slots=True)
class SpawnReply:
    """The new process, or an atom that says why there is none."""

    ref: Reference
    to: Pid
    flags: int
    result: Pid | Atom


@dataclass(frozen=True, slots=True)
class Unknown:
    """A control message that is not of the table; ``op`` is its number."""

    op: int


Message: TypeAlias = (
    Send
    | RegSend
    | AliasSend
    | Link
    | Unlink
    | UnlinkAck
    | OldUnlink
    | Exit
    | Exit2
    | GroupLeader
    | Monitor
    | Demonitor
    | MonitorExit
    | SpawnRequest
    | SpawnReply
    | Unknown
)
