"""Run inside network namespaces: a machine of the fly_io example, and one with BEAM nodes.

Fly.io's own DNS cannot run here: a dnsmasq at its address serves the same names.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import trio

from barnacle_trio.strategies import _lookup
from tests.beam import COOKIE, open_beam
from tests.dns_server import open_dns_server
from tests.erlang import ERLANGS

DNS = "fdaa::3"
EXAMPLE = Path(__file__).parent.parent / "examples" / "fly_io" / "main.py"


async def example(folder: Path, snake: str, shop: str) -> None:
    """The example, with the DNS that every machine there finds in its resolv.conf."""
    resolv_conf = folder / "resolv.conf"
    resolv_conf.write_text(f"nameserver {DNS}\n")
    _lookup.RESOLV_CONF = str(resolv_conf)
    async with open_dns_server(folder, zones=["internal"], host=DNS, port=53) as server:
        await server.set_records("my-snake.internal", snake)
        await server.set_records("my-shop.internal", shop)
        await runpy.run_path(str(EXAMPLE))["main"]()


async def beams(snake: str, shop: str) -> None:
    """A release that is deployed twice, each time under another name, on each runtime there is."""
    for image, erlang in enumerate(ERLANGS):
        name = f"my-shop-01JAB{image}@{shop}"
        flags = ("-proto_dist", "inet6_tcp")
        async with open_beam(erlang, name, cookie=COOKIE, flags=flags, epmd=True) as beam:
            with trio.fail_after(30):
                while await beam.eval("nodes()") != f"['my-snake@{snake}']":  # noqa: ASYNC110
                    await trio.sleep(0.05)
        print(f"met {name}", flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["example", folder, ours, theirs]:
            trio.run(example, Path(folder), ours, theirs)
        case ["beams", ours, theirs]:
            trio.run(beams, ours, theirs)
