"""Mailboxes: what a process of this node receives."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import outcome
import trio

from barnacle_trio._errors import ProcessExit
from barnacle_trio._logs import RateLimited
from barnacle_trio.distribution._routes import Dest
from barnacle_trio.etf import Atom, Pid, Reference

if TYPE_CHECKING:
    from barnacle_trio.distribution._processes import Processes

logger = logging.getLogger("barnacle_trio.messages")

MAX_MAILBOX = 100_000
"""Messages that may wait in a mailbox, by default."""
MAX_MAILBOX_BYTES = 256 * 1024 * 1024
"""Bytes in which the large ones of them may have come."""
LARGE = 4096
"""Bytes from which a message is a large one. No atom is, so each is an object of its own."""
YIELD_EVERY = 64
"""Messages after which a consumer that never has to wait lets other tasks run."""
MAX_TURN = 10_000
"""The same where many wait: it takes what came in one turn of the others in one turn of its own."""

NORMAL = Atom("normal")
KILL = Atom("kill")
KILLED = Atom("killed")

Match: TypeAlias = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Down:
    """What was monitored is gone: ``item``, as it was named to `Mailbox.monitor`.

    ``reason`` is ``noproc`` where it did not exist, ``noconnection`` where its node was lost.
    """

    ref: Reference
    item: Any
    reason: Any


@dataclass(frozen=True, slots=True)
class Exit:
    """A process that this mailbox was linked to ended (only with ``trap_exits``)."""

    pid: Pid
    reason: Any


class _Waiter:
    """A task in `Mailbox.receive`. It has seen all messages that wait."""

    __slots__ = ("match", "task")

    def __init__(self, task: trio.lowlevel.Task, match: Match | None) -> None:
        self.task = task
        self.match = match


class Mailbox:
    """A process of this node, as far as others are concerned. Made by `Node.open_mailbox`.

    Messages are terms as `barnacle_trio.etf.decode` gives them, whether they come from this node or
    another: a `str` that was sent arrives as `bytes`. Beside them stand `Down` and `Exit`.
    """

    def __init__(
        self,
        processes: Processes,
        pid: Pid,
        *,
        name: str | None,
        trap_exits: bool,
        max_length: int,
    ) -> None:
        self._processes = processes
        self.pid = pid
        self.name = name
        self.trap_exits = trap_exits
        self._max_length = max_length
        self._messages: deque[Any] = deque()
        self._large: dict[int, int] = {}  # large messages that wait, by id: their bytes
        self._large_bytes = 0
        self._waiters: dict[_Waiter, None] = {}
        self._turn = 0  # messages that may be taken before others run
        self._end: Callable[[], Exception] | None = None
        self.exit_reason: Any = None
        """Why it ended, if another process had it end; else None."""
        self.on_exit: Callable[[], object] | None = None
        """Called when another process has it end, which may be while nobody receives."""
        self._log = RateLimited(logger)
        self.rejected = 0
        """Messages that found no room. Each spell of them is told in the log, too."""

    def __repr__(self) -> str:
        what = f" named {self.name!r}" if self.name else ""
        return f"<Mailbox{what}, {len(self._messages)} messages wait>"

    def __len__(self) -> int:
        """How many messages wait."""
        return len(self._messages)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except trio.ClosedResourceError:
            raise StopAsyncIteration from None

    async def receive(self, match: Match | None = None) -> Any:
        """Take the oldest message, or the oldest that ``match`` accepts; wait until there is one.

        Messages that are not accepted stay, and while it waits each is looked at once. If
        cancelled, no message is lost.

        Raises:
          ProcessExit: a linked process ended, or somebody had this one exit.
          trio.ClosedResourceError: the mailbox was closed.
          Exception: what ``match`` raised.
        """
        self._turn -= 1
        if self._turn > 0:
            # Cancellation is heeded each time; other tasks get their turn every so often.
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
            self._turn = min(max(len(self._messages), YIELD_EVERY), MAX_TURN)
        if self._end is not None:
            raise self._end()
        messages = self._messages
        if match is None:
            if messages:
                message = messages.popleft()
                if self._large:
                    self._release(message)
                return message
        else:
            for index, message in enumerate(messages):
                if match(message):
                    del messages[index]
                    self._release(message)
                    return message
        waiter = _Waiter(trio.lowlevel.current_task(), match)
        self._waiters[waiter] = None

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            del self._waiters[waiter]
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    def monitor(self, dest: Dest) -> Reference:
        """Have a `Down` delivered here, once, when a process ends or cannot be reached.

        Args:
          dest: a pid, or ``(registered name, node)``. Its node is dialled in the background if
            need be.

        Returns: what the `Down` will bear; `demonitor` takes it.

        Raises:
          trio.ClosedResourceError: the mailbox was closed.
        """
        return self._processes.monitor(self, dest)

    def demonitor(self, ref: Reference) -> None:
        """End a monitor; a `Down` of it that waits here already is removed."""
        self._processes.demonitor(ref)
        for message in self._messages:
            if type(message) is Down and message.ref == ref:
                self._messages.remove(message)
                break

    def link(self, pid: Pid) -> None:
        """Link this process to another: when one ends for a reason that is not normal, so does
        the other, or it is told by an `Exit` where it has ``trap_exits``.

        Where the other does not exist, that comes back as its end, with reason ``noproc``.

        Raises:
          trio.ClosedResourceError: the mailbox was closed.
        """
        self._processes.link(self, pid)

    def unlink(self, pid: Pid) -> None:
        """Undo a link. Nothing comes from it after this returns."""
        self._processes.unlink(self, pid)

    def join_group(self, scope: str, group: Any) -> None:
        """Join a group of OTP's ``pg``; a process that joins twice is a member twice.

        Other nodes see it within a moment. Every member leaves when its mailbox closes, and when
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
        self._processes.groups.join(self, scope, group)

    def leave_group(self, scope: str, group: Any) -> bool:
        """Leave a group, once where it was joined several times. False: it is no member.

        Raises:
          EncodeError: the group has no encoding.
        """
        return self._processes.groups.leave(self, scope, group)

    # -- what the node does with it ---------------------------------------------------------------

    def deliver(self, message: Any, size: int = 0) -> None:
        """Hand a message to who waits for such a one, or keep it; never waits.

        ``size`` is in how many bytes it came from a peer.
        """
        if self._end is not None:
            return
        if self._waiters and self._hand_over(message):
            return
        if len(self._messages) < self._max_length and (
            size < LARGE or self._reserve(message, size)
        ):
            self._messages.append(message)
        else:
            self.rejected += 1
            self._log.warning("%r is full: a message to it was rejected", self)

    def _reserve(self, message: Any, size: int) -> bool:
        """Take room for a large message, if there is so much."""
        if self._large_bytes + size > MAX_MAILBOX_BYTES:
            return False
        self._large[id(message)] = size
        self._large_bytes += size
        return True

    def _release(self, message: Any) -> None:
        self._large_bytes -= self._large.pop(id(message), 0)

    def tell(self, event: Down | Exit) -> None:
        """As `deliver`, for what comes once for each monitor and link: there is always room."""
        if self._end is None and not (self._waiters and self._hand_over(event)):
            self._messages.append(event)

    def _hand_over(self, message: Any) -> bool:
        for waiter in tuple(self._waiters):
            try:
                accepted = waiter.match is None or waiter.match(message)
            except Exception as error:
                self._wake(waiter, outcome.Error(error))
                continue  # the message is for others, or stays for another try
            if accepted:
                self._wake(waiter, outcome.Value(message))
                return True
        return False

    def exit(self, reason: Any) -> None:
        """End it for a reason that comes from outside: who receives is told by `ProcessExit`."""
        if self._end is None:
            self.exit_reason = reason
            self._finish(lambda: ProcessExit(reason))
            if self.on_exit is not None:
                self.on_exit()

    def close(self) -> None:
        """End it from inside."""
        self._finish(lambda: trio.ClosedResourceError("the mailbox was closed"))

    def _finish(self, error: Callable[[], Exception]) -> None:
        if self._end is not None:
            return
        self._end = error
        self._messages.clear()
        self._large.clear()
        for waiter in tuple(self._waiters):
            self._wake(waiter, outcome.Error(error()))

    @property
    def ended(self) -> bool:
        """Whether nothing is received any more."""
        return self._end is not None

    def _wake(self, waiter: _Waiter, result: outcome.Outcome[Any]) -> None:
        del self._waiters[waiter]
        trio.lowlevel.reschedule(waiter.task, result)
