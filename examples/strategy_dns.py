"""Find nodes by the addresses of a DNS name, as a headless service or a private network gives them.

    $ python examples/strategy_dns.py
    up: friend@127.0.0.1
    the name servers are silent: nobody is disconnected
    up: friend@127.0.0.1

Without arguments it asks a small server of its own. With a name (and a base name) it asks yours:

    python examples/strategy_dns.py my-app.internal friend
"""

import sys
from functools import partial
from typing import cast

import dns.message
import dns.rrset
import trio
from dns.asyncresolver import Resolver
from dns.nameserver import Do53Nameserver

from barnacle_trio import RefreshFailed, open_barnacle, open_node, strategies


async def main(query: str, basename: str) -> None:
    async with (
        open_node("my_app@127.0.0.1", cookie="my_cookie") as node,
        open_barnacle(strategies.dns(query, basename=basename), node) as barnacle,
    ):
        print("up:", *sorted(await barnacle.wait_for_nodes(1)))


async def main_by_itself() -> None:
    zone = {"my-app.internal.": ["127.0.0.1"]}
    async with trio.open_nursery() as nursery:
        port: int = await nursery.start(serve_zone, zone)
        resolver = Resolver(configure=False)
        resolver.nameservers = [Do53Nameserver("127.0.0.1", port)]
        strategy = strategies.dns(
            "my-app.internal.", basename="friend", records=["A"], resolver=resolver, timeout=0.5
        )
        async with (
            open_node("my_app@127.0.0.1", cookie="my_cookie") as node,
            open_node("friend@127.0.0.1", cookie="my_cookie"),
            open_barnacle(strategy, node, poll_interval=1, prune_after=1) as barnacle,
        ):
            print("up:", *await barnacle.wait_for_nodes(1))
            zone.clear()  # the server answers no more
            with barnacle.open_listener() as events:
                async for event in events:
                    if isinstance(event, RefreshFailed):
                        break
            print("the name servers are silent: nobody is disconnected")
            print("up:", *barnacle.nodes.value)
        nursery.cancel_scope.cancel("the show is over")


async def serve_zone(
    zone: dict[str, list[str]], *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer for A records over UDP; say nothing about names that are not in the zone."""
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        task_status.started(sock.getsockname()[1])
        while True:
            data, address = await sock.recvfrom(512)
            query = cast("dns.message.QueryMessage", dns.message.from_wire(data))
            name = query.question[0].name
            if addresses := zone.get(name.to_text()):
                answer = dns.message.make_response(query)
                answer.answer.append(dns.rrset.from_text_list(name, 1, "IN", "A", addresses))
                await sock.sendto(answer.to_wire(), address)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        trio.run(partial(main, sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "my_app"))
    else:
        trio.run(main_by_itself)
