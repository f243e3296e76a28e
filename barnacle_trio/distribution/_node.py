"""This process as a node of Distributed Erlang."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager

import trio

from barnacle_trio._errors import (
    ConfigurationError,
    ConnectError,
    NodeCrashed,
    RemoteProtocolError,
)
from barnacle_trio._logs import RateLimited
from barnacle_trio._names import NodeName, shorten, show
from barnacle_trio._scopes import open_background
from barnacle_trio._transport import PeerChange, PeerDown
from barnacle_trio._values import AsyncValue
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._acceptor import Doorkeeper
from barnacle_trio.distribution._caretaker import Caretaker
from barnacle_trio.distribution._challenges import ChallengeBook
from barnacle_trio.distribution._connection import Connection
from barnacle_trio.distribution._cookie import Cookies
from barnacle_trio.distribution._departure import Departure, say_goodbye
from barnacle_trio.distribution._detector import Patience
from barnacle_trio.distribution._dialler import Dialler
from barnacle_trio.distribution._exposed import Exposed
from barnacle_trio.distribution._flags import OUR_FLAGS, Flag
from barnacle_trio.distribution._fragments import is_fragment
from barnacle_trio.distribution._frames import frame
from barnacle_trio.distribution._handshake import Identity
from barnacle_trio.distribution._identifiers import Identifiers
from barnacle_trio.distribution._inbound import ShortCut
from barnacle_trio.distribution._io import GroupLeader
from barnacle_trio.distribution._kernel import GOODBYE_NAME, Kernel
from barnacle_trio.distribution._local import Local
from barnacle_trio.distribution._messaging import Messaging
from barnacle_trio.distribution._network import Network
from barnacle_trio.distribution._outbound import Outbound
from barnacle_trio.distribution._peers import Peers
from barnacle_trio.distribution._processes import Processes
from barnacle_trio.distribution._rex import Rex
from barnacle_trio.distribution._rpc import Calls
from barnacle_trio.distribution._talking import Talking
from barnacle_trio.distribution._work import Work
from barnacle_trio.etf import Atom, ImproperList, Limits, Reference
from barnacle_trio.etf._limits import DEFAULT_LIMITS

logger = logging.getLogger("barnacle_trio.node")


class Node(Talking):
    """This process as a member of a cluster: a transport for barnacles. Made by `open_node`.

    Wherever a node is asked for, a plain `str` will do; one that is no node name is a `ValueError`.
    """

    def __init__(
        self,
        name: NodeName,
        network: Network,
        *,
        cookies: Cookies,
        hidden: bool,
        patience: Patience,
        connect_timeout: float,
        allowed: Callable[[NodeName], bool],
        limits: Limits,
        nursery: trio.Nursery,
    ) -> None:
        self._name = name
        self._network = network
        self._hidden = hidden
        self._connect_timeout = connect_timeout
        self._allowed = allowed
        self._limits = limits
        self._nursery = nursery
        self._closed = False
        self._departure: Departure | None = None
        self._registered = trio.Event()
        self._peers = Peers()
        self._log = RateLimited(logger)
        self._caretaker = Caretaker(
            self._peers,
            network,
            patience=patience,
            limits=limits,
            nursery=nursery,
            on_frame=self._on_frame,
        )
        self._local = Local(
            identity=self._identity,
            peers=self._peers,
            challenges=ChallengeBook(trio.current_time),
            cookies=cookies,
            allowed=allowed,
            adopt=self._caretaker.adopt,
        )
        self._dialler = Dialler(self._local, network, connect_timeout=connect_timeout)
        self._doorkeeper = Doorkeeper(self._local, self._dialler, self._caretaker.run)
        self._peers.subscribe(self._on_change)  # before anybody else: signals come first
        self._incarnate(1)  # until the port mapper has given a creation

    @property
    def name(self) -> NodeName:
        """This node's name."""
        return self._name

    @property
    def creation(self) -> int:
        """What tells this incarnation from others of the same name."""
        return self._identifiers.creation

    @property
    def hidden(self) -> bool:
        """Whether this node is a hidden one, which a BEAM lists under ``nodes(hidden)`` only."""
        return self._hidden

    @property
    def nodes(self) -> AsyncValue[frozenset[NodeName]]:
        """The connected peers that are visible, live (Erlang's ``nodes()``)."""
        return self._peers.visible

    @property
    def hidden_nodes(self) -> AsyncValue[frozenset[NodeName]]:
        """The connected peers over hidden connections, live (Erlang's ``nodes(hidden)``).

        On a hidden node that is all of them.
        """
        return self._peers.hidden

    async def connect(self, name: str) -> None:
        """Connect a peer; done at once where it is connected, or is this node itself.

        Raises:
          PeerUnreachable: no port mapper, no such name, nobody listening, or no answer within
            ``connect_timeout`` seconds. Worth a retry.
          HandshakeRefused: cookie, name, flags or ``allow`` stand in the way. Retrying does not
            mend it.
          RemoteProtocolError: what answered there is no node.
          trio.ClosedResourceError: this node was left.

        If cancelled, the socket is closed before `trio.Cancelled` leaves this method, unless others
        wait for the same peer.
        """
        peer = self._check(name)
        if peer == self._name:
            await trio.lowlevel.checkpoint()
            return
        await self._dialler.connect(peer)
        self._check_here()

    async def disconnect(self, name: str) -> None:
        """Close the connection to a peer; done at once where there is none.

        The down is told before this returns. If cancelled, the connection is closed all the same.
        Nothing keeps the peer from dialling us: a BEAM node does so when its ``global`` greets a
        node that it saw come a moment ago, as it would among BEAM nodes.

        Raises:
          trio.ClosedResourceError: this node was left.
        """
        connection = self._peers.get(self._check(name))
        if connection is None:
            await trio.lowlevel.checkpoint()
            return
        connection.close("closed_by_us")
        await connection.closed.wait()

    async def ping(self, name: str) -> bool:
        """Whether a peer answers as a living node does (Erlang's ``net_adm:ping``).

        It is connected if it is not yet, and stays so. False where it cannot be connected, or does
        not answer within ``connect_timeout`` seconds; C nodes never do.

        Raises:
          trio.ClosedResourceError: this node was left.
        """
        peer = self._check(name)
        if peer == self._name:
            await trio.lowlevel.checkpoint()
            return True
        answered = trio.Event()
        await trio.lowlevel.checkpoint()
        reference = self._identifiers.make_reference()
        with trio.move_on_after(self._connect_timeout):
            try:
                await self._dialler.connect(peer)
            except (ConnectError, RemoteProtocolError):
                return False
            connection = self._peers.get(peer)
            if connection is None:
                return False
            try:
                question = self._kernel.ask_is_auth(reference, answered.set, connection.agreed)
                connection.send(frame(question))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_first, connection.closed.wait, nursery.cancel_scope)
                    nursery.start_soon(_first, answered.wait, nursery.cancel_scope)
            finally:
                self._kernel.forget(reference)
        return answered.is_set()

    async def list_nodes(self) -> Iterable[str]:
        """The connected peers, visible and hidden."""
        await trio.lowlevel.checkpoint()
        return self._peers.visible.value | self._peers.hidden.value

    async def list_visible(self) -> Iterable[str]:
        """The connected peers that are not hidden."""
        await trio.lowlevel.checkpoint()
        return self._peers.visible.value

    async def locate(self, name: str) -> Hashable:
        """The port that the port mapper at the peer's host gives for it; None if it gives none."""
        return await self._network.locate(self._check(name))

    def subscribe(self, callback: Callable[[PeerChange], None]) -> Callable[[], None]:
        """Have ``callback`` called for each connection that comes or goes, hidden ones too.

        It runs at once in whatever task noticed the change and must not block; what it raises is
        logged. Returns what ends it.
        """
        return self._peers.subscribe(callback)

    async def drain(self, grace: float = 10.0) -> None:
        """Leave the cluster well, for good: what a program does before it ends.

        The name is free and nobody is dialled or let in any more, at once. Calls of processes and
        exposed functions that peers wait for may end, within ``grace`` seconds; meanwhile messages
        go to and fro as ever, but calls that come in the second half of that time are not begun.
        Then each peer is told, and its connection closed: nodes of ours see it ``left``, and leave
        it alone for a while.

        Done at once where it was done before; who calls it meanwhile waits for the same end, with
        whichever ``grace`` ends first. If all who wait are cancelled, calls under way are waited
        for no longer. It takes ``grace`` and a second at most, or three where the port mapper is
        slow. A call that awaits this itself is among those that are waited for.

        Args:
          grace: seconds. 0 waits for no call.

        Raises:
          ConfigurationError: ``grace`` is no number of seconds.
          trio.ClosedResourceError: this node was left.
        """
        if not 0 <= grace < math.inf:
            raise ConfigurationError(f"grace is a number of seconds, not {show(grace)}")
        if self._departure is None:
            self._check_here()
            self._departure = Departure(
                self._name,
                network=self._network,
                dialler=self._dialler,
                doorkeeper=self._doorkeeper,
                peers=self._peers,
                kernel=self._kernel,
                work=self._processes.work,
            )
            self._nursery.start_soon(self._depart, self._departure, name=f"drain {self._name}")
        await self._departure.wait(grace)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._peers)} connected"
        return f"<Node {self._name}, {state}>"

    def _check(self, name: str) -> NodeName:
        if self._closed:
            raise trio.ClosedResourceError(f"{self._name} was left")
        return NodeName(name)

    def _identity(self) -> Identity:
        flags = OUR_FLAGS if self._hidden else OUR_FLAGS | Flag.PUBLISHED
        return Identity(name=self._name, flags=int(flags), creation=self._identifiers.creation)

    def _on_change(self, change: PeerChange) -> None:
        if isinstance(change, PeerDown):
            self._processes.groups.peer_gone(change.node)
            self._processes.peer_gone(change.node)
            self._exposed.peer_gone(change.node)
            self._kernel.peer_gone(change.node)
        else:
            self._processes.peer_up(change.node)
            self._processes.groups.peer_up(change.node)

    def _incarnate(self, creation: int) -> None:
        """Become the incarnation that the port mapper gave."""
        self._identifiers = Identifiers(self._name, creation)
        self._kernel = Kernel(self._identifiers)
        self._caretaker.incarnate(self._identifiers, self._kernel)
        outbound = Outbound(self._peers, self._dialler, self._nursery, self._limits)
        self._processes = Processes(
            self._identifiers, outbound, self._kernel.exists, Work(self._name)
        )
        self._processes.unhandled = self._answer_here
        self._short_cut = ShortCut(self._limits)
        self._messaging = Messaging(self._name, self._kernel.pid, self._processes, outbound)
        self._exposed = Exposed(self._processes, self._nursery)
        Rex(self._kernel.pid, self._processes, self._exposed)
        leader = GroupLeader(self._processes)
        self._calls = Calls(self._name, self._kernel.pid, leader.pid, self._processes, outbound)

    async def _start(self) -> None:
        """Listen, be known, and watch over the connections in the background."""
        creation = await self._nursery.start(self._network.serve, self._accept)
        self._incarnate(creation)
        self._registered.set()
        self._nursery.start_soon(self._caretaker.watch, name=f"watch of {self._name}")

    async def _accept(self, stream: trio.abc.Stream) -> None:
        await self._registered.wait()  # before, our creation would be a wrong one
        await self._doorkeeper.accept(stream)

    async def _leave(self) -> None:
        """Say goodbye to everybody and close all connections, within `GOODBYE_TIMEOUT`."""
        self._close()
        await say_goodbye(self._peers, self._kernel)

    def _close(self) -> None:
        self._closed = self._caretaker.closed = True
        self._processes.leave()

    async def _depart(self, departure: Departure) -> None:
        await departure.run()
        self._close()

    def _on_frame(self, connection: Connection, body: bytes) -> None:
        headed = connection.headed
        if self._short_cut.deliver(body, headed=headed):
            return
        size = len(body)
        if headed and is_fragment(body):
            whole = connection.fragments.feed(body)
            if whole is None:
                return
            message, size = whole
        else:
            message = control.parse(body, self._limits, headed=headed)
        peer = connection.peer.name
        match message:
            case control.Unknown(op=op):
                self._log.warning("[%s] control message %s is not known", peer, shorten(op))
            case control.RegSend(to=name, payload=(Atom("leaving"), Atom())) if (
                name == GOODBYE_NAME
            ):
                connection.leaving = True
                connection.close("left")
            case control.Send(to=to, payload=(ImproperList(tail=Reference() as ref), _)) if (
                to == self._kernel.pid
            ):
                # Some runtimes answer a call to the caller, though its tag names an alias.
                message = control.AliasSend(to, ref, message.payload)
        receiver = self._processes.receiver(message)
        if receiver is not None:
            self._short_cut.learn(body, receiver, headed=headed)
        if self._processes.handle(peer, message, size):
            return
        for answer in self._kernel.answer(peer, message, connection.agreed):
            connection.send(frame(answer))

    def _answer_here(self, message: control.Message) -> None:
        for answer in self._kernel.answer(self._name, message):
            self._processes.emit(self._name, control.parse(answer))


async def _first(wait: Callable[[], object], scope: trio.CancelScope) -> None:
    await wait()  # type: ignore[misc]  # an async function of any result
    scope.cancel("one of two came")


@asynccontextmanager
async def run_node(
    name: NodeName,
    network: Network,
    *,
    cookies: Cookies,
    hidden: bool = False,
    patience: Patience | None = None,
    connect_timeout: float = 7.0,
    allowed: Callable[[NodeName], bool] = lambda _name: True,
    limits: Limits = DEFAULT_LIMITS,
) -> AsyncIterator[Node]:
    """Run a node in any network, see `open_node` for what it does."""
    # What carries the goodbye outlives the body, or a cancelled node would not get to say it.
    async with open_background(f"node {name}", NodeCrashed, outlive_body=True) as nursery:
        node = Node(
            name,
            network,
            cookies=cookies,
            hidden=hidden,
            patience=patience or Patience(),
            connect_timeout=connect_timeout,
            allowed=allowed,
            limits=limits,
            nursery=nursery,
        )
        await node._start()
        try:
            yield node
        finally:
            await node._leave()  # noqa: ASYNC102 - it shields itself, for GOODBYE_TIMEOUT at most
