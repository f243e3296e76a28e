"""A listener that keeps what it hears."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar

import trio

from barnacle_trio._events import Event

E = TypeVar("E", bound=Event)


class _Wait(trio.abc.Instrument):
    """One call of `EventRecorder.wait_for`: what it has yet to look at, and how it is woken.

    To wait by receiving would take an event out of the channel before the task is run that would
    record it; whoever reads meanwhile would see the later ones alone. So this looks, after each
    step of any task, whether there is something to read, and leaves it there.
    """

    def __init__(self, receive: trio.MemoryReceiveChannel[Event]) -> None:
        self._receive = receive
        self._woken = trio.Event()
        self.unseen: deque[Event] = deque()

    def after_task_step(self, _task: trio.lowlevel.Task) -> None:
        now = self._receive.statistics()
        if (
            self.unseen
            or now.current_buffer_used
            or not now.open_send_channels
            or not now.open_receive_channels
        ):
            self._woken.set()

    async def sleep(self) -> None:
        """Wait for an event, or for the end of either side. If cancelled, nothing is lost."""
        self._woken = trio.Event()
        trio.lowlevel.add_instrument(self)
        try:
            await self._woken.wait()
        finally:
            trio.lowlevel.remove_instrument(self)


class EventRecorder:
    """Records events of one barnacle or several: ``open_barnacle(..., listener=recorder.send)``.

    Reading is done when it is asked for, so no task is needed, and none is left behind.

    Args:
      max_buffer_size: events that may wait unread; a barnacle drops what does not fit.
    """

    def __init__(self, max_buffer_size: int = 10_000) -> None:
        self.send, self._receive = trio.open_memory_channel[Event](max_buffer_size)
        self._events: list[Event] = []
        self._waits: set[_Wait] = set()

    @property
    def events(self) -> list[Event]:
        """All events so far."""
        self._read_all()
        return self._events

    def _read_all(self) -> None:
        while True:
            try:
                self._read()
            except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                return

    def _read(self) -> None:
        event = self._receive.receive_nowait()
        self._events.append(event)
        for wait in self._waits:
            wait.unseen.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """The events of one type so far."""
        return [event for event in self.events if isinstance(event, kind)]

    async def wait_for(
        self, kind: type[E], predicate: Callable[[E], bool] = lambda _event: True
    ) -> E:
        """Wait for an event of a type that a predicate accepts, and return the first.

        It may have come before. Any number of tasks may wait; if cancelled, nothing is lost.

        Raises:
          trio.EndOfChannel: there will be none, for every sender has closed its end.
          trio.ClosedResourceError: there will be none, for the recorder was closed.
          Exception: what the predicate raised.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        wait = _Wait(self._receive)
        wait.unseen.extend(self.events)
        self._waits.add(wait)
        try:
            while True:  # noqa: ASYNC913 - it reads, or sleeps
                while wait.unseen:
                    event = wait.unseen.popleft()
                    if isinstance(event, kind) and predicate(event):
                        await trio.lowlevel.cancel_shielded_checkpoint()
                        return event
                try:
                    self._read()
                except trio.WouldBlock:
                    await wait.sleep()
        finally:
            self._waits.discard(wait)

    def clear(self) -> None:
        """Forget what was heard so far. Tasks that wait already have heard it all the same."""
        self.events.clear()

    def close(self) -> None:
        """Close both ends. What was heard so far is kept."""
        self._read_all()  # closing throws away what waits unread
        self.send.close()
        self._receive.close()
