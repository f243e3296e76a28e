"""The inside of a mailbox: where messages and exits come in, and are waited for."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import outcome
import trio

from barnacle_trio._errors import ProcessExit
from barnacle_trio._logs import RateLimited
from barnacle_trio.etf import Atom, Pid, Reference

logger = logging.getLogger("barnacle_trio.messages")

MAX_MAILBOX = 100_000
"""Messages that may wait in a mailbox, by default."""
MAX_MAILBOX_BYTES = 256 * 1024 * 1024
"""Bytes in which the large ones of them may have come."""
LARGE = 4096
"""Bytes from which a message is a large one."""
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


class NodeLeft(trio.ClosedResourceError):
    """Nothing waits, and nothing will come."""


class Large:
    """A large message that waits, beside the bytes in which it came."""

    __slots__ = ("message", "size")

    def __init__(self, message: Any, size: int) -> None:
        self.message = message
        self.size = size


def bare(kept: Any) -> Any:
    """What is kept in a mailbox, as it is received."""
    return kept.message if type(kept) is Large else kept


class _Waiter:
    """A task in `Inbox.receive`. It has seen all messages that wait."""

    __slots__ = ("match", "task")

    def __init__(self, task: trio.lowlevel.Task, match: Match | None) -> None:
        self.task = task
        self.match = match


class Inbox:
    """A process of this node, as far as the node is concerned. Users hold a `Mailbox` of it."""

    receives = True
    """Whether it takes messages at all."""

    def __init__(
        self, pid: Pid, *, name: str | None = None, trap_exits: bool = False, max_length: int
    ) -> None:
        self.pid = pid
        self.name = name
        self.trap_exits = trap_exits
        self._max_length = max_length
        # Small ones stand there as they are: most are, and need no object around them.
        self._messages: deque[Any] = deque()
        self._large_bytes = 0  # of all `Large` ones among them
        self._waiters: dict[_Waiter, None] = {}
        self._turn = 0  # messages that may be taken before others run
        self._end: Callable[[], Exception] | None = None
        self.ended = False
        """Whether nothing is received any more."""
        self.left = False
        """Whether its node was left: what waits is received, and nothing comes after it."""
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
        return len(self._messages)

    async def receive(self, match: Match | None = None) -> Any:
        """See `Mailbox.receive`."""
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
                return self._release(message) if self._large_bytes else message
        else:
            for index, message in enumerate(map(bare, messages) if self._large_bytes else messages):
                if match(message):
                    kept = messages[index]
                    del messages[index]
                    return self._release(kept)
        if self.left:
            raise _node_left()
        waiter = _Waiter(trio.lowlevel.current_task(), match)
        self._waiters[waiter] = None

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            del self._waiters[waiter]
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    def deliver(self, message: Any, size: int = 0) -> None:
        """Hand a message to who waits for such a one, or keep it; never waits.

        ``size`` is in how many bytes it came from a peer.
        """
        if self.ended:
            return
        if self._waiters and self._hand_over(message):
            return
        if len(self._messages) < self._max_length:
            if size < LARGE:
                self._messages.append(message)
                return
            if self._large_bytes + size <= MAX_MAILBOX_BYTES:
                self._large_bytes += size
                self._messages.append(Large(message, size))
                return
        self.rejected += 1
        self._log.warning("%r is full: a message to it was rejected", self)

    def tell(self, event: Down | Exit) -> None:
        """As `deliver`, for what comes once for each monitor or link that we asked for.

        There is always room for it.
        """
        if not self.ended and not (self._waiters and self._hand_over(event)):
            self._messages.append(event)

    def forget_down(self, ref: Reference) -> None:
        """Remove the `Down` of a monitor, if it waits here."""
        for message in self._messages:
            if type(message) is Down and message.ref == ref:
                self._messages.remove(message)
                break

    def exit(self, reason: Any) -> None:
        """End it for a reason that comes from outside: who receives is told by `ProcessExit`."""
        if not self.ended:
            self.exit_reason = reason
            self._finish(lambda: ProcessExit(reason))
            if self.on_exit is not None:
                self.on_exit()

    def leave(self) -> None:
        """Its node was left: tell so to who waits, and to who finds nothing that waits."""
        self.left = True
        for waiter in tuple(self._waiters):
            self._wake(waiter, outcome.Error(_node_left()))

    def close(self) -> None:
        """End it from inside."""
        self._finish(lambda: trio.ClosedResourceError("the mailbox was closed"))

    def _finish(self, error: Callable[[], Exception]) -> None:
        if self.ended:
            return
        self.ended = True
        self._end = error
        self._messages.clear()
        self._large_bytes = 0
        for waiter in tuple(self._waiters):
            self._wake(waiter, outcome.Error(error()))

    def _release(self, kept: Any) -> Any:
        """The message that was kept; it counts no more."""
        if type(kept) is Large:
            self._large_bytes -= kept.size
            return kept.message
        return kept

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

    def _wake(self, waiter: _Waiter, result: outcome.Outcome[Any]) -> None:
        del self._waiters[waiter]
        trio.lowlevel.reschedule(waiter.task, result)


def _node_left() -> Exception:
    return NodeLeft("the mailbox's node was left")
