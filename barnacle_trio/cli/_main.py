"""What the command line takes, and which command does it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import trio
from cyclopts import App, Parameter

from barnacle_trio import ConfigurationError, NodeName
from barnacle_trio._rules import Prune
from barnacle_trio.cli._ask import be_port_mapper, list_names
from barnacle_trio.cli._ask import discover as ask_strategy
from barnacle_trio.cli._doctor import Doctor
from barnacle_trio.cli._edge import BROKEN_PIPE, BUG, OK, judge
from barnacle_trio.cli._logging import set_up_logging
from barnacle_trio.cli._node import CookieOptions, NodeOptions, TlsFiles, checked_name
from barnacle_trio.cli._ping import ping as ask_node
from barnacle_trio.cli._signals import run_until_signal
from barnacle_trio.cli._stay import Stay
from barnacle_trio.cli._words import KINDS, parse_words

_NOBODY = NodeName("barnacle@127.0.0.1")

_STRATEGIES = "\n".join(
    [
        "How nodes are discovered, one or several STRATEGY (several are asked at once):\n",
        *(f"- `{kind.form}`: {kind.meaning}" for kind in KINDS.values()),
    ]
)
_RUN_HELP = f"""{_STRATEGIES}

Examples:

```
barnacle run --name a@127.0.0.1 local-epmd
barnacle run --name b@127.0.0.1 --json epmd:a@127.0.0.1,b@127.0.0.1
barnacle run --name my_app@10.0.0.7 --cookie-file /run/cookie dns:my-app.internal
ERL_FLAGS="-name c@127.0.0.1 -setcookie s3cret" barnacle run local-epmd
```

SIGTERM and Ctrl-C leave the cluster well and end with exit code 0; a second one hurries."""

_DISCOVER_HELP = f"""{_STRATEGIES}

Examples:

```
barnacle discover local-epmd
barnacle discover dns:my_app@my-app.internal --fallback epmd:my_app@10.0.0.7
```

Exit codes: 0 the answer is complete, 3 it is partial, 1 discovery failed."""

_DOCTOR_HELP = """The steps: name, host, port mapper, registration, port, TLS (if certificates are
given), handshake, version, cookie, answer. They are taken as a hidden node that dials; that the
other one can dial this machine is not tested, and not needed: one direction is enough.

