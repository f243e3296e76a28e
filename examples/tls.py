"""Two nodes inside TLS, with certificates that both verify.

Take real ones from your own authority, or make some to try it with (`pip install trustme`):

    $ python -m trustme -q -i 127.0.0.1
    $ python examples/tls.py
    up: friend@127.0.0.1

An Erlang node joins with ``-proto_dist inet_tls -ssl_dist_optfile FILE``.
"""

import sys
from pathlib import Path

import trio

from barnacle_trio import TlsOptions, epmd, open_barnacle, open_node


async def main(folder: Path) -> None:
    tls = TlsOptions(folder / "server.pem", folder / "server.key", ca=folder / "client.pem")
    async with (
        open_node("my_app@127.0.0.1", cookie="my_cookie", tls=tls) as node,
        open_node("friend@127.0.0.1", cookie="my_cookie", tls=tls) as friend,
        open_barnacle(epmd([friend.name]), node) as barnacle,
    ):
        print("up:", *await barnacle.wait_for_nodes(1))


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1] if len(sys.argv) > 1 else "."))
