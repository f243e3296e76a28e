"""The fan-out of events: never waits for a listener, never grows without bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import trio

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._events import Event, Missed, ShutDown
from barnacle_trio._names import NodeName, show

Listener = trio.MemorySendChannel[Event]
"""Where a barnacle sends its events: the send end of a memory channel with a buffer."""


@dataclass(slots=True, eq=False)
class _Listening:
    channel: Listener
    limit: float  # events that may wait in it; a channel of ours has room for two more
    missed: int = 0


class Listeners:
    """The listeners of one barnacle. All methods are synchronous."""

    def __init__(
        self, barnacle: str, clock: Callable[[], float], nodes: Callable[[], frozenset[NodeName]]
    ) -> None:
        self._barnacle = barnacle
        self._clock = clock
        self._nodes = nodes
        self._listening: list[_Listening] = []
        self.missed = 0
        """Events that found no room, of all listeners so far."""

    def add(self, channel: Listener) -> None:
        """Send to a clone of a channel from now on. The caller keeps the original, and closes it.

        Raises:
          ConfigurationError: the channel is closed.
        """
        try:
            clone = channel.clone()
        except trio.ClosedResourceError:
            raise ConfigurationError("the listener is closed already") from None
        self._listening.append(_Listening(clone, clone.statistics().max_buffer_size))

    def open(
        self, max_buffer_size: int, begin: Iterable[Event]
    ) -> trio.MemoryReceiveChannel[Event]:
        """Make a channel that begins with some events, whatever their number."""
        first = list(begin)
        limit = max_buffer_size + len(first)
        # two more: the last event always fits, and a `Missed` before it
        send, receive = trio.open_memory_channel[Event](limit + 2)
        for event in first:
            send.send_nowait(event)
        self._listening.append(_Listening(send, limit))
        return receive

    def publish(self, event: Event) -> None:
        """Tell all listeners. Where there is no room, the event is dropped and counted."""
        for listening in tuple(self._listening):
            try:
                self._send(listening, event)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                listening.channel.close()
                self._listening.remove(listening)

    def _send(self, listening: _Listening, event: Event) -> None:
        channel = listening.channel
        if not channel.statistics().open_receive_channels:
            raise trio.BrokenResourceError
        last = isinstance(event, ShutDown)
        try:
            if not last and channel.statistics().current_buffer_used >= listening.limit:
                raise trio.WouldBlock
            if listening.missed:
                channel.send_nowait(
                    Missed(
                        barnacle=self._barnacle,
                        at=self._clock(),
                        count=listening.missed,
                        nodes=self._nodes(),
                    )
                )
                listening.missed = 0
            if not last and channel.statistics().current_buffer_used >= listening.limit:
                raise trio.WouldBlock
            channel.send_nowait(event)
        except trio.WouldBlock:
            listening.missed += 1
            self.missed += 1

    def close(self) -> None:
        """Close the clones."""
        while self._listening:
            self._listening.pop().channel.close()


def check_listener(listener: object) -> None:
    """See that something can be a listener.

    Raises:
      ConfigurationError: it is none, or has no buffer.
    """
    if not isinstance(listener, trio.MemorySendChannel):
        hint = (
            "that is the receiving end" if isinstance(listener, trio.MemoryReceiveChannel) else ""
        )
        raise ConfigurationError(
            "a listener is the send end of trio.open_memory_channel(size), not "
            f"{hint or show(listener)}"
        )
    if listener.statistics().max_buffer_size == 0:
        raise ConfigurationError(
            "a listener needs a buffer, for the barnacle never waits for it: "
            "trio.open_memory_channel(64)"
        )
