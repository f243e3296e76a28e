"""A listener that keeps what it hears."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from barnacle_trio._events import Event

E = TypeVar("E", bound=Event)


class EventRecorder:
    """Records events of one barnacle or several: ``open_barnacle(..., listener=recorder.send)``.

    Reading is done when it is asked for, so no task is needed, and none is left behind.

    Args:
      max_buffer_size: events that may wait unread; a barnacle drops what does not fit.
    """

    def __init__(self, max_buffer_size: int = 10_000) -> None:
        self.send, self._receive = trio.open_memory_channel[Event](max_buffer_size)
        self._events: list[Event] = []

    @property
    def events(self) -> list[Event]:
        """All events so far."""
        while True:
            try:
                self._events.append(self._receive.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                return self._events

    def of(self, kind: type[E]) -> list[E]:
        """The events of one type so far."""
        return [event for event in self.events if isinstance(event, kind)]

    async def wait_for(
        self, kind: type[E], predicate: Callable[[E], bool] = lambda _event: True
    ) -> E:
        """Wait for an event of a type that a predicate accepts, and return the first.

        It may have come before. One task may wait at a time; if cancelled, nothing is lost.

        Raises:
          trio.EndOfChannel: there will be none, for every sender has closed its end.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        seen = 0
        while True:
            events = self.events
            for event in events[seen:]:
                if isinstance(event, kind) and predicate(event):
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    return event
            seen = len(events)
            self._events.append(await self._receive.receive())

    def clear(self) -> None:
        """Forget what was heard so far."""
        self.events.clear()

    def close(self) -> None:
        """Close both ends."""
        self.send.close()
        self._receive.close()
