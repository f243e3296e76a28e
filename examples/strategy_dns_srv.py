"""Find nodes by the SRV records of a DNS name, whatever the nodes there are called.

    $ python examples/strategy_dns_srv.py
    up: friend@localhost shop-01JAB3@localhost
    a new release
    up: friend@localhost shop-01JAB4@localhost

Each record names a host, and the host's port mapper lists its nodes (``basename=ASK``). Without
arguments it asks a small name server of its own. With a name it asks yours:

    python examples/strategy_dns_srv.py _app._tcp.my-app.internal

Pods of a StatefulSet are found so, by `kubernetes_dns_srv(service, namespace)`.
"""

import sys
from typing import cast

import dns.message
import dns.rrset
import trio
from dns.asyncresolver import Resolver
from dns.nameserver import Do53Nameserver

from barnacle_trio import ASK, Barnacle, NodeName, dns_srv, open_barnacle, open_node

COOKIE = "my_cookie"


async def main(query: str) -> None:
    async with (
        open_node("my_app@localhost", cookie=COOKIE) as node,
        open_barnacle(dns_srv(query, basename=ASK), node) as barnacle,
    ):
        print("up:", *sorted(await barnacle.wait_for_nodes(1)))


async def main_by_itself() -> None:
    async with trio.open_nursery() as nursery:
        port: int = await nursery.start(serve_target, "_app._tcp.my-app.internal.", "localhost.")
        resolver = Resolver(configure=False)
        resolver.nameservers = [Do53Nameserver("127.0.0.1", port)]
        strategy = dns_srv("_app._tcp.my-app.internal.", basename=ASK, resolver=resolver)
        async with (
            open_node("my_app@localhost", cookie=COOKIE) as node,
            open_node("friend@localhost", cookie=COOKIE),
            open_barnacle(strategy, node, poll_interval=0.5) as barnacle,
        ):
            async with open_node("shop-01JAB3@localhost", cookie=COOKIE):
                await show(barnacle, "shop-01JAB3@localhost")
            print("a new release")
            async with open_node("shop-01JAB4@localhost", cookie=COOKIE):
                await show(barnacle, "shop-01JAB4@localhost")
        nursery.cancel_scope.cancel("the show is over")


async def show(barnacle: Barnacle, newcomer: str) -> None:
    wanted = {NodeName("friend@localhost"), NodeName(newcomer)}
    nodes = await barnacle.nodes.wait_value(lambda nodes: nodes == wanted)
    print("up:", *sorted(nodes))


async def serve_target(
    name: str, target: str, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer for the SRV records of one name over UDP."""
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        task_status.started(sock.getsockname()[1])
        while True:
            data, address = await sock.recvfrom(512)
            query = cast("dns.message.QueryMessage", dns.message.from_wire(data))
            answer = dns.message.make_response(query)
            answer.answer.append(dns.rrset.from_text(name, 1, "IN", "SRV", f"0 0 4369 {target}"))
            await sock.sendto(answer.to_wire(), address)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        trio.run(main, sys.argv[1])
    else:
        trio.run(main_by_itself)
