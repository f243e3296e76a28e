"""Functions of this node that others may call, and the calls that are under way.

What a peer asks for is looked up in tables that were given to `Node.expose`, and nowhere else. Each
call is a process of the node for as long as it runs: it can be monitored, linked and killed.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import trio

from barnacle_trio._errors import (
    ConfigurationError,
    ProcessExit,
    RemoteError,
)
from barnacle_trio._logs import RateLimited
from barnacle_trio._names import NodeName, shorten, show
from barnacle_trio._scopes import cancelled_alone
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._async_functions import why_not_async
from barnacle_trio.distribution._inbox import NORMAL, Inbox
from barnacle_trio.distribution._links import NOCONNECTION
from barnacle_trio.distribution._messaging import SHUTDOWN, exit_reason
from barnacle_trio.distribution._outcome import (
    ERROR,
    EXIT,
    RETURN,
    Outcome,
    Phrase,
    as_erpc,
    as_exit,
    raised,
    undefined,
)
from barnacle_trio.distribution._processes import Processes
from barnacle_trio.etf import Atom, EncodeError, Pid
from barnacle_trio.etf._decode import decode_bare
from barnacle_trio.etf._encode import Encoded, encode_bare

logger = logging.getLogger("barnacle_trio.rpc")

MAX_CALLS = 1000
"""Calls of one peer that run at once; what comes beyond is refused with ``system_limit``."""

BADARG = Atom("badarg")
BADOPT = Atom("badopt")
NOTSUP = Atom("notsup")
SYSTEM_LIMIT = Atom("system_limit")

Function: TypeAlias = Callable[..., Awaitable[Any]]
Functions: TypeAlias = Mapping[tuple[Any, Any], Function]
"""What may be called: ``{("module", "function"): async_function}``, of `str` or `Atom`."""


class Refused(Exception):
    """A call is not begun; ``why`` is the atom that says so."""

    def __init__(self, why: Atom) -> None:
        super().__init__(why.name)
        self.why = why


@dataclass(frozen=True, slots=True)
class Wanted:
    """A call as a peer asks for it, with nothing checked.

    ``phrase`` makes of its outcome what the caller is told. ``attended``: the caller waits for
    that, and it need not go on without.
    """

    module: Any
    function: Any
    arguments: Any
    phrase: Phrase = as_exit
    attended: bool = False

    def __str__(self) -> str:
        """As Erlang writes it, of one that was found: ``math:add/2``."""
        return f"{self.module.name}:{self.function.name}/{len(self.arguments)}"


class _Entry:
    """An exposed function, and how many arguments it takes."""

    def __init__(self, function: Function) -> None:
        shown = show(function)
        fault = why_not_async(function)
        if fault is not None:
            raise ConfigurationError(f"what is exposed is an async function; {shown} {fault}")
        self.run = function
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # some of those written in C do not tell
            self._least = 0
            self._most: int | None = None
            return
        positional = [each for each in parameters if each.kind in _POSITIONAL]
        self._least = sum(each.default is each.empty for each in positional)
        self._most = len(positional)
        for each in parameters:
            if each.kind is each.VAR_POSITIONAL:
                self._most = None
            if each.kind is each.KEYWORD_ONLY and each.default is each.empty:
                raise ConfigurationError(
                    f"{shown} needs {each.name!r} by keyword, which no peer can give"
                )

    def takes(self, arity: int) -> bool:
        return self._least <= arity and (self._most is None or arity <= self._most)


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Call(Inbox):
    """A process that runs an exposed function. It receives nothing, and an exit cancels it."""

    receives = False

    def __init__(self, pid: Pid, peer: NodeName, wanted: Wanted, entry: _Entry) -> None:
        super().__init__(pid, max_length=0)
        self.peer = peer
        self.wanted = wanted
        self.entry = entry
        self.scope = trio.CancelScope()

    def deliver(self, message: Any, size: int = 0) -> None:
        """Drop a message."""

    def exit(self, reason: Any) -> None:
        """End it from outside."""
        super().exit(reason)
        self.scope.cancel("another process had this one exit")


class Exposed:
    """What is exposed, and the calls of it.

    Args:
      processes: the table of processes.
      nursery: where the functions run. What they raise never leaves their tasks.
    """

    def __init__(self, processes: Processes, nursery: trio.Nursery) -> None:
        self._processes = processes
        self._nursery = nursery
        self._local = processes.identifiers.node.name
        self._tables: list[dict[tuple[Atom, Atom], _Entry]] = []
        self._calls: dict[NodeName, set[Call]] = {}
        self._log = RateLimited(logger)
        processes.work.count(self.__len__)
        processes.act_on(control.SpawnRequest, self._on_spawn_request)

    def __len__(self) -> int:
        """How many calls are under way."""
        return sum(map(len, self._calls.values()))

    @contextmanager
    def expose(self, functions: Functions) -> Iterator[None]:
        """See `Node.expose`."""
        table = {_key(names): _Entry(function) for names, function in functions.items()}
        self._tables.append(table)
        try:
            yield
        finally:
            # By identity: blocks may be left in any order, and two tables may be equal.
            self._tables = [each for each in self._tables if each is not table]

    def begin(self, peer: NodeName, wanted: Wanted, answer: Callable[[Any], None]) -> None:
        """Run a call whose process is not shown to the peer; ``answer`` is given what it is told.

        Raises:
          Refused: it is not begun.
        """
        self._start(self._admit(peer, wanted), answer)

    def peer_gone(self, peer: NodeName) -> None:
        """Cancel the calls for whose outcome nobody waits any more."""
        for call in tuple(self._calls.get(peer, ())):
            if call.wanted.attended:
                call.scope.cancel(f"the connection to {peer}, who called, was lost")

    # -- from a request to a task -----------------------------------------------------------------

    def _on_spawn_request(self, peer: NodeName, request: control.SpawnRequest) -> None:
        try:
            link, monitor = _read_options(request.options)
            if type(request.arguments) is control.Unread:
                raise Refused(SYSTEM_LIMIT)
            call = self._admit(peer, _read(request))
        except Refused as refusal:
            reply = control.SpawnReply(request.ref, request.sender, 0, refusal.why)
            self._processes.emit(peer, reply)
            return
        self._processes.spawned(peer, request, call.pid, link=link, monitor=monitor)
        self._start(call, None)

    def _admit(self, peer: NodeName, wanted: Wanted) -> Call:
        entry = self._find(wanted)
        if self._processes.work.refuses(peer):
            raise Refused(NOCONNECTION)  # what the caller is told of a node that is gone
        if entry is None:
            if logger.isEnabledFor(logging.DEBUG):
                asked = shorten(f"{wanted.module}:{wanted.function}")
                logger.debug("[%s] asked for %s, which is not exposed", peer, asked)
            raise Refused(NOTSUP)
        if type(wanted.arguments) is not list:
            raise Refused(BADARG)
        calls = self._calls.setdefault(peer, set())
        if len(calls) >= MAX_CALLS:
            self._log.warning("[%s] has %d calls under way: more are refused", peer, MAX_CALLS)
            raise Refused(SYSTEM_LIMIT)
        call = Call(self._processes.identifiers.make_pid(), peer, wanted, entry)
        self._processes.add(call)
        calls.add(call)
        return call

    def _find(self, wanted: Wanted) -> _Entry | None:
        if type(wanted.module) is not Atom or type(wanted.function) is not Atom:
            return None
        for table in reversed(self._tables):
            entry = table.get((wanted.module, wanted.function))
            if entry is not None:
                return entry
        return None

    # -- the task ---------------------------------------------------------------------------------

    def _start(self, call: Call, answer: Callable[[Any], None] | None) -> None:
        self._nursery.start_soon(self._run, call, answer, name=f"{call.wanted} for {call.peer}")

    async def _run(self, call: Call, answer: Callable[[Any], None] | None) -> None:
        reason: Any = SHUTDOWN
        try:
            with call.scope:
                told = self._told(call, await self._perform(call))
                await self._wait_room(call, told)
                if answer is None:
                    reason = told
                else:
                    self._answer(call, answer, told)
                    reason = NORMAL
        finally:
            self._processes.close(call, reason)
            calls = self._calls[call.peer]
            calls.discard(call)
            if not calls:
                del self._calls[call.peer]
            self._processes.work.progressed()

    async def _wait_room(self, call: Call, told: Any) -> None:
        """Wait until the caller's node can be told: it may read more slowly than we compute."""
        size = len(told.wire) if type(told) is Encoded else 0
        await self._processes.signals.wait_room(call.peer, size, (call.pid, None))

    def _answer(self, call: Call, answer: Callable[[Any], None], told: Any) -> None:
        try:
            answer(told)
        except EncodeError as error:  # it is the caller's own tag that makes it too large
            self._log.warning("[%s] called %s: its answer is %s", call.peer, call.wanted, error)

    async def _perform(self, call: Call) -> Outcome:
        await trio.lowlevel.checkpoint_if_cancelled()  # killed already: do not begin
        wanted = call.wanted
        if not call.entry.takes(len(wanted.arguments)):
            return undefined(wanted.module, wanted.function, wanted.arguments)
        try:
            with cancelled_alone(partial(self._crashed, call)):
                return Outcome(RETURN, await call.entry.run(*wanted.arguments))
        except RemoteError as error:
            return raised(error)
        except ProcessExit as error:
            return Outcome(EXIT, error.reason)
        except Exception as error:
            return self._crashed(call, error)

    def _crashed(self, call: Call, error: Exception) -> Outcome:
        self._log.warning(
            "[%s] called %s, which raised %s",
            call.peer,
            call.wanted,
            show(error, 200),
            error=error,
        )
        return Outcome(ERROR, exit_reason(error))

    def _told(self, call: Call, outcome: Outcome) -> Any:
        """What the caller is told, as a term that has an encoding, or is one."""
        try:
            return self._checked(call, call.wanted.phrase(outcome))
        except Exception as error:  # the format, or what an object in the term does, refuses
            return self._checked(call, call.wanted.phrase(self._crashed(call, error)))

    def _checked(self, call: Call, term: Any) -> Any:
        encoded = bytes(encode_bare(term, limits=self._processes.signals.limits))
        if call.peer == self._local:
            return decode_bare(encoded, limits=self._processes.signals.limits)[0]
        return Encoded(encoded)


