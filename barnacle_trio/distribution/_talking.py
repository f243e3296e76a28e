"""What a node's user says to processes, here and elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any

import trio

from barnacle_trio._names import NodeName
from barnacle_trio._supervisor import RestartPolicy
from barnacle_trio._values import AsyncValue
from barnacle_trio.distribution._exposed import Exposed, Functions
from barnacle_trio.distribution._gen_server import GenServer, Handler
from barnacle_trio.distribution._inbox import MAX_MAILBOX
from barnacle_trio.distribution._mailbox import Mailbox
from barnacle_trio.distribution._messaging import Messaging
from barnacle_trio.distribution._processes import Processes
from barnacle_trio.distribution._routes import Dest
from barnacle_trio.distribution._rpc import Calls
from barnacle_trio.etf import Atom, Pid

_FOREVER = RestartPolicy()


class Talking:
    """The part of `Node` that sends and receives messages.

    A destination is a `Pid`, an alias (a `Reference`), or ``(registered name, node)`` with plain
    `str`. Terms are Python values as `barnacle_trio.etf` maps them.
    """

    _messaging: Messaging
    _processes: Processes
    _calls: Calls
    _exposed: Exposed
    _closed: bool

    @property
    def nodes(self) -> AsyncValue[frozenset[NodeName]]:
        """The connected peers that are visible."""
        raise NotImplementedError

    def open_mailbox(
        self,
        name: str | None = None,
        *,
        trap_exits: bool = False,
        max_length: int = MAX_MAILBOX,
    ) -> AbstractAsyncContextManager[Mailbox]:
        """Open a process of this node that receives messages, until the block is left.

        Args:
          name: register it under this name.
          trap_exits: have the end of linked processes delivered as `Exit`, instead of ending this.
          max_length: messages that may wait. What comes beyond, or beyond 256 MiB in large
            messages, is rejected, counted in ``Mailbox.rejected`` and told in the log. So is a
            message of another node that is beyond the limits of a term. The end of a process that
            linked itself to this one counts as a message, too.

        Leaving the block fires the links and monitors on it: with reason ``normal``, or
        ``{python_error, Type, Text}`` where the block raised.

        Raises:
          ConfigurationError: the name is taken; on entering.
          trio.ClosedResourceError: this node was left.
        """
        self._check_here()
        return self._messaging.open_mailbox(name, trap_exits=trap_exits, max_length=max_length)

    async def send(self, dest: Dest, term: Any) -> None:
        """Send a message; its node is dialled if need be.

        Waits while more than 1 MiB waits for that peer. Nobody tells whether the process exists.
        If cancelled, the message was not sent.

        Raises:
          ConnectError: the node cannot be connected.
          EncodeError: the term has no encoding.
          trio.ClosedResourceError: this node was left.
        """
        self._check_here()
        await self._messaging.send(dest, term)

    def send_nowait(self, dest: Dest, term: Any) -> None:
        """Send a message without ever waiting.

        Raises:
          trio.WouldBlock: the node is not connected, or more than 1 MiB waits for it.
          EncodeError: the term has no encoding.
          trio.ClosedResourceError: this node was left.
        """
        self._check_here()
        self._messaging.send_nowait(dest, term)

    async def call(self, dest: Dest, request: Any) -> Any:
        """Call a gen_server (of Erlang, Elixir, Gleam or Python) and return its reply.

        If cancelled, a reply that comes later is dropped.

        Raises:
          ProcessDown: it does not exist, or ended or lost its connection before it replied.
          ConnectError: the node cannot be connected.
          EncodeError: the request has no encoding.
          DecodeError: the reply is beyond the limits of a term.
          trio.ClosedResourceError: this node was left.
        """
        self._check_here()
        return await self._messaging.call(dest, request)

    async def cast(self, dest: Dest, message: Any) -> None:
        """Send a gen_server a message that it does not reply to. Raises what `send` does."""
        self._check_here()
        await self._messaging.cast(dest, message)

    async def broadcast(
        self, name: str, term: Any, nodes: Iterable[str] | None = None
    ) -> dict[NodeName, Exception]:
        """Send a message to the process of that name on several nodes, at once.

        Args:
          name: the registered name.
          term: the message.
          nodes: where; None means all visible peers that are connected.

        Returns: an error for each node that could not be reached.

        Raises:
          EncodeError: the term has no encoding.
          trio.ClosedResourceError: this node was left.
        """
        self._check_here()
        return await self._messaging.broadcast(
            name, term, self.nodes.value if nodes is None else nodes
        )

    async def rpc(
        self, node_name: str, module: str | Atom, function: str | Atom, *args: Any
    ) -> Any:
        """Call a function on another node, or on this one, and return its value (``erpc:call``).

        On a BEAM that is any function there (an Elixir module is ``"Elixir.Math"``), on a node of
        ours what it has exposed. What the called code prints goes to the log
        ``barnacle_trio.io``, and it can read nothing. The node is dialled if need be.

        If cancelled, the process that runs the function is killed; what comes of it is dropped.

        Raises:
          RemoteError: the function raised: ``kind`` and ``reason`` are Erlang's. Where the call was
            not begun at all, the reason is ``{erpc, Why}``: ``notsup`` (not exposed),
            ``system_limit``, ``badarg``.
          ProcessDown: its process was killed, or the connection was lost (``noconnection``); then
            the function may have run or not. What came of it is beyond the limits of a term
            (``system_limit``).
          ConnectError: the node cannot be connected.
          EncodeError: an argument has no encoding.
          trio.ClosedResourceError: this node was left.
        """
        self._check_here()
        return await self._calls.call(node_name, module, function, args)

    def expose(self, functions: Functions) -> AbstractContextManager[None]:
        """Let others call functions of this program, until the block is left.

            with node.expose({("math", "add"): add}):
                ...

        They are called by ``erpc``, ``rpc`` and ``spawn`` of Erlang, and by `rpc` of other nodes of
        ours. Whatever is not exposed is refused with ``notsup``, and nothing but these tables is
        ever looked at. Where blocks overlap, the one entered last is asked first. A call that is
        under way when its block is left goes on.

        Args:
          functions: async functions by the module and the function under which they are called. A
            call with a number of arguments that one does not take is ``undef`` to the caller.

        What a function raises is the caller's: a `RemoteError` with its kind and reason, a
        `ProcessExit` as an exit, anything else as the error ``{python_error, Type, Text}``, also
        a value that has no encoding. A call is cancelled when its process is made to exit (by a
        kill or a link), when the connection to who waits for its value is lost, and with the node;
        it goes on when the caller merely stops waiting, as in Erlang. A peer has 1000 calls at
        once at most, and ``system_limit`` beyond.

        Raises:
          ConfigurationError: no async function, or none that can be called by position alone; on
            entering.
          trio.ClosedResourceError: this node was left.
        """
        self._check_here()
        return self._exposed.expose(functions)

    async def group_members(self, scope: str, group: Any) -> list[Pid]:
        """The members of a group of OTP's ``pg``, here and on connected nodes, hidden ones too.

        Each is there as often as it joined. What is known at this moment is returned: members
        elsewhere, and those of a peer just connected, come within a moment of a scope's first use
        here (which this is, where nobody joined).

        Args:
          scope: ``"pg"`` is the one that OTP uses where none is named.
          group: any term; see `Mailbox.join_group`.

        Raises:
          ConfigurationError: another process is registered under the scope's name.
          EncodeError: the group, or the scope as an atom, has no encoding.
          trio.ClosedResourceError: this node was left.
        """
        self._check_here()
        await trio.lowlevel.checkpoint()
        return self._processes.groups.scope(scope).members(group)

    async def local_group_members(self, scope: str, group: Any) -> list[Pid]:
        """The members of a group at this node alone. As `group_members` otherwise."""
        self._check_here()
        await trio.lowlevel.checkpoint()
        return self._processes.groups.scope(scope).local_members(group)

    async def serve_process(  # noqa: ASYNC128 - passed on
        self,
        name: str | None,
        handler: Handler,
        *,
        max_concurrent: int = 1,
        max_length: int = MAX_MAILBOX,
        restart_policy: RestartPolicy = _FOREVER,
        task_status: trio.TaskStatus[Pid] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Be a gen_server: ``pid = await nursery.start(node.serve_process, "adder", add)``.

        A process whose exception nobody catches ends, as an Erlang process does: who waits for its
        reply gets ``{python_error, Type, Text}`` as the reason (`ProcessDown` here), links and
        monitors on it fire, what waits in its mailbox is lost. It is then started again, as
        ``restart_policy`` says, under the same name, with a new pid and the same ``handler``. So
        it is when others have it exit; `ProcessExit` raised by the handler ends it with a
        reason of one's own, and ``ProcessExit(Atom("normal"))`` for good: this returns.

        Messages are taken in the order in which they arrived. A reply waits while more than 1 MiB
        waits for the caller's node; it is dropped where the caller has given up. OTP's ``sys`` can
        look at the process (a summary, not the handler) and stop it; it is started again then.

        Args:
          name: register it under this name. Without one, nobody learns the pid of its next life.
          handler: ``async (request) -> reply``, or an object with ``async call(request, sender)``,
            ``sender`` being the `Pid` that called, and if it likes ``async cast(message)`` and
            ``async info(message)``. What it has no method for is dropped, and told in the log once.
            ``async started(process)``, if it has one, is awaited at the start of each life, before
            any message is taken and before ``nursery.start`` returns: with the `Process` it joins
            groups, monitors and links, of which `Down` and `Exit` come to ``info``. What it raises
            is a crash like any other, at the first start it leaves this method.
          max_concurrent: calls that are handled at once. A cast or another message is handled alone
            as far as later messages go: it begins when its turn comes, beside earlier calls that
            still run, and whatever arrived later begins after it. Cancelled when the process ends.
          max_length: messages that may wait. What comes beyond is rejected and told in the log.
          restart_policy: how many ends are borne. One more, and what caused it leaves this method.
            Where there is no bound, there is a pause before each start, of 0.1 s doubling to 1 s
            until it handles a message well.
          task_status: for `trio.Nursery.start`, which returns the process's `Pid`.

        If cancelled, the process ends with the reason ``shutdown``. Once the node was left, or has
        drained, and what waited is handled, it ends as well, and this returns.

        Raises:
          ConfigurationError: the name is taken, the handler is none (or has a method that is not
            async), or a number is out of range.
          Exception: what the handler raised once too often; `ProcessExit` where others did.
          trio.ClosedResourceError: this node was left.
        """
        self._check_here()
        server = GenServer(
            self._messaging,
            name,
            handler,
            max_concurrent=max_concurrent,
            max_length=max_length,
            restart_policy=restart_policy,
        )
        await server.serve(task_status)

    def _check_here(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this node was left")
