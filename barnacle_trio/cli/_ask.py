"""``barnacle names``, ``discover`` and ``epmd``: ask a port mapper, ask a strategy, be asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial

import trio

from barnacle_trio import NodeName
from barnacle_trio._strategy import Discovery, ServedStrategy, Strategy, asked_by_nobody
from barnacle_trio._strategy import discover as ask
from barnacle_trio.cli._edge import OK, PARTIAL, Failed, one_line
from barnacle_trio.cli._output import write_line
from barnacle_trio.epmd import names, serve_epmd
from barnacle_trio.epmd._client import mapper_port


async def list_names(host: str, port: int | None, *, as_json: bool) -> int:
    """Print the names that a port mapper knows, in their order.

    Raises:
      PeerUnreachable: no port mapper answers there.
      RemoteProtocolError: what answers is none.
    """
    registered = await names(host, port)
    width = max(map(len, registered), default=0)
    for name, node_port in sorted(registered.items()):
        if as_json:
            await write_line(json.dumps({"name": name, "port": node_port}))
        else:
            await write_line(f"{one_line(name):{width}}  {node_port}")
    if not registered and not as_json:
        print("no names are registered", file=sys.stderr)
    return OK


async def discover(strategy: Strategy, local: NodeName, *, patience: float, as_json: bool) -> int:
    """Print what a strategy answers; `PARTIAL` where it does not know all.

    Raises:
      Failed: it failed, or gave no answer within ``patience`` seconds.
    """
    try:
        with trio.fail_after(patience):
            answer = await _ask_served(strategy, local)
    except trio.TooSlowError as error:
        raise Failed(f"discovery failed: no answer within {patience:g} s") from error
    if answer.kind == "failed":
        raise Failed(f"discovery failed: {answer.error}")
    for node in sorted(answer.nodes):
        await write_line(json.dumps({"node": node}) if as_json else node)
    for name, reason in answer.rejected.items():
        _warn(f"{name} was left out: {reason}")
    if answer.error is not None:
        _warn(f"this is not all: {answer.error}")
        return PARTIAL
    return OK


async def _ask_served(strategy: Strategy, local: NodeName) -> Discovery:
    if not isinstance(strategy, ServedStrategy):
        return await ask(strategy, local)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(strategy.serve, local, changed=asked_by_nobody))
        answer = await ask(strategy, local)
        nursery.cancel_scope.cancel("one answer was wanted")
    return answer


async def be_port_mapper(addresses: Sequence[str], port: int | None, *, leave: trio.Event) -> int:
    """Serve a port mapper until ``leave`` is set.

    Raises:
      Failed: the port or an address cannot be listened at.
      ConfigurationError: they are none.
    """
    wanted = 0 if port == 0 else mapper_port(port)
    async with trio.open_nursery() as nursery:
        try:
            actual = await nursery.start(
                partial(serve_epmd, addresses=addresses, port=port), name="port mapper"
            )
        except OSError as error:
            raise Failed(
                f"port {wanted} cannot be served: {error.strerror or error}; "
                "does another port mapper run?"
            ) from error
        where = ", ".join(["loopback", *addresses])
        await write_line(f"port mapper on port {actual}: {where}")
        await leave.wait()
        nursery.cancel_scope.cancel("it was asked to leave")
    return OK


def _warn(text: str) -> None:
    print(f"barnacle: {one_line(text)}", file=sys.stderr)
