"""Hand out work to whoever is in a process group; what a worker leaves undone, another one does.

The groups are OTP's ``pg``: a worker in Elixir would join by ``:pg.join(:workers, self())``, once
its node runs ``:pg``.

    $ python examples/work_queue.py
    acorn, goose and heron are at work
    goose is gone, and had the square of 2 to find
    found: 1 4 9 16 25 36
    by those who are left: acorn heron
"""

from collections import deque
from functools import partial

import trio

from barnacle_trio import Atom, Down, Node, Pid, open_node

WORKERS = Atom("workers")
SQUARE, DONE = Atom("square"), Atom("done")


async def work(name: str, *, faulty: bool = False) -> None:
    """A node with a worker; one that is faulty goes down with its first piece of work."""
    with trio.CancelScope() as scope:
        async with (
            open_node(f"{name}@127.0.0.1", cookie="my_cookie") as node,
            node.open_mailbox() as mailbox,
        ):
            await node.connect("boss@127.0.0.1")  # a barnacle would do this in a program
            mailbox.join_group("pg", WORKERS)
            async for message in mailbox:
                match message:
                    case (Atom("square"), boss, number):
                        if faulty:
                            scope.cancel("somebody pulls the plug")
                        await node.send(boss, (DONE, mailbox.pid, number, number**2))


async def hand_out(node: Node, workers: list[Pid], todo: deque[int]) -> dict[int, int]:
    """Have all work done, one piece by each worker at a time; the result of each."""
    results: dict[int, int] = {}
    idle = deque(workers)
    busy: dict[Pid, int] = {}
    async with node.open_mailbox() as mailbox:
        for worker in workers:
            mailbox.monitor(worker)
        while todo or busy:
            while todo and idle:
                worker = idle.popleft()
                busy[worker] = todo.popleft()
                await node.send(worker, (SQUARE, mailbox.pid, busy[worker]))
            match await mailbox.receive():
                case (Atom("done"), worker, number, result):
                    results[number] = result
                    del busy[worker]
                    idle.append(worker)
                case Down(item=worker):  # it crashed, or its node was lost
                    workers.remove(worker)
                    if worker in idle:
                        idle.remove(worker)
                        continue
                    # Somebody else does it. It may have been done, and only the answer was lost:
                    # so it is for work that can be done twice.
                    number = busy.pop(worker)
                    todo.appendleft(number)
                    print(f"{name_of(worker)} is gone, and had the square of {number} to find")
    return results


def name_of(worker: Pid) -> str:
    return worker.node.name.partition("@")[0]


async def main() -> None:
    async with (
        open_node("boss@127.0.0.1", cookie="my_cookie") as node,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(work, "acorn")
        nursery.start_soon(partial(work, "goose", faulty=True))
        nursery.start_soon(work, "heron")
        while len(workers := await node.group_members("pg", WORKERS)) < 3:  # noqa: ASYNC110
            await trio.sleep(0.05)  # nobody tells of a group's changes
        workers.sort(key=name_of)
        print("{}, {} and {} are at work".format(*map(name_of, workers)))
        results = await hand_out(node, workers, deque(range(1, 7)))
        print("found:", *(results[number] for number in sorted(results)))
        print("by those who are left:", *map(name_of, workers))
        nursery.cancel_scope.cancel("all is done")


if __name__ == "__main__":
    trio.run(main)
