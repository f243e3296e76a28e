"""Keep the members of a Partisan cluster together: your own functions to connect.

Partisan (Erlang) connects nodes by connections of its own. Here one of its nodes, the gate, is told
whom to join and whom to leave, by rpc to its `partisan_peer_service` (of Partisan 5); so its nodes
also speak Distributed Erlang, to be told. The barnacle does the rest, as ever: it discovers, dials
those that are missing, backs off, and prunes with care. With care, since Partisan takes a node that
was made to leave back only once it has been restarted.

    $ python examples/partisan.py one@127.0.0.1 two@127.0.0.1 three@127.0.0.1
    joined: three@127.0.0.1 two@127.0.0.1
"""

import sys
from typing import Any

import trio

from barnacle_trio import (
    Atom,
    ConnectError,
    DisconnectError,
    Node,
    custom_transport,
    epmd,
    open_barnacle,
    open_node,
)

OK = Atom("ok")


class PeerService:
    """The `partisan_peer_service` of one node, as the three functions of a transport."""

    def __init__(self, node: Node, gate: str) -> None:
        self._node = node
        self._gate = gate
        self._specs: dict[str, Any] = {}

    async def connect(self, name: str) -> None:
        # Where a node listens it knows best. What cannot be reached raises, and backs off.
        spec = await self._node.rpc(name, "partisan", "node_spec")
        answer = await self._ask("join", spec)
        if answer != OK:
            raise ConnectError(f"Partisan does not join {name}: {answer!r}")
        self._specs[name] = spec
        while name not in await self.list_nodes():  # noqa: ASYNC110 - it joins in its own time
            await trio.sleep(0.1)

    async def disconnect(self, name: str) -> None:
        spec = self._specs.get(name)
        if spec is None:  # joined before this program was started
            spec = await self._node.rpc(name, "partisan", "node_spec")
        answer = await self._ask("leave", spec)
        if answer != OK:
            raise DisconnectError(f"Partisan does not leave {name}: {answer!r}")

    async def list_nodes(self) -> set[str]:
        match await self._ask("members"):
            case (Atom("ok"), [*members]):
                return {member.name for member in members} - {self._gate}
            case answer:
                raise ConnectError(f"Partisan does not tell its members: {answer!r}")

    async def _ask(self, function: str, *arguments: Any) -> Any:
        return await self._node.rpc(self._gate, "partisan_peer_service", function, *arguments)


async def main(*names: str) -> None:
    gate, *others = names
    async with open_node("partisan_keeper@127.0.0.1", cookie="my_cookie", hidden=True) as node:
        service = PeerService(node, gate)
        transport = custom_transport(
            name=gate,
            connect=service.connect,
            disconnect=service.disconnect,
            list_nodes=service.list_nodes,
        )
        async with open_barnacle(epmd(names), transport, prune_after=300) as barnacle:
            print("joined:", *sorted(await barnacle.wait_for_nodes(len(others))))


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
