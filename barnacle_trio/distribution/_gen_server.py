"""Gen_servers in Python: a handler takes a process's messages, in one life of it after another."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NoReturn, Protocol, TypeAlias

import trio

from barnacle_trio._errors import ConfigurationError, ProcessExit
from barnacle_trio._logs import RateLimited
from barnacle_trio._names import shorten, show
from barnacle_trio._supervisor import Intensity, RestartPolicy, is_count
from barnacle_trio.distribution._async_functions import why_not_async
from barnacle_trio.distribution._inbox import NORMAL, Inbox, NodeLeft
from barnacle_trio.distribution._messaging import Messaging, exit_reason
from barnacle_trio.etf import Atom, Pid

logger = logging.getLogger("barnacle_trio.messages")

LAST_PAUSE = 1.0
"""Seconds, at most, from a crash to the next start, where the policy never gives up."""
_MAX_KINDS = 100

_OK, _ERROR, _RUNNING = Atom("ok"), Atom("error"), Atom("running")


METHODS = ("call", "cast", "info", "started")
"""What the methods of a handler are called."""


class CallHandler(Protocol):
    """An object that takes a process's messages.

    It may have ``cast``, ``info`` and ``started`` as well, see `Node.serve_process`.
    """

    async def call(self, request: Any, sender: Pid, /) -> Any:
        """Answer a request; ``sender`` is who called."""
        ...


Handler: TypeAlias = Callable[[Any], Awaitable[Any]] | CallHandler
"""What serves a process: ``async (request) -> reply``, or an object with methods."""

_Take = Callable[..., Awaitable[object]]


class GenServer:
    """A process that is started again when it crashed. See `Node.serve_process`."""

    def __init__(
        self,
        messaging: Messaging,
        name: str | None,
        handler: Handler,
        *,
        max_concurrent: int,
        max_length: int,
        restart_policy: RestartPolicy,
    ) -> None:
        _check_handler(handler)
        _check_count("max_concurrent", max_concurrent)
        _check_count("max_length", max_length)
        self.messaging = messaging
        self.name = name
        self.shown = "a process" if name is None else shorten(name)
        self.handler = handler
        self.max_concurrent = max_concurrent
        self.max_length = max_length
        self._policy = restart_policy
        self._crashes = Intensity(restart_policy)
        self._pauses = Intensity(RestartPolicy())
        self._kinds: set[object] = set()  # of crashes whose traceback was logged
        self._exits = RateLimited(logger)
        self._started = False

    async def serve(self, task_status: trio.TaskStatus[Pid]) -> None:  # noqa: ASYNC128 - passed on
        """Live, again and again, until ended for good."""
        while True:
            life = _Life(self)
            since = trio.current_time()
            try:
                async with self.messaging.open_inbox(
                    self.name, max_length=self.max_length
                ) as inbox:
                    await life.run(inbox, partial(self._has_started, inbox.pid, task_status))
            except Exception as error:
                if not self._started:
                    raise
                if exit_reason(error) is NORMAL and not life.ended_by_others:
                    return  # noqa: ASYNC910 - a life has checkpoints
                if self._too_many(error, life, since):
                    raise
            if self.messaging.left:
                return  # noqa: ASYNC910 - as above
            # A bound cuts a loop of crashes short; where there is none, pauses make it slow.
            await trio.sleep(
                self._pauses.delay(LAST_PAUSE) if self._policy.max_restarts is None else 0
            )

    def _has_started(self, pid: Pid, task_status: trio.TaskStatus[Pid]) -> None:
        if not self._started:
            self._started = True
            task_status.started(pid)

    def _too_many(self, error: Exception, life: _Life, since: float) -> bool:
        """Count the end of a life, and tell of it. True: it was one too many."""
        now = trio.current_time()
        if life.handled or now - since > self._policy.within:
            self._pauses.recovered()
        self._pauses.crashed(now)
        too_many = self._crashes.crashed(now)
        then = "its node was left" if self.messaging.left else "it starts again"
        if too_many:
            then = "that was once too often"
        reason = shorten(exit_reason(error), 200)
        kind = _kind(error)
        if life.ended_by_others:
            self._exits.warning("[%s] was made to exit: %s; %s", self.shown, reason, then)
        elif kind in self._kinds or len(self._kinds) >= _MAX_KINDS:
            logger.debug("[%s] crashed again: %s; %s", self.shown, reason, then)
        else:
            self._kinds.add(kind)
            logger.error(
                "[%s] crashed (the same traceback is not logged again); %s",
                self.shown,
                then,
                exc_info=error,
            )
        return too_many

    def optional(self, method: str) -> _Take:
        """A method of the handler; where it has none, what drops the message and says so once."""
        found: _Take | None = getattr(self.handler, method, None)
        return self._drop(method) if found is None else found

    def _drop(self, kind: str) -> _Take:
        async def drop(_message: object) -> None:
            await trio.lowlevel.checkpoint()
            if kind not in self._kinds:
                self._kinds.add(kind)
                logger.warning("[%s] takes no %s: such messages are dropped", self.shown, kind)

        return drop


class _Life:
    """One life of a process, from its start to its end, under one pid."""

    def __init__(self, server: GenServer) -> None:
        self.handled = 0
        self.ended_by_others = False
        self._server = server
        self._work = server.messaging.work
        self._cast, self._info = server.optional("cast"), server.optional("info")
        self._calls = trio.Semaphore(server.max_concurrent)
        self._scope = trio.CancelScope()
        self._crash: Exception | None = None

    async def run(self, inbox: Inbox, has_started: Callable[[], None]) -> NoReturn:
        """Take messages until somebody or something ends it, and raise what did."""
        self._inbox = inbox
        inbox.on_exit = lambda: self._scope.cancel("the process was made to exit")
        try:
            with self._work.counted(self._waited_for), self._scope:
                async with trio.open_nursery() as nursery:
                    await self._guard(self._take_messages, nursery, has_started)
        except Exception as error:  # a handler's own nursery failed while it was cancelled
            self._end(error)
        finally:
            inbox.on_exit = None
        if self._crash is not None:
            crash, self._crash = self._crash, None
            try:
                raise crash
            finally:
                del crash  # its traceback holds this frame
        if not inbox.ended:
            raise ProcessExit(NORMAL)  # the node was left
        self.ended_by_others = True
        raise ProcessExit(inbox.exit_reason)

    async def _guard(self, work: _Take, *args: Any) -> None:  # noqa: ASYNC910 - the work has some
        """Do a part of the work; the first fault of all ends the process."""
        try:
            await work(*args)
        except Exception as error:
            self._end(error)

    def _end(self, error: Exception) -> None:
        if self._crash is None and not self._inbox.ended:
            self._crash = error
            self._scope.cancel("the process crashed")
        elif not isinstance(error, ProcessExit):
            logger.error("[%s] crashed while it ended", self._server.shown, exc_info=error)

    async def _take_messages(self, nursery: trio.Nursery, has_started: Callable[[], None]) -> None:
        server = self._server
        if hasattr(server.handler, "started"):
            await server.handler.started(server.messaging.process(self._inbox))
        has_started()
        while True:
            self._work.progressed()
            # `tuple` is named, for these patterns would take lists as well.
            try:
                received = await self._inbox.receive()
            except NodeLeft:
                return  # noqa: ASYNC910 - `receive` has one; calls under way go on to their end
            match received:
                case tuple((Atom("$gen_call"), tuple((Pid() as caller, tag)), request)):
                    if self._work.refuses(caller.node.name):
                        continue  # as good as not arrived: who called learns that the node is gone
                    await self._calls.acquire()
                    if server.max_concurrent == 1:
                        await self._call(caller, tag, request)
                    else:
                        nursery.start_soon(self._guard, self._call, caller, tag, request)
                case tuple((Atom("$gen_cast"), message)):
                    await self._cast(message)
                    self.handled += 1
                case tuple((Atom("system"), tuple((Pid() as caller, tag)), request)):
                    await self._be_managed(caller, tag, request)
                case message:
                    await self._info(message)
                    self.handled += 1

    async def _call(self, caller: Pid, tag: Any, request: Any) -> None:
        try:
            handler: Any = self._server.handler
            if hasattr(handler, "call"):
                reply = await handler.call(request, caller)
            else:
                reply = await handler(request)
            await self._reply(caller, tag, reply)
            self.handled += 1
        finally:
            self._calls.release()
            self._work.progressed()

    def _waited_for(self) -> int:
        """How many calls run, or may be among the messages that wait for their turn."""
        running = self._server.max_concurrent - self._calls.value
        return running if self._work.refusing else running + len(self._inbox)

    async def _reply(self, caller: Pid, tag: Any, reply: Any) -> None:
        await self._server.messaging.reply(self._inbox.pid, caller, tag, reply)

    async def _be_managed(self, caller: Pid, tag: Any, request: Any) -> None:
        """Answer OTP's "sys" module, by which a shell looks into a process, or stops it."""
        match request:
            case Atom("get_state"):  # OTP 25 knows no `{ok, _}` here, and shows it as it is
                await self._reply(caller, tag, (_OK, self._state()))
            case Atom("get_status"):
                pid = self._inbox.pid
                misc = [(Atom("data"), [("State", self._state())])]
                status = [[], _RUNNING, pid, [], misc]
                module = (Atom("module"), Atom("barnacle_trio"))
                await self._reply(caller, tag, (Atom("status"), pid, module, status))
            case tuple((Atom("terminate"), reason)):
                await self._reply(caller, tag, _OK)
                self._inbox.exit(reason)
            case _:
                unknown = (Atom("unknown_system_msg"), request)
                await self._reply(caller, tag, (_ERROR, unknown))

    def _state(self) -> dict[Atom, Any]:
        server = self._server
        return {
            Atom("handler"): type(server.handler).__qualname__,
            Atom("handled"): self.handled,
            Atom("calls"): server.max_concurrent - self._calls.value,
            Atom("waiting"): len(self._inbox),
        }


def _check_handler(handler: object) -> None:
    shown = show(handler)
    if isinstance(handler, type):
        raise ConfigurationError(f"the handler is the class {shown}: call it to make one")
    if isinstance(handler, Awaitable):
        getattr(handler, "close", lambda: None)()  # or Python complains that nobody awaited it
        raise ConfigurationError("the handler is a coroutine: pass the function, uncalled")
    fault = None if hasattr(handler, "call") else why_not_async(handler)
    if fault is not None:
        raise ConfigurationError(
            "a handler is an async function of a request, or an object with `call`; "
            f"{shown} {fault}"
        )
    for name in METHODS:
        method = getattr(handler, name, None)
        fault = None if method is None else why_not_async(method)
        if fault is not None:
            raise ConfigurationError(f"`{name}` of the handler {shown} {fault}")


def _check_count(what: str, number: object) -> None:
    if not is_count(number, least=1):
        raise ConfigurationError(f"{what} is an int of at least 1, not {show(number)}")


def _kind(error: Exception) -> object:
    frames = traceback.extract_tb(error.__traceback__)
    where = (frames[-1].filename, frames[-1].lineno) if frames else None
    return (type(error), where)
