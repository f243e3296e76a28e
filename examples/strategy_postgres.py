"""Find nodes by heartbeats in a PostgreSQL database, beside Elixir's libcluster_postgres too.

    $ python examples/strategy_postgres.py "postgresql://my_user@localhost/my_app"
    up: friend@127.0.0.1
    friend@127.0.0.1 said goodbye

Without an argument, the connection is what libpq's environment says: PGHOST, PGUSER, PGDATABASE and
so on. The password is best kept in PGPASSWORD or in ~/.pgpass. To meet Elixir nodes, give the
channel that they use (``channel_name:``) as a second argument.
"""

import sys

import trio

from barnacle_trio import NodeDown, open_barnacle, open_node, postgres


async def main(dsn: str, channel: str) -> None:
    async with (
        open_node("my_app@127.0.0.1", cookie="my_cookie") as node,
        open_node("friend@127.0.0.1", cookie="my_cookie") as friend,
        open_barnacle(postgres(dsn, channel=channel), node) as barnacle,
        open_barnacle(postgres(dsn, channel=channel), friend) as friends,
    ):
        print("up:", *await barnacle.wait_for_nodes(1))
        with barnacle.open_listener() as events:
            await friends.drain(grace=1)
            async for event in events:
                if isinstance(event, NodeDown) and event.reason == "left":
                    print(event.node, "said goodbye")
                    break


if __name__ == "__main__":
    given = sys.argv[1:]
    trio.run(main, given[0] if given else "", given[1] if len(given) > 1 else "barnacle")
