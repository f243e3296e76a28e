"""A barnacle beside tasks of one's own, all of them started again when they crash.

The worker's crash is logged with its traceback; neither the barnacle nor the node notices it.

    $ python examples/supervision_tree.py
    the worker starts, for the first time
    the worker starts again
    nodes: friend@127.0.0.1
"""

from functools import partial
from itertools import count

import trio

from barnacle_trio import (
    Barnacle,
    ChildSpec,
    RestartPolicy,
    barnacle_child,
    local_epmd,
    open_node,
    supervise,
)

# A fourth crash within five seconds is one too many: then `BarnacleCrashed` comes out of supervise.
POLICY = RestartPolicy(max_restarts=3, within=5.0)

starts = count()
at_work_again = trio.Event()


async def work(*, task_status: trio.TaskStatus[None]) -> None:
    task_status.started()  # the supervisor goes on to the next child
    if next(starts) == 0:
        print("the worker starts, for the first time")
        raise RuntimeError("a bug that shows once")
    print("the worker starts again")
    at_work_again.set()
    await trio.sleep_forever()


async def main() -> None:
    barnacles: list[Barnacle] = []
    async with (
        open_node("my_app@127.0.0.1", cookie="my_cookie") as node,
        open_node("friend@127.0.0.1", cookie="my_cookie"),
        trio.open_nursery() as nursery,
    ):
        barnacle_spec = barnacle_child(
            local_epmd(match="friend"), node, name="my_barnacle", on_start=barnacles.append
        )
        worker_spec = ChildSpec("worker", work)
        await nursery.start(partial(supervise, barnacle_spec, worker_spec, restart_policy=POLICY))
        barnacle = barnacles[-1]  # of the last start; there is one, for `start` waited for it

        await at_work_again.wait()
        print("nodes:", *await barnacle.wait_for_nodes(1))
        nursery.cancel_scope.cancel("the show is over")


if __name__ == "__main__":
    trio.run(main)
