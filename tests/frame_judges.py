"""Who judges frames: a BEAM node, over a connection by hand, and a node of ours beside it.

Both have the same name and creation, and in it a process of the same pid, name and alias, so that
the very same bytes mean the same to both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import trio

from barnacle_trio._errors import BarnacleError, RemoteProtocolError
from barnacle_trio._names import NodeName
from barnacle_trio.distribution import Node
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._challenges import ChallengeBook
from barnacle_trio.distribution._connection import Connection
from barnacle_trio.distribution._detector import Patience
from barnacle_trio.distribution._flags import Flag
from barnacle_trio.distribution._frames import FrameDecoder, frame
from barnacle_trio.distribution._handshake import (
    AliveAsked,
    Done,
    Identity,
    Initiator,
    Send,
)
from barnacle_trio.distribution._inbox import Down, Exit, Inbox, bare
from barnacle_trio.epmd import lookup
from barnacle_trio.etf import Atom, Limits, Pid, Reference, decode
from barnacle_trio.testing import MemoryNetwork
from tests.beam import COOKIE, Beam

THROWER = "thrower@127.0.0.1"
CREATION = 7
NONSENSE = control.Unknown(-1)
"""Stands for what a BEAM node should not have said: it repeats what it should not have taken."""
TARGET, STAND = Atom("target"), Atom("stand")
_NEW, _SYNC = Atom("$new"), Atom("$sync")

# A stand puts up one target at a time, which keeps what it receives until it is asked for it. The
# pid of a target is far from those of others: a fault in it makes it nobody's.
SETUP = r"""
  Target = fun Target(Got) ->
    receive
      {'$sync', To, Ref} ->
        erlang:send(To, {Ref, [term_to_binary(Each) || Each <- lists:reverse(Got)]}, [noconnect]),
        Target([]);
      Other -> Target([Other | Got])
    end
  end,
  (fun Skip() ->
    {P, R} = spawn_monitor(fun() -> ok end),
    receive {'DOWN', R, _, _, _} -> ok end,
    case re:run(pid_to_list(P), "<0[.]([0-9]+)[.]", [{capture, [1], list}]) of
      {match, [Number]} ->
        N = list_to_integer(Number),
        if N > 5000, N rem 256 > 128, N rem 256 < 140 -> ok; true -> Skip() end
    end
  end)(),
  register(stand, spawn(fun() ->
    (fun Stand() ->
      receive
        {'$new', To, Ref} ->
          case whereis(target) of
            undefined -> ok;
            Old ->
              Gone = monitor(process, Old),
              exit(Old, kill),
              receive {'DOWN', Gone, _, _, _} -> ok end
          end,
          spawn(fun() ->
            process_flag(trap_exit, true),
            register(target, self()),
            Monitor = monitor(process, To),
            erlang:send(To, {Ref, self(), alias(), Monitor}, [noconnect]),
            Target([])
          end),
          Stand();
        _ -> Stand()
      end
    end)()
  end))
"""


@dataclass(frozen=True)
class Place:
    """What frames may speak of: who throws, at whom, and what there is between them."""

    one: Pid
    two: Pid
    target: Pid
    alias: Reference
    monitor: Reference
    """The target's, of ``monitored``, a third pid of who throws."""
    monitored: Pid


@dataclass
class Verdict:
    """What came of some frames: the connection closed, or what the target got and what came back.

    ``closed`` is why, as far as that is known; ``killed``: the target was told to end.
    """

    closed: str | None = None
    killed: bool = False
    got: list[Any] = field(default_factory=list)
    said: list[control.Message] = field(default_factory=list)


