"""The ways to run a barnacle: opened, served, once, or as a supervised child."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypedDict, Unpack

import trio

from barnacle_trio._barnacle import Barnacle
from barnacle_trio._engine import Engine
from barnacle_trio._errors import BarnacleCrashed
from barnacle_trio._events import RefreshResult
from barnacle_trio._names import NodeName
from barnacle_trio._options import (
    ListenerOption,
    Options,
    check_options,
    check_strategy,
    check_transport,
)
from barnacle_trio._rules import Prune
from barnacle_trio._scopes import open_background
from barnacle_trio._service import keep_serving
from barnacle_trio._strategy import ServedStrategy, Strategy, asked_once
from barnacle_trio._supervisor import ChildSpec, Restart, RestartPolicy
from barnacle_trio._transport import Transport

_FOREVER = RestartPolicy()


class OnceOptions(TypedDict, total=False):
    """The options of one round; see `open_barnacle`."""

    max_prune: float
    discovery_timeout: float
    dial_timeout: float
    max_dials: int


class BarnacleOptions(OnceOptions, total=False):
    """The options of a barnacle but its name; see `open_barnacle`."""

    registered_name: str | None
    poll_interval: float
    listener: ListenerOption
    prune: Prune
    prune_after: float
    restart_policy: RestartPolicy


def open_barnacle(
    strategy: Strategy,
    transport: Transport,
    *,
    name: str = "barnacle",
    registered_name: str | None = None,
    poll_interval: float = 5.0,
    listener: ListenerOption = None,
    prune: Prune = "discovered",
    prune_after: float = 60.0,
    max_prune: float = 0.5,
    discovery_timeout: float = 10.0,
    dial_timeout: float = 7.0,
    max_dials: int = 64,
    restart_policy: RestartPolicy = _FOREVER,
) -> AbstractAsyncContextManager[Barnacle]:
    """Keep nodes connected while the block runs.

    ``async with open_barnacle(local_epmd(), node) as barnacle: ...``

    Entering does not wait for a round: see `Barnacle.wait_for_nodes`. What the block raises comes
    out plain. A failing strategy, transport or peer never ends the block, unless a
    ``restart_policy`` with a bound says so. Leaving it, by cancellation too, ends the barnacle;
    connections belong to the transport and stay.

    Args:
      strategy: how nodes are discovered: ``async (local name) -> names``.
      transport: how they are connected, e.g. a `Node`.
      name: for events, logs and tasks.
      registered_name: also be a process of the node under this name, which answers
        ``GenServer.call``.
      poll_interval: seconds from the start of one round to the start of the next.
      listener: the send end of a memory channel with a buffer, or several; each is cloned, and only
        the clone is ever closed. Events that find no room are dropped and counted.
      prune: whom to disconnect when discovery does not name them any more: ``"discovered"``, nodes
        that it once named; ``"all"``, every visible one; ``"never"``.
      prune_after: seconds for which, and at least two complete answers in which, a node is missing
        before it is disconnected. As long is a lost one dialled that is not named any more.
      max_prune: the share (0 to 1) of the nodes that may be pruned within ``prune_after``.
      discovery_timeout: seconds for one answer of the strategy.
      dial_timeout: seconds for each call of the transport.
      max_dials: dials under way at once. Where more are due, one that has met silence for a second
        gives way to a peer that was not dialled yet, and is dialled again after it.
      restart_policy: how many crashes of the poller (bugs in a strategy) are borne.

    Raises:
      ConfigurationError: an option, the strategy or the transport cannot work; raised at the call,
        but for a ``registered_name`` that is taken, which entering tells.
      BarnacleCrashed: on leaving: there were more crashes than ``restart_policy`` bears. The block
        was cancelled; the last crash is the cause, or a group of it and the block's own error.
    """
    check_strategy(strategy)
    local = check_transport(transport, registered_name)
    options = check_options(
        name=name,
        registered_name=registered_name,
        poll_interval=poll_interval,
        listener=listener,
        prune=prune,
        prune_after=prune_after,
        max_prune=max_prune,
        discovery_timeout=discovery_timeout,
        dial_timeout=dial_timeout,
        max_dials=max_dials,
        restart_policy=restart_policy,
    )
    return _open(strategy, transport, local, options)


@asynccontextmanager
async def _open(
    strategy: Strategy, transport: Transport, local: NodeName, options: Options
) -> AsyncIterator[Barnacle]:
    # `open_background` with one difference: the barnacle's own `BarnacleCrashed` is not put into
    # another one
    raised: BaseException | None = None
    crash: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                barnacle = Barnacle(strategy, transport, local, options)
                started = trio.Event()
                nursery.start_soon(barnacle.run, started.set)
                await started.wait()
                yield barnacle
            except BaseException as error:  # noqa: ASYNC103  # raised again below
                raised = error
            finally:
                nursery.cancel_scope.cancel("leaving open_barnacle")
    except BaseExceptionGroup as faults:
        if faults.split((KeyboardInterrupt, SystemExit))[0] is not None:
            raise
        failed = faults.split(trio.Cancelled)[1]
        if failed is not None:
            crash = failed.exceptions[0]
    if crash is not None:
        if raised is None or isinstance(raised, trio.Cancelled):
            raise crash
        raise BarnacleCrashed(str(crash)) from BaseExceptionGroup("faults", [crash, raised])
    if raised is not None:
        raise raised


async def serve_barnacle(
    strategy: Strategy,
    transport: Transport,
    *,
    name: str = "barnacle",
    task_status: trio.TaskStatus[Barnacle] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[BarnacleOptions],
) -> None:
    """Keep nodes connected until cancelled or shut down: `open_barnacle` for one's own nursery.

    ``await nursery.start(partial(serve_barnacle, strategy, transport))`` gives the `Barnacle`. The
    options are those of `open_barnacle`.

    Raises:
      ConfigurationError: an option, the strategy or the transport cannot work.
      BarnacleCrashed: there were more crashes than ``restart_policy`` bears.
    """
    check_strategy(strategy)
    local = check_transport(transport, options.get("registered_name"))
    checked = check_options(name=name, **options)
    barnacle = Barnacle(strategy, transport, local, checked)
    await barnacle.run(lambda: task_status.started(barnacle))


async def run_once(
    strategy: Strategy,
    transport: Transport,
    *,
    prune: Prune = "never",
    **options: Unpack[OnceOptions],
) -> RefreshResult:
    """Discover and connect once, without polling; waits for the dials.

    It has no memory of former answers: ``prune="all"`` disconnects at once every visible node that
    is not named (at most the share ``max_prune``), ``"discovered"`` nobody. A strategy's background
    task runs meanwhile. If cancelled, dials under way are cancelled.

    Raises:
      ConfigurationError: an option, the strategy or the transport cannot work.
      DiscoveryError: discovery failed (not when the answer was merely partial).
      Exception: a bug in the strategy.
    """
    check_strategy(strategy)
    local = check_transport(transport)
    checked = check_options(name="run_once", prune=prune, prune_after=0.0, **options)
    engine = Engine(strategy, transport, local, checked, once=True)
    ready = trio.Event()
    with engine.attached():
        async with open_background("run_once", BarnacleCrashed) as nursery:
            if isinstance(strategy, ServedStrategy):
                nursery.start_soon(
                    partial(
                        keep_serving, strategy, local, checked, changed=asked_once, ready=ready.set
                    )
                )
                await ready.wait()
            nursery.start_soon(engine.dialler.run)
            done = await engine.round(force=True)
            await engine.dialler.expect(done.dials).over.wait()
            return engine.report(done)


def barnacle_child(
    strategy: Strategy,
    transport: Transport,
    *,
    name: str = "barnacle",
    on_start: Callable[[Barnacle], object] | None = None,
    restart: Restart = "transient",
    **options: Unpack[BarnacleOptions],
) -> ChildSpec:
    """A barnacle as a child of `supervise`. The options are those of `open_barnacle`.

    Args:
      strategy: how nodes are discovered.
      transport: how they are connected.
      name: the barnacle's and the child's.
      on_start: called with the `Barnacle` after each start.
      restart: by default it is started again after a crash, but not after `Barnacle.shutdown`.
      options: see `open_barnacle`.

    Raises:
      ConfigurationError: an option, the strategy or the transport cannot work.
    """
    check_strategy(strategy)
    check_transport(transport, options.get("registered_name"))
    checked = check_options(name=name, **options)
    options["listener"] = checked.listeners  # what was given may be an iterator, now used up
    run = partial(serve_barnacle, strategy, transport, name=name, **options)
    return ChildSpec(name, run, restart=restart, on_start=on_start)
