"""Run inside a network namespace: a node of ours and a BEAM node at two IPv6 addresses."""

from __future__ import annotations

import sys

import trio

from barnacle_trio import open_node
from tests.beam import COOKIE, open_beam
from tests.cluster_lab import sees
from tests.erlang import ERLANGS


async def main(ours: str, theirs: str) -> None:
    """Connect both ways, on each runtime there is."""
    for erlang in ERLANGS:
        name, beam_name = f"py@{ours}", f"beam@{theirs}"
        async with (
            open_node(name, cookie=COOKIE) as node,
            open_beam(erlang, beam_name, flags=("-proto_dist", "inet6_tcp")) as beam,
        ):
            assert await beam.eval(f"net_adm:ping('{name}')") == "pong"
            assert node.nodes.value == {beam_name}
            assert await beam.eval(f"erlang:disconnect_node('{name}')") == "true"
            await node.nodes.wait_value(frozenset())
            await node.connect(beam_name)
            await sees(beam, name)
        print(f"OTP {erlang.version}: met")


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