class BeamJudge:
    """A connection to a BEAM node, made anew whenever that closes it."""

    def __init__(self, beam: Beam, port: int, agreed: Flag) -> None:
        self.beam = beam
        self.agreed = agreed
        self.headed = Flag.FRAGMENTS in agreed
        self.dials = 0
        self.creation = 0
        self._port = port
        self._book = ChallengeBook(trio.current_time)
        self.stream: trio.SocketStream | None = None
        self._frames = FrameDecoder()
        self._heard: list[control.Message] = []
        self._count = 0
        self.place: Place
        self._me = self._pid(0xFFFF)

    def _pid(self, number: int) -> Pid:
        return Pid(Atom(THROWER), number, 0, CREATION)

    async def dial(self) -> None:
        """Connect, and have a new target put up."""
        await self.close()
        while True:  # it may be about to dial itself, in vain, for something that its target says
            with suppress(BarnacleError, trio.BrokenResourceError):
                self.stream = await self._shake_hands()
                await self.renew()
                break
            await self.close()
            await trio.sleep(0.01)
        self.dials += 1

    async def renew(self) -> None:
        """Have a new target put up."""
        ref = self._ref()
        await self.send(control.reg_send(self._me, STAND, (_NEW, self._me, ref), self.agreed))
        _, target, alias, monitor = await self._answer(ref)
        self.place = Place(self._pid(1), self._pid(2), target, alias, monitor, self._me)
        self.creation = target.creation
        self._heard.clear()  # of the target's monitor, whose reference it has told

    async def _shake_hands(self) -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        try:
            identity = Identity(NodeName(THROWER), int(self.agreed), CREATION)
            machine = Initiator(identity, NodeName(self.beam.name), COOKIE.encode(), self._book)
            await stream.send_all(machine.begin())
            while True:
                data = bytes(await stream.receive_some(65536))
                if not data:
                    machine.eof()
                for event in machine.receive(data):
                    match event:
                        case Send(data=data):
                            await stream.send_all(data)
                        case AliveAsked():
                            await stream.send_all(machine.answer_alive(True))
                        case Done(leftover=leftover):
                            self._frames = FrameDecoder()
                            self._heard = []
                            self._feed(leftover)
                            return stream
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    def _ref(self) -> Reference:
        self._count += 1
        return Reference(Atom(THROWER), CREATION, (self._count & 0x3FFFF, self._count >> 18, 77))

    def _feed(self, data: bytes) -> None:
        for body in self._frames.feed(data):
            if not body:
                continue
            try:
                self._heard.append(control.parse(body, headed=self.headed))
            except RemoteProtocolError:
                self._heard.append(NONSENSE)

    async def send(self, *bodies: bytes) -> None:
        assert self.stream is not None
        await self.stream.send_all(b"".join(map(frame, bodies)))

    async def drown(self, data: bytes) -> None:
        """Say whatever it is and no more, and wait until the BEAM node closes, having read it."""
        assert self.stream is not None
        try:
            await self.stream.send_all(data)
            await self.stream.send_eof()
            async for _ in self.stream:
                pass
        except trio.BrokenResourceError:
            pass

    async def hear(self) -> control.Message | None:
        """The next message, or None: it closed the connection."""
        while not self._heard:
            assert self.stream is not None
            try:
                data = bytes(await self.stream.receive_some(65536))
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._feed(data)
        return self._heard.pop(0)

    async def _answer(self, ref: Reference) -> tuple[Any, ...]:
        while True:
            match await self.hear():
                case None:
                    raise trio.BrokenResourceError("closed before it answered")
                case control.Send(payload=tuple(answer)) if answer[0] == ref:
                    return answer

    async def judge(self, bodies: Sequence[bytes]) -> Verdict:
        """Throw frames, and wait until all of them were acted on."""
        place, verdict = self.place, Verdict()
        watch, ref = self._ref(), self._ref()
        me, agreed = self._me, self.agreed
        sync = (
            control.monitor(me, place.target, watch, agreed),
            control.send(me, place.target, (_SYNC, me, ref), agreed),
        )
        with suppress(trio.BrokenResourceError):
            await self.send(*bodies, *sync)
        while True:
            heard = await self.hear()
            match heard:
                case None:
                    return Verdict(closed="closed")
                case control.MonitorExit(ref=found) if found == watch:
                    verdict.killed = True
                    return verdict
                case control.Send(payload=(found, got)) if found == ref:
                    verdict.got = [decode(each) for each in got]
                    break
                case control.RegSend(to=Atom("logger_proxy")):
                    continue  # a spawned process failed: it is logged where its group leader is
            verdict.said.append(heard)
        await self.send(control.demonitor(me, place.target, watch, agreed))
        return verdict

    async def close(self) -> None:
        if self.stream is not None:
            await trio.aclose_forcefully(self.stream)
            self.stream = None