Exit codes: 0 nothing stands in the way (there may be warnings), 1 a step failed."""

_HELP_END = """Exit codes: 0 done, 1 it did not come about, 2 the call is wrong, 3 a partial answer,
130 Ctrl-C. What went wrong is one line on standard error."""

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
Words = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)]
Verbose = Annotated[int, Parameter(alias="-v", count=True, show_default=False)]
Seconds = Annotated[float, Parameter()]

app = App(
    name="barnacle",
    help="Keep the nodes of a cluster connected, over Distributed Erlang.",
    help_epilogue=_HELP_END,
    help_format="markdown",
    version=lambda: version("barnacle-trio"),
    backend="trio",
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
)


@app.command
async def demo(*, plain: Flag = False) -> int:
    """Watch a cluster of three processes lose a node and mend. Takes less than 30 seconds.

    It stays on loopback, uses a port mapper of its own and leaves nothing behind. The exit code
    is 0 if the cluster healed each time.

    Args:
      plain: no colours, no control characters.
    """
    from barnacle_trio.cli._demo import show  # with rich, which the other commands do without

    set_up_logging(0, stays=False)
    return await run_until_signal(partial(show, plain=plain))


@app.command(help_epilogue=_RUN_HELP)
async def run(
    *strategy: str,
    node: NodeOptions | None = None,
    cookie: CookieOptions | None = None,
    tls: TlsFiles | None = None,
    match: Words = (),
    fallback: Words = (),
    remember: Annotated[Path | None, Parameter(show_default=False)] = None,
    poll_interval: Seconds = 5.0,
    prune: Prune = "discovered",
    prune_after: Seconds = 60.0,
    json: Flag = False,
    until_eof: Flag = False,
    verbose: Verbose = 0,
) -> int:
    """Join a cluster, stay in it and print what happens, one line for each event.

    Args:
      strategy: how nodes are discovered, see below.
      node: how this process is a node.
      cookie: where the cookie comes from.
      tls: certificates, for a cluster inside TLS.
      match: a glob that nodes must match, e.g. "my_app@*"; of several, one.
      fallback: a strategy that is asked only when those before cannot answer.
      remember: a file in which the nodes are kept, for a start while discovery is down.
      poll_interval: seconds from one round to the next.
      prune: whom to disconnect when discovery no longer names them.
      prune_after: seconds for which a node must be missing before that.
      json: print one object a line: type, barnacle, time, at (seconds), node, reason and so on.
      until_eof: leave when standard input ends, so as not to outlive the program that holds it.
      verbose: tell on standard error what is done; -vv each step of it.
    """
    set_up_logging(verbose, stays=True, shows_events=not json)
    leave = trio.Event()
    stay = Stay(
        strategy=parse_words(strategy, fallbacks=fallback, match=match, memory=remember).strategy,
        node=node or NodeOptions(),
        cookie=cookie or CookieOptions(),
        tls=(tls or TlsFiles()).options(),
        poll_interval=poll_interval,
        prune=prune,
        prune_after=prune_after,
        as_json=json,
        until_eof=until_eof,
        leave=leave,
    )
    return await run_until_signal(stay.run, leave=leave)


@app.command
async def ping(
    node: str,
    /,
    *,
    cookie: CookieOptions | None = None,
    tls: TlsFiles | None = None,
    fixed_port: Annotated[int | None, Parameter(show_default=False)] = None,
    timeout: Seconds = 5.0,  # noqa: ASYNC109 - an option of the command
    verbose: Verbose = 0,
) -> int:
    """Ask a node for a sign of life, as a hidden node that nobody else hears of.

    Exit codes: 0 pong, 1 pang (the line says why).

    Args:
      node: the node's name, basename@host.
      cookie: where the cookie comes from.
      tls: certificates, for a cluster inside TLS.
      fixed_port: the port that it listens on, where there is no port mapper.
      timeout: seconds to connect, and again to answer.
      verbose: tell on standard error what is done; -vv each step of it.
    """
    set_up_logging(verbose, stays=False)
    peer = checked_name(node)
    secret = await (cookie or CookieOptions()).read()
    return await run_until_signal(
        partial(
            ask_node,
            peer,
            cookie=secret,
            tls=(tls or TlsFiles()).options(),
            fixed_port=fixed_port,
            patience=timeout,
        )
    )


@app.command(help_epilogue=_DOCTOR_HELP)
async def doctor(
    node: str,
    /,
    *,
    name: Annotated[str | None, Parameter(show_default=False)] = None,
    cookie: CookieOptions | None = None,
    tls: TlsFiles | None = None,
    fixed_port: Annotated[int | None, Parameter(show_default=False)] = None,
    timeout: Seconds = 5.0,  # noqa: ASYNC109 - an option of the command
    json: Flag = False,
    verbose: Verbose = 0,
) -> int:
    """Find out why a node cannot be met from here, step by step, and what to do about it.

    Args:
      node: the node's name, basename@host.
      name: what the node here is called, or would be; it is compared with the other's name.
      cookie: where the cookie comes from.
      tls: certificates, for a cluster inside TLS.
      fixed_port: the port that it listens on, where there is no port mapper.
      timeout: seconds for each question.
      json: print one object a line: step, state (ok, warning, failed), found, advice.
      verbose: tell on standard error what is done; -vv each step of it.
    """
    set_up_logging(verbose, stays=False)
    examination = Doctor(
        peer=checked_name(node),
        own=None if name is None else checked_name(name),
        cookie=await (cookie or CookieOptions()).read(),
        tls=(tls or TlsFiles()).options(),
        fixed_port=fixed_port,
        patience=timeout,
        as_json=json,
    )
    return await run_until_signal(examination.examine)


@app.command
async def names(
    host: str = "localhost",
    /,
    *,
    port: Annotated[int | None, Parameter(show_default=False)] = None,
    json: Flag = False,
    verbose: Verbose = 0,
) -> int:
    """List the nodes that a port mapper knows, with the ports they listen on.

    Args:
      host: where the port mapper runs.
      port: the port mapper's; by default ERL_EPMD_PORT or 4369.
      json: print one object a line: name, port.
      verbose: tell on standard error what is done; -vv each step of it.
    """
    set_up_logging(verbose, stays=False)
    return await run_until_signal(partial(list_names, host, port, as_json=json))


@app.command(help_epilogue=_DISCOVER_HELP)
async def discover(
    *strategy: str,
    name: Annotated[str | None, Parameter(show_default=False)] = None,
    match: Words = (),
    fallback: Words = (),
    timeout: Seconds = 10.0,  # noqa: ASYNC109 - an option of the command
    json: Flag = False,
    verbose: Verbose = 0,
) -> int:
    """Ask a strategy once and print the nodes that it names. Nobody is connected.

    Args:
      strategy: how nodes are discovered, see below.
      name: ask as this node would, whose host names what local-epmd lists, and whose base name what
        dns finds.
      match: a glob that nodes must match, e.g. "my_app@*"; of several, one.
      fallback: a strategy that is asked only when those before cannot answer.
      timeout: seconds to wait for the answer.
      json: print one object a line: node.
      verbose: tell on standard error what is done; -vv each step of it.
    """
    set_up_logging(verbose, stays=False)
    chosen = parse_words(strategy, fallbacks=fallback, match=match)
    if name is None and chosen.by_own_name:
        raise ConfigurationError(
            f"{chosen.by_own_name[0]} takes its base name from the node that asks: "
            "give --name, or choose in the word, as in dns:BASENAME@QUERY or gossip:match=GLOB"
        )
    local = _NOBODY if name is None else checked_name(name)
    return await run_until_signal(
        partial(ask_strategy, chosen.strategy, local, patience=timeout, as_json=json)
    )


@app.command
async def epmd(
    *,
    port: Annotated[int | None, Parameter(show_default=False)] = None,
    address: Words = (),
    verbose: Verbose = 0,
) -> int:
    """Be a port mapper, in the place of Erlang's epmd, until SIGTERM or Ctrl-C.

    Args:
      port: by default ERL_EPMD_PORT or 4369; 0 is any.
      address: a literal address to answer look-ups at besides loopback; 0.0.0.0 and :: are all.
        May be given repeatedly.
      verbose: tell on standard error what is done; -vv each step of it.
    """
    set_up_logging(verbose, stays=True)
    leave = trio.Event()
    return await run_until_signal(partial(be_port_mapper, address, port, leave=leave), leave=leave)


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. Nothing is raised, whatever happens."""
    try:
        code = app(list(arguments))
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt, SystemExit, BaseExceptionGroup) as error:
        return _conclude(error)
    return code if isinstance(code, int) else OK


def _conclude(error: BaseException) -> int:
    code, line = judge(error)
    if code == BUG:
        logging.getLogger("barnacle_trio.cli").info("the traceback", exc_info=error)
        line = f"{line} (-v shows where)"
    try:
        if line is not None:
            print(f"barnacle: {line}", file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody listens
    if code == BROKEN_PIPE:
        # The interpreter flushes once more on its way out, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
