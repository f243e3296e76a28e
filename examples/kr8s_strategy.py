"""A strategy of one's own on a library that speaks asyncio and Trio alike: pods, by kr8s.

Barnacle's own `kubernetes` needs less and knows more; this shows how such a library is brought in.
It finds its way to the API server by the pod's service account, or by a kubeconfig.

    $ pip install kr8s
    $ python examples/kr8s_strategy.py my_app@127.0.0.1 app=friend friend
    pods: friend@127.0.0.1
    up: friend@127.0.0.1
"""

import sys
from collections.abc import Callable
from contextlib import aclosing

import httpx  # noqa: ASYNC127 - kr8s is built on it
import kr8s
import kr8s.asyncio
import trio

from barnacle_trio import DiscoveryError, NodeName, open_barnacle, open_node

# What says that the API server cannot answer now, as against a bug in this program.
FAILURES = (kr8s.ServerError, kr8s.APITimeoutError, kr8s.ConnectionClosedError, httpx.HTTPError)


class Pods:
    """``basename@address`` for each pod with these labels that has an address."""

    def __init__(self, selector: str, basename: str) -> None:
        self._selector = selector
        self._basename = basename

    async def __call__(self, local: NodeName) -> list[str]:
        names = []
        try:
            api = await kr8s.asyncio.api()
            async with aclosing(api.get("pods", label_selector=self._selector, raw=True)) as pods:
                async for pod in pods:
                    if "podIP" in pod["status"]:
                        names.append(f"{self._basename}@{pod['status']['podIP']}")
        except FAILURES as error:
            # Not an empty answer: nobody is disconnected while the API server is down.
            raise DiscoveryError(f"Kubernetes: {error}") from error
        return names

    async def serve(
        self,
        local: NodeName,
        *,
        changed: Callable[[], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        task_status.started()
        while True:
            try:
                api = await kr8s.asyncio.api()
                async with aclosing(api.watch("pods", label_selector=self._selector)) as events:
                    async for _event in events:
                        changed()
            except FAILURES:
                pass  # the rounds tell of it
            await trio.sleep(1)


async def main(name: str, selector: str, basename: str) -> None:
    pods = Pods(selector, basename)
    async with open_node(name, cookie="my_cookie") as node:
        print("pods:", *sorted(await pods(node.name)))
        async with open_barnacle(pods, node) as barnacle:
            print("up:", *sorted(await barnacle.wait_for_nodes(1)))


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
