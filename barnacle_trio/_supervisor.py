"""Supervision: tasks that are started again when they crash, with an intensity."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import trio

from barnacle_trio._errors import BarnacleCrashed, ConfigurationError
from barnacle_trio._names import shorten, show
from barnacle_trio._scopes import users_code

logger = logging.getLogger("barnacle_trio.supervisor")

FIRST_DELAY = 0.1
LAST_DELAY = 5.0

Restart = Literal["permanent", "transient", "temporary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How many crashes are too many, as an OTP supervisor counts them ("supervisor", intensity).

    ``max_restarts``: so many within ``within`` seconds are borne, one more is not. None never
    gives up.

    Raises:
      ConfigurationError: a negative number.
    """

    max_restarts: int | None = None
    within: float = 5.0

    def __post_init__(self) -> None:
        if self.max_restarts is not None and not is_count(self.max_restarts, least=0):
            raise ConfigurationError(
                f"max_restarts is None or an int of at least 0, not {show(self.max_restarts)}"
            )
        if not self.within > 0:
            raise ConfigurationError(
                f"within is a number of seconds, more than 0, not {show(self.within)}"
            )


def is_count(value: object, *, least: int) -> bool:
    """Whether something is an `int` (no `bool`) of at least so much."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


class Intensity:
    """Counts crashes against a policy. The clock's reading is given."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._crashes: deque[float] = deque()
        self._in_a_row = 0

    def crashed(self, now: float) -> bool:
        """Count a crash. True: it is one too many."""
        self._in_a_row += 1
        if self._policy.max_restarts is None:
            return False
        self._crashes.append(now)
        while now - self._crashes[0] > self._policy.within:
            self._crashes.popleft()
        return len(self._crashes) > self._policy.max_restarts

    def delay(self, most: float) -> float:
        """How long (seconds) to wait before the next start: 0.1 doubling up to ``most``."""
        return float(min(most, FIRST_DELAY * 2 ** min(max(self._in_a_row - 1, 0), 30)))

    def recovered(self) -> None:
        """Forget the crashes: it went well."""
        self._crashes.clear()
        self._in_a_row = 0


class Run(Protocol):
    """What a child runs."""

    def __call__(self, *, task_status: trio.TaskStatus[Any]) -> Awaitable[object]:
        """Call ``task_status.started(value)`` once, when at work, and then work."""
        ...


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A task to keep alive, and how.

    Args:
      name: for logs, errors and the task's name.
      run: ``async (*, task_status)``, which calls ``task_status.started(value)`` when it is at
        work.
      restart: ``"permanent"`` starts it again however it ended, ``"transient"`` only when it
        raised, ``"temporary"`` never.
      on_start: called with the value after each start, e.g. to learn of the new object. What it
        raises counts as a crash of the child.
    """

    name: str
    run: Run
    restart: Restart = "permanent"
    on_start: Callable[[Any], object] | None = None

    def __post_init__(self) -> None:
        if not callable(self.run):
            raise ConfigurationError(
                f"run of the child {shorten(self.name)} is an async function, not {show(self.run)}"
            )
        if self.restart not in ("permanent", "transient", "temporary"):
            raise ConfigurationError(
                f"restart is 'permanent', 'transient' or 'temporary', not {show(self.restart)}"
            )


_DEFAULT_POLICY = RestartPolicy(max_restarts=3, within=5.0)


async def supervise(
    *children: ChildSpec,
    restart_policy: RestartPolicy = _DEFAULT_POLICY,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep tasks alive, one for one: each is started again alone, the others go on.

    The children are started in order, each after the one before is at work; then
    ``task_status.started()`` is called. It returns when every child has ended for good.

    Args:
      children: what to run.
      restart_policy: how many restarts, of all children together, are borne. A child that is
        restarted is so at once; without a bound (``max_restarts=None``) after 0.1 s doubling to
        5 s, until it has stayed up for ``within``.
      task_status: for `trio.Nursery.start`.

    Raises:
      BarnacleCrashed: there were more crashes than the policy bears; the last one is the cause. All
        children were cancelled.
      Exception: what a child raised before its first start was done.
    """
    if not children:
        raise ConfigurationError("supervise() needs a child")
    supervisor = _Supervisor(restart_policy)
    async with trio.open_nursery() as nursery:
        supervisor.scope = nursery.cancel_scope
        for child in children:
            await nursery.start(supervisor.keep, child, name=f"supervise[{child.name}]")
            if supervisor.failure is not None:
                break
        else:
            task_status.started()
    if supervisor.failure is not None:
        raise supervisor.failure


class _Supervisor:
    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._intensity = Intensity(policy)
        self.scope = trio.CancelScope()
        self.failure: Exception | None = None

    async def keep(
        self, child: ChildSpec, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run a child as often as it takes."""
        delays = Intensity(RestartPolicy())
        announce = _Once(lambda: task_status.started())
        while True:
            since = trio.current_time()
            outcome = _Outcome()
            await self._run(child, outcome, announce)
            now = trio.current_time()
            error = outcome.error
            if error is not None and not outcome.started and not announce.done:
                self._give_up(error)  # the first start of all: the caller's to know
                announce()
                return
            announce()
            if child.restart == "temporary" or (error is None and child.restart == "transient"):
                if error is not None:
                    logger.error("[%s] crashed, and stays down", child.name, exc_info=error)
                return
            if now - since > self._policy.within:
                delays.recovered()
            delays.crashed(now)
            if self._intensity.crashed(now):
                crash = BarnacleCrashed(
                    f"{child.name} ended more than {self._policy.max_restarts} times "
                    f"within {self._policy.within:g} s"
                )
                crash.__cause__ = error
                self._give_up(crash)
                return
            delay = delays.delay(LAST_DELAY) if self._policy.max_restarts is None else 0.0
            logger.error(
                "[%s] %s; started again %s",
                child.name,
                "ended" if error is None else "crashed",
                f"in {delay:.1f} s" if delay else "at once",
                exc_info=error,
            )
            await trio.sleep(delay)

    async def _run(self, child: ChildSpec, outcome: _Outcome, announce: _Once) -> None:
        await trio.lowlevel.checkpoint()
        try:
            with users_code(child.name):
                async with trio.open_nursery() as nursery:
                    value = await nursery.start(child.run, name=child.name)
                    outcome.started = True
                    if child.on_start is not None:
                        child.on_start(value)
                    announce()
        except Exception as error:
            outcome.error = _only(error)

    def _give_up(self, failure: Exception) -> None:
        if self.failure is None:
            self.failure = failure
        self.scope.cancel("a supervisor gives up")


class _Once:
    """A call that happens once, however often it is made."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self.done = False

    def __call__(self) -> None:
        if not self.done:
            self.done = True
            self._call()


@dataclass(slots=True)
class _Outcome:
    started: bool = False
    error: Exception | None = None


def _only(error: Exception) -> Exception:
    # the one group around it is the nursery's of `_run`; a group inside is the child's own
    if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        return error.exceptions[0]
    return error
