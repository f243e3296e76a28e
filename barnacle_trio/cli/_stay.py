"""``barnacle run``: join a cluster, tell what happens in it, and leave it well."""

from __future__ import annotations

import os
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime

import trio

from barnacle_trio import Barnacle, Event, Node, Strategy, TlsOptions, open_barnacle
from barnacle_trio._options import check_options
from barnacle_trio._rules import Prune
from barnacle_trio.cli._edge import OK
from barnacle_trio.cli._events_shown import Narrator, as_fields, stamped
from barnacle_trio.cli._node import CookieOptions, NodeOptions
from barnacle_trio.cli._output import wait_for_end_of_input, write_json, write_lines

LEAVE_DEADLINE = 10.0
"""Seconds from the signal to leave to the end."""
LAST_WORDS = 2.0
"""Seconds for what is still to be written when all else is done."""
BUFFER = 1000
"""Events that wait for a reader of standard output that is slow."""


@dataclass(frozen=True, kw_only=True)
class Stay:
    """A stay in a cluster, from start to leave.

    ``leave`` is set when it is time to go. ``until_eof`` also goes when standard input ends.
    """

    strategy: Strategy
    node: NodeOptions
    cookie: CookieOptions
    tls: TlsOptions | None
    poll_interval: float
    prune: Prune
    prune_after: float
    as_json: bool
    until_eof: bool
    leave: trio.Event

    async def run(self) -> int:
        """Join, tell, leave. Raises what `open_node` and `open_barnacle` do."""
        # What is wrong with the call is said before a node is opened.
        check_options(
            name="barnacle",
            poll_interval=self.poll_interval,
            prune=self.prune,
            prune_after=self.prune_after,
        )
        with trio.CancelScope() as scope:
            async with self.node.open(self.cookie, self.tls) as node:
                await self._tell_start(node)
                async with open_barnacle(
                    self.strategy,
                    node,
                    poll_interval=self.poll_interval,
                    prune=self.prune,
                    prune_after=self.prune_after,
                ) as barnacle:
                    await self._tell_all(barnacle, scope)
        return OK

    async def _tell_all(self, barnacle: Barnacle, scope: trio.CancelScope) -> None:
        narrator = Narrator()
        with barnacle.open_listener(max_buffer_size=BUFFER) as events:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._leave_in_time, barnacle, scope)
                if self.until_eof:
                    nursery.start_soon(self._watch_input)
                async with aclosing(events):
                    async for event in events:
                        await self._tell(event, narrator)
                nursery.cancel_scope.cancel("the barnacle has ended")

    async def _leave_in_time(self, barnacle: Barnacle, scope: trio.CancelScope) -> None:
        await self.leave.wait()
        scope.deadline = trio.current_time() + LEAVE_DEADLINE
        await barnacle.drain(grace=LEAVE_DEADLINE / 2)
        # A reader that has stalled must not keep us from going.
        scope.deadline = min(scope.deadline, trio.current_time() + LAST_WORDS)

    async def _watch_input(self) -> None:
        await wait_for_end_of_input()
        self.leave.set()

    async def _tell_start(self, node: Node) -> None:
        now = datetime.now(UTC)
        if self.as_json:
            await write_json(
                {
                    "type": "Started",
                    "time": now.isoformat(timespec="milliseconds"),
                    "at": round(trio.current_time(), 6),
                    "node": node.name,
                    "hidden": node.hidden,
                    "creation": node.creation,
                    "pid": os.getpid(),
                }
            )
            return
        kind = "a hidden node" if node.hidden else "a node"
        story = [f"{node.name} is {kind}, pid {os.getpid()}"]
        await write_lines(stamped(story, now.astimezone()))

    async def _tell(self, event: Event, narrator: Narrator) -> None:
        now = datetime.now(UTC)
        if self.as_json:
            await write_json(as_fields(event, now))
        else:
            await write_lines(stamped(narrator.lines(event), now.astimezone()))
