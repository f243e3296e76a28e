"""Find nodes by heartbeats in a PostgreSQL database, beside Elixir's libcluster_postgres too.

    $ python examples/strategy_postgres.py "postgresql://my_user@localhost/my_app"
    up: friend@127.0.0.1
    left: friend@127.0.0.1

Without an argument, the connection is what libpq's environment says: PGHOST, PGUSER, PGDATABASE and
so on. The password is best kept in PGPASSWORD or in ~/.pgpass. To meet Elixir nodes, give the
channel that they use (``channel_name:``) as a second argument.
"""

import sys

import trio

from barnacle_trio import Barnacle, NodeDown, open_barnacle, open_node, postgres


async def main(dsn: str, channel: str) -> None:
    async with (
        open_node("my_app@127.0.0.1", cookie="my_cookie") as node,
        open_barnacle(postgres(dsn, channel=channel), node) as barnacle,
    ):
        with barnacle.open_listener() as events:
            await be_a_friend(dsn, channel, barnacle)
            async for event in events:
                if isinstance(event, NodeDown):
                    print(f"{event.reason}: {event.node}")
                    break


async def be_a_friend(dsn: str, channel: str, barnacle: Barnacle) -> None:
    async with (
        open_node("friend@127.0.0.1", cookie="my_cookie") as node,
        open_barnacle(postgres(dsn, channel=channel), node) as own,
    ):
        print("up:", *await barnacle.wait_for_nodes(1))
        await own.drain(grace=1)  # says goodbye in the database, too


if __name__ == "__main__":
    given = sys.argv[1:]
    trio.run(main, given[0] if given else "", given[1] if len(given) > 1 else "barnacle")