def _key(names: Any) -> tuple[Atom, Atom]:
    try:
        module, function = (Atom(name) if isinstance(name, str) else name for name in names)
    except (TypeError, ValueError):
        module = function = names  # which is complained of below
    if isinstance(names, str) or type(module) is not Atom or type(function) is not Atom:
        raise ConfigurationError(
            f"a function is exposed as ('module', 'function'), not {show(names)}"
        )
    return module, function


def _read(request: control.SpawnRequest) -> Wanted:
    """What a spawn request wants to have called."""
    match (request.module.name, request.function.name, request.arguments):
        case ("erpc", "execute_call", [reference, module, function, arguments]):
            phrase = partial(as_erpc, reference)
            return Wanted(_name(module), _name(function), arguments, phrase, attended=True)
        case ("erpc", "execute_cast", [module, function, arguments]):
            return Wanted(_name(module), _name(function), arguments)
    return Wanted(request.module, request.function, request.arguments)


def _read_options(options: list[Any]) -> tuple[bool, bool]:
    """Whether to link and to monitor. Other options are about a BEAM's heaps and schedulers.

    Raises:
      Refused: one is no option at all.
    """
    link = monitor = False
    for option in options:
        match option:
            case Atom("link"):
                link = True
            case Atom("monitor"):
                monitor = True
            case (Atom(), _) if type(option) is tuple:
                pass
            case _:
                raise Refused(BADOPT)
    return link, monitor


def _name(term: Any) -> Any:
    """An atom as such, where it is one of the three that decode to Python's own values."""
    if term is None:
        return Atom("nil")
    return Atom("true" if term else "false") if isinstance(term, bool) else term