@asynccontextmanager
async def open_beam_judge(beam: Beam, agreed: Flag) -> AsyncIterator[BeamJudge]:
    """Connect to a BEAM node by hand."""
    entry = await lookup(NodeName(beam.name).basename, "127.0.0.1")
    assert entry is not None
    judge = BeamJudge(beam, entry.port, agreed)
    try:
        await judge.dial()
        yield judge
    finally:
        if judge.stream is not None:
            await trio.aclose_forcefully(judge.stream)


class _NoStream(trio.abc.Stream):
    """What is sent stays in the connection's queue."""

    async def send_all(self, data: Any) -> None:
        raise NotImplementedError

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise NotImplementedError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class OurJudge:
    """A node of ours that takes frames without a network, as if it were a BEAM node."""

    def __init__(self, node: Node, agreed: Flag) -> None:
        self.node = node
        self.agreed = agreed
        self.headed = Flag.FRAGMENTS in agreed
        self._connection: Connection | None = None
        self._inbox: Inbox | None = None

    def stand_for(self, judge: BeamJudge) -> None:
        """Be in the state in which a BEAM judge is that was just dialled."""
        if self._connection is not None:
            self._connection.close("lost")
        node, place = self.node, judge.place
        if node.creation != judge.creation:
            node._incarnate(judge.creation)
        self._connection = Connection(
            _NoStream(),
            Identity(NodeName(THROWER), int(self.agreed), CREATION),
            agreed=self.agreed,
            hidden=True,
            dialled=False,
            patience=Patience(),
            limits=Limits(),
        )
        node._peers.add(self._connection)
        self.renew(place)

    def renew(self, place: Place) -> None:
        processes = self.node._processes
        if self._inbox is not None:
            processes.close(self._inbox)
        self._inbox = Inbox(place.target, name=TARGET.name, trap_exits=True, max_length=100_000)
        processes.add(self._inbox)
        processes._aliases.clear()
        processes.add_alias(place.alias, self._inbox.deliver)
        inbox, ref, monitored = self._inbox, place.monitor, place.monitored
        processes.monitors.add(
            ref,
            NodeName(THROWER),
            monitored,
            inbox.pid,
            lambda reason: inbox.tell(Down(ref, monitored, reason)),
        )
        self._said()

    def _said(self) -> list[control.Message]:
        assert self._connection is not None
        sent = b"".join(item for item in self._connection._outbox if isinstance(item, bytes))
        self._connection._outbox.clear()
        self._connection._outbox_size = 0
        bodies = FrameDecoder().feed(sent)
        return [control.parse(body, headed=self.headed) for body in bodies if body]

    def judge(self, bodies: Sequence[bytes]) -> Verdict:
        """Take frames, as they come from the network."""
        connection, inbox = self._connection, self._inbox
        assert connection is not None
        assert inbox is not None
        try:
            for body in bodies:
                if body and connection.reason is None:
                    self.node._on_frame(connection, body)
        except RemoteProtocolError as error:
            return Verdict(closed=str(error))
        if connection.reason is not None:
            return Verdict(closed=connection.reason)
        got = list(map(_as_erlang, map(bare, inbox._messages)))
        got += [control.Unread("told in the log")] * inbox.rejected
        inbox._messages.clear()
        inbox.rejected = 0
        return Verdict(killed=inbox.ended, got=got, said=self._said())


def _as_erlang(message: Any) -> Any:
    match message:
        case Down(ref=ref, item=item, reason=reason):
            return (Atom("DOWN"), ref, Atom("process"), item, reason)
        case Exit(pid=pid, reason=reason):
            return (Atom("EXIT"), pid, reason)
    return message


@asynccontextmanager
async def open_our_judge(beam: Beam, agreed: Flag) -> AsyncIterator[OurJudge]:
    """A node of ours under the BEAM node's name, in a network of its own."""
    async with MemoryNetwork().open_node(beam.name) as node:
        yield OurJudge(node, agreed)
