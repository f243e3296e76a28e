"""A strategy of one's own: node names in a file that others edit.

A strategy is any async callable that is given the local node's name. One that has ``serve`` beside
that can say when a new answer is worth asking for, so that nobody waits for the next round.

    $ python examples/custom_strategy.py
    up: acorn@127.0.0.1 goose@127.0.0.1
    the file is gone: nobody is disconnected
    up: acorn@127.0.0.1 goose@127.0.0.1
    the file names acorn alone: goose is pruned
"""

from collections.abc import Callable, Iterable
from tempfile import TemporaryDirectory

import trio

from barnacle_trio import NodeDown, NodeName, RefreshFailed, open_barnacle, open_node


class NodesFile:
    """Node names, one a line."""

    def __init__(self, path: trio.Path) -> None:
        self._path = path

    async def __call__(self, local: NodeName) -> Iterable[str]:
        # What is returned is a complete answer: a node that is missing in it will be pruned.
        # An OSError is a failed one: the last good answer stays in use, and nobody is pruned.
        return (await self._path.read_text()).split()

    async def serve(
        self,
        local: NodeName,
        *,
        changed: Callable[[], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        before = await self._stamp()
        task_status.started()
        while True:
            await trio.sleep(0.1)
            now = await self._stamp()
            if now != before:
                changed()
            before = now

    async def _stamp(self) -> int | None:
        try:
            return (await self._path.stat()).st_mtime_ns
        except OSError:
            return None  # noqa: ASYNC910 - stat() is a checkpoint, whatever comes of it


async def main() -> None:
    with TemporaryDirectory() as folder:
        file = trio.Path(folder, "nodes")
        await file.write_text("acorn@127.0.0.1\ngoose@127.0.0.1\n")
        async with (
            open_node("my_app@127.0.0.1", cookie="my_cookie") as node,
            open_node("acorn@127.0.0.1", cookie="my_cookie"),
            open_node("goose@127.0.0.1", cookie="my_cookie"),
            # The pace of an example. A program rather leaves prune_after at its minute.
            open_barnacle(NodesFile(file), node, poll_interval=1, prune_after=0.5) as barnacle,
        ):
            print("up:", *sorted(await barnacle.wait_for_nodes(2)))
            with barnacle.open_listener() as events:
                await file.unlink()
                async for event in events:
                    match event:
                        case RefreshFailed():
                            print("the file is gone: nobody is disconnected")
                            print("up:", *sorted(barnacle.nodes.value))
                            await file.write_text("acorn@127.0.0.1\n")
                        case NodeDown(node=down, reason=reason):
                            print(f"the file names acorn alone: {down.basename} is {reason}")
                            break


if __name__ == "__main__":
    trio.run(main)
