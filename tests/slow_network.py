"""A network in memory where each direction of each connection takes its own time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_one_way_pair

from barnacle_trio._names import NodeName
from barnacle_trio.distribution._network import Accept
from barnacle_trio.testing import MemoryNetwork

_Stream = trio.StapledStream[MemorySendStream, MemoryReceiveStream]


class SlowNetwork(MemoryNetwork):
    """Made by `open_slow_network`.

    Args:
      delays: for who dials, the seconds from there to the other side, and back.
      nursery: where bytes travel. They keep their order, and outlive who sent them.
    """

    def __init__(self, delays: dict[NodeName, tuple[float, float]], nursery: trio.Nursery) -> None:
        super().__init__()
        self._delays = delays
        self._travelling = nursery

    async def _dial(self, caller: NodeName, name: NodeName) -> tuple[_Stream, Hashable]:
        await trio.lowlevel.checkpoint()
        there, back = self._delays[caller]
        ours_out, theirs_in = self._wire(there)
        theirs_out, ours_in = self._wire(back)
        theirs = trio.StapledStream(theirs_out, theirs_in)
        self._nurseries[name].start_soon(self._run, self._accepts[name], theirs)
        return trio.StapledStream(ours_out, ours_in), 1

    async def _run(self, accept: Accept, stream: _Stream) -> None:
        try:
            await accept(stream)
        finally:
            await trio.aclose_forcefully(stream)

    def _wire(self, delay: float) -> tuple[MemorySendStream, MemoryReceiveStream]:
        out, into = memory_stream_one_way_pair()
        post, posted = trio.open_memory_channel[tuple[float, bytes]](10_000)

        async def carry() -> None:
            async for at, data in posted:
                await trio.sleep_until(at)
                try:
                    if data:
                        into.put_data(data)
                    else:
                        into.put_eof()
                except trio.ClosedResourceError:
                    return

        def take() -> None:
            post.send_nowait((trio.current_time() + delay, bytes(out.get_data_nowait())))

        async def sent() -> None:
            await trio.lowlevel.checkpoint()
            take()

        out.send_all_hook = sent
        out.close_hook = take  # nothing waits: that is the end
        self._travelling.start_soon(carry)
        return out, into


@asynccontextmanager
async def open_slow_network(
    delays: dict[NodeName, tuple[float, float]],
) -> AsyncIterator[SlowNetwork]:
    """Open one, until the block is left."""
    async with trio.open_nursery() as nursery:
        yield SlowNetwork(delays, nursery)
        nursery.cancel_scope.cancel()
