"""Processes of this node as their owners hold them: links, monitors and groups, and messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import trio

from barnacle_trio.distribution._inbox import Inbox, Match
from barnacle_trio.distribution._routes import Dest
from barnacle_trio.etf import Pid, Reference

if TYPE_CHECKING:
    from barnacle_trio.distribution._processes import Processes


class Process:
    """A process of this node, for whom acts in its name. A `Mailbox` is one that also receives."""

    def __init__(self, processes: Processes, inbox: Inbox) -> None:
        self._processes = processes
        self._inbox = inbox

    def __repr__(self) -> str:
        return repr(self._inbox)

    @property
    def pid(self) -> Pid:
        """What others know it by."""
        return self._inbox.pid

    @property
    def name(self) -> str | None:
        """What it is registered as."""
        return self._inbox.name

    @property
    def ended(self) -> bool:
        """Whether it is over: nothing is received any more."""
        return self._inbox.ended

    @property
    def exit_reason(self) -> Any:
        """Why it ended, if another process had it end; else None."""
        return self._inbox.exit_reason

    @property
    def trap_exits(self) -> bool:
        """Whether the ends of linked processes arrive as `Exit`, instead of ending this one."""
        return self._inbox.trap_exits

    @trap_exits.setter
    def trap_exits(self, value: bool) -> None:
        self._inbox.trap_exits = value

    def monitor(self, dest: Dest) -> Reference:
        """Have a `Down` delivered here, once, when a process ends or cannot be reached.

        Args:
          dest: a pid, or ``(registered name, node)``. Its node is dialled in the background if
            need be.

        Returns: what the `Down` will bear; `demonitor` takes it.

        Raises:
          trio.ClosedResourceError: the mailbox was closed.
        """
        return self._processes.monitors.monitor(self._inbox, dest)

    def demonitor(self, ref: Reference) -> None:
        """End a monitor; a `Down` of it that waits here already is removed."""
        self._processes.monitors.demonitor(ref)
        self._inbox.forget_down(ref)

    def link(self, pid: Pid) -> None:
        """Link this process to another: when one ends for a reason that is not normal, so does
        the other, or it is told by an `Exit` where it has ``trap_exits``.

        Where the other does not exist, that comes back as its end, with reason ``noproc``.

        Raises:
          trio.ClosedResourceError: the mailbox was closed.
        """
        self._processes.links.link(self._inbox, pid)

    def unlink(self, pid: Pid) -> None:
        """Undo a link. Nothing comes from it after this returns."""
        self._processes.links.unlink(self._inbox, pid)

    def join_group(self, scope: str, group: Any) -> None:
        """Join a group of OTP's ``pg``; a process that joins twice is a member twice.

        Other nodes see it within a moment. Every member leaves when its process ends, and when
        two nodes connect again, they tell each other of their members.

        Args:
          scope: ``"pg"`` is the one that OTP uses where none is named. Its first use here starts a
            process of that name, which stays until the node ends.
          group: any term. A `str` is a binary to others: for a group of an Erlang or Elixir program
            it is often an `Atom` that is meant.

        Raises:
          ConfigurationError: another process is registered under the scope's name, or 100,000
            memberships of this node are in the scope already.
          EncodeError: the group, or the scope as an atom, has no encoding.
          trio.ClosedResourceError: the mailbox was closed.
        """
        self._processes.groups.join(self._inbox, scope, group)

    def leave_group(self, scope: str, group: Any) -> bool:
        """Leave a group, once where it was joined several times. False: it is no member.

        Raises:
          EncodeError: the group has no encoding.
        """
        return self._processes.groups.leave(self._inbox, scope, group)


class Mailbox(Process):
    """A process of this node that receives messages. Made by `Node.open_mailbox`.

    Messages are terms as `barnacle_trio.etf.decode` gives them, whether they come from this node or
    another: a `str` that was sent arrives as `bytes`. Beside them stand `Down` and `Exit`.

    Once the node was left, or has drained, what waits can be received yet; then iteration ends.
    """

    @property
    def rejected(self) -> int:
        """Messages that found no room. Each spell of them is told in the log, too."""
        return self._inbox.rejected

    def __len__(self) -> int:
        """How many messages wait."""
        return len(self._inbox)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._inbox.receive()
        except trio.ClosedResourceError:
            raise StopAsyncIteration from None

    async def receive(self, match: Match | None = None) -> Any:
        """Take the oldest message, or the oldest that ``match`` accepts; wait until there is one.

        Messages that are not accepted stay, and while it waits each is looked at once. If
        cancelled, no message is lost.

        Raises:
          ProcessExit: a linked process ended, or somebody had this one exit.
          trio.ClosedResourceError: the mailbox was closed, or its node was left and none waits that
            is accepted.
          Exception: what ``match`` raised.
        """
        return await self._inbox.receive(match)
