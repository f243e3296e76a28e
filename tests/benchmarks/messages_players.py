"""Who takes part in the message benchmarks: a node of ours, bare sockets, C's ei, a BEAM node.

Each plays with a process of its own kind, and takes the same turns. Answers are in microseconds.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Protocol

import trio

from barnacle_trio import Atom, Node, NodeName, open_node
from barnacle_trio.etf import encode
from tests.beam import Beam, open_beam, unique
from tests.beam_modules import load_module
from tests.benchmarks.messages_peer import COOKIE, open_other, open_peer
from tests.erlang import ERLANGS

SMALL = (Atom("event"), 17, {Atom("kind"): Atom("up"), Atom("value"): 42})
CONTROL = 60
"""Bytes of a control term, about, by which frames of the floor are longer than their payload."""


class Player(Protocol):
    """What there is to measure."""

    async def connect(self, *, known: bool) -> float:
        """Connect and shake hands, with the peer's port known or looked up."""
        ...

    async def trips(self, size: int, times: int) -> list[float]:
        """Each of so many round trips with a binary of that many bytes."""
        ...

    async def out(self, count: int) -> float:
        """Hand over so many small messages."""
        ...

    async def into(self, count: int) -> float:
        """Receive so many small messages, decoded."""
        ...

    async def bulk_out(self, size: int) -> float:
        """Send a binary of that many bytes, until the other end has it."""
        ...

    async def bulk_in(self, size: int) -> float:
        """Ask for a binary of that many bytes, until it is here."""
        ...


def since(began: float) -> float:
    """Microseconds."""
    return (perf_counter() - began) * 1e6


# -- ours -----------------------------------------------------------------------------------------


class Ours:
    """Two nodes of ours."""

    def __init__(self, node: Node, peer: str) -> None:
        self.node = node
        self.peer = peer

    async def connect(self, *, known: bool) -> float:
        """See `Player`."""
        await self.node.disconnect(self.peer)
        await trio.sleep(0.01)  # the peer notes it
        if not known:
            self.node._network.forget(NodeName(self.peer))
        began = perf_counter()
        await self.node.connect(self.peer)
        return since(began)

    async def trips(self, size: int, times: int) -> list[float]:
        """See `Player`."""
        dest, taken = ("echo", self.peer), []
        async with self.node.open_mailbox() as box:
            term = (box.pid, bytes(size))
            for _ in range(times):
                began = perf_counter()
                await self.node.send(dest, term)
                await box.receive()
                taken.append(since(began))
        return taken

    async def out(self, count: int) -> float:
        """See `Player`."""
        dest = ("sink", self.peer)
        async with self.node.open_mailbox() as box:
            began = perf_counter()
            for _ in range(count):
                await self.node.send(dest, SMALL)
            taken = since(began)
            await self.node.send(dest, (Atom("total"), box.pid))
            assert (await box.receive())[1] == count
        return taken

    async def into(self, count: int) -> float:
        """See `Player`."""
        async with self.node.open_mailbox(max_length=10_000_000) as box:
            began = perf_counter()
            await self.node.send(("flood", self.peer), (box.pid, count, SMALL))
            for _ in range(count):
                await box.receive()
            return since(began)

    async def bulk_out(self, size: int) -> float:
        """See `Player`."""
        return await self._bulk(bytes(size))

    async def bulk_in(self, size: int) -> float:
        """See `Player`."""
        return await self._bulk(size)

    async def _bulk(self, what: bytes | int) -> float:
        async with self.node.open_mailbox() as box:
            began = perf_counter()
            await self.node.send(("bulk", self.peer), (box.pid, what))
            await box.receive()
            return since(began)

    async def beside(self, size: int) -> float:
        """The slowest small round trip beside a binary of that many bytes on its way out."""
        slowest = 0.0
        async with self.node.open_mailbox() as box, self.node.open_mailbox() as bulk:
            await self.node.send(("bulk", self.peer), (bulk.pid, bytes(size)))
            while not len(bulk):
                began = perf_counter()
                await self.node.send(("echo", self.peer), (box.pid, b""))
                await box.receive()
                slowest = max(slowest, since(began))
        return slowest

    async def drain(self, waiting: int) -> float:
        """Take a message from a mailbox in which so many wait, on average over 10,000."""
        async with self.node.open_mailbox() as box:
            taken = 0.0
            for _ in range(10_000 // waiting):
                for _ in range(waiting):
                    self.node.send_nowait(box.pid, 1)
                began = perf_counter()
                for _ in range(waiting):
                    await box.receive()
                taken += since(began)
        return taken / 10_000


@asynccontextmanager
async def open_ours() -> AsyncIterator[Ours]:
    """Nodes of ours, in two processes."""
    name = unique("bench")
    async with open_node(unique("bench"), cookie=COOKIE) as node, open_peer(name):
        await node.connect(name)
        yield Ours(node, name)


# -- the floor ------------------------------------------------------------------------------------


class Floor:
    """The same traffic on a bare Trio socket, with a reader task that wakes the caller."""

    def __init__(self, port: int, mapper: int) -> None:
        self._port = port
        self._mapper = mapper
        self._stream: trio.SocketStream
        self._send, self._receive = trio.open_memory_channel[int](100_000)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Cut frames, and wake who waits for the last one read."""
        self._stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        task_status.started()
        buffer = bytearray()
        size = 64 * 1024
        while data := await self._stream.receive_some(size):
            buffer += data
            at = count = missing = 0
            while len(buffer) - at >= 4:
                length = int.from_bytes(buffer[at : at + 4])
                if len(buffer) - at < 4 + length:
                    missing = 4 + length - (len(buffer) - at)
                    break
                at += 4 + length
                count += 1
            del buffer[:at]
            size = min(max(missing, 64 * 1024), 1024 * 1024)
            if count:
                self._send.send_nowait(count)

    async def _take(self, count: int) -> None:
        while count > 0:
            count -= await self._receive.receive()

    async def connect(self, *, known: bool) -> float:
        """A connect and two round trips; before it another connect and one, for the look-up."""
        await trio.sleep(0.01)  # as ours: machines at rest take longer
        began = perf_counter()
        if not known:
            with trio.socket.socket() as sock:
                await sock.connect(("127.0.0.1", self._mapper))
                await trio.SocketStream(sock).send_all(b"\0\6zbench")
                await sock.recv(100)
        with trio.socket.socket() as sock:
            await sock.connect(("127.0.0.1", self._port))
            stream = trio.SocketStream(sock)
            for _ in range(2):
                await stream.send_all(framed(b"e", 40))
                received = 0
                while received < 44:
                    received += len(await stream.receive_some(4096))
        return since(began)

    async def trips(self, size: int, times: int) -> list[float]:
        """See `Player`."""
        taken, frame = [], framed(b"e", size + CONTROL + 60)
        for _ in range(times):
            began = perf_counter()
            await self._stream.send_all(frame)
            await self._receive.receive()
            taken.append(since(began))
        return taken

    async def out(self, count: int) -> float:
        """Frames made before, a hundred to a write."""
        batch = framed(b"s", len(encode(SMALL)) + CONTROL) * 100
        began = perf_counter()
        for _ in range(count // 100):
            await self._stream.send_all(batch)
        taken = since(began)
        await self.trips(1, 1)
        return taken

    async def into(self, count: int) -> float:
        """See `Player`."""
        began = perf_counter()
        size = len(encode(SMALL)) + CONTROL
        await self._stream.send_all((9).to_bytes(4) + b"f" + struct.pack(">II", count, size))
        await self._take(count)
        return since(began)

    async def bulk_out(self, size: int) -> float:
        """See `Player`."""
        payload = bytes(size)
        began = perf_counter()
        await self._stream.send_all((size + 1).to_bytes(4) + b"b")
        await self._stream.send_all(payload)
        await self._take(1)
        return since(began)

    async def bulk_in(self, size: int) -> float:
        """See `Player`."""
        began = perf_counter()
        await self._stream.send_all((5).to_bytes(4) + b"g" + size.to_bytes(4))
        await self._take(1)
        return since(began)


def framed(kind: bytes, size: int) -> bytes:
    """A frame of that many bytes, after its length."""
    return size.to_bytes(4) + kind + bytes(size - 1)


@asynccontextmanager
async def open_floor(mapper: int) -> AsyncIterator[Floor]:
    """Bare sockets, in two processes. ``mapper``: the port of the port mapper."""
    async with open_peer("raw") as port, trio.open_nursery() as nursery:
        floor = Floor(port, mapper)
        await nursery.start(floor.run)
        yield floor
        nursery.cancel_scope.cancel()


# -- C's ei ---------------------------------------------------------------------------------------


class Ei:
    """Two processes of `ei_bench.c`."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process

    async def _ask(self, what: str, first: int = 0, second: int = 0) -> list[float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        await self._process.stdin.send_all(f"{what} {first} {second}\n".encode())
        line = b""
        while not line.endswith(b"\n"):
            data = await self._process.stdout.receive_some()
            assert data, "ei_bench ended"
            line += data
        return [float(word) for word in line.split()]

    async def connect(self, *, known: bool) -> float:
        """It looks up each time."""
        return (await self._ask("connect"))[0] if not known else float("nan")

    async def trips(self, size: int, times: int) -> list[float]:
        """See `Player`."""
        return await self._ask("trips", size, times)

    async def out(self, count: int) -> float:
        """See `Player`."""
        return (await self._ask("out", count))[0]

    async def into(self, count: int) -> float:
        """See `Player`."""
        return (await self._ask("into", count))[0]

    async def bulk_out(self, size: int) -> float:
        """See `Player`."""
        return (await self._ask("bulk_out", size))[0]

    async def bulk_in(self, size: int) -> float:
        """See `Player`."""
        return (await self._ask("bulk_in", size))[0]


def _ei_folders() -> tuple[Path, Path] | None:
    """Where ei's header and library are, if they are here."""
    for erlang in ERLANGS:
        root = Path(erlang.path).resolve().parent.parent
        for header in (*root.glob("usr/include/ei.h"), *root.glob("lib/*/include/ei.h")):
            library = header.parent.parent / "lib"
            if (library / "libei.a").is_file():
                return header.parent, library
    return None


@asynccontextmanager
async def open_ei() -> AsyncIterator[Ei | None]:
    """Compile and start them; None where there is no compiler, or no ei."""
    folders, compiler = _ei_folders(), shutil.which("cc")
    if folders is None or compiler is None:
        yield None
        return
    include, library = folders
    source = Path(__file__).with_name("ei_bench.c")
    async with AsyncExitStack() as stack:
        program = stack.enter_context(tempfile.TemporaryDirectory()) + "/ei_bench"
        options = ["-O2", "-D_REENTRANT", f"-I{include}", f"-L{library}"]
        await trio.run_process(
            [compiler, *options, "-o", program, str(source), "-lei", "-lpthread"]
        )
        peer = unique("ei")
        await stack.enter_async_context(open_other([program, "serve", peer, COOKIE]))
        command = [program, "play", unique("ei"), COOKIE, peer]
        process, _ = await stack.enter_async_context(open_other(command))
        yield Ei(process)


# -- BEAM -----------------------------------------------------------------------------------------

_MODULE = r"""
-module(bench).
-export([start/0, connect/1, trips/3, out/2, into/2, bulk/2, encoding/2, decoding/2, term/1]).

start() ->
  register(echo, spawn(fun echo/0)),
  register(sink, spawn(fun() -> sink(0) end)),
  register(flood, spawn(fun flood/0)),
  register(bulk, spawn(fun bulk/0)),
  ok.

echo() -> receive {From, _} = Message -> From ! Message, echo() end.
sink(N) -> receive {total, From} -> From ! {total, N}, sink(0); _ -> sink(N + 1) end.
flood() -> receive {From, N, Term} -> flood(From, N, Term), flood() end.
flood(_, 0, _) -> ok;
flood(To, N, Term) -> To ! Term, flood(To, N - 1, Term).
bulk() ->
  receive
    {From, Size} when is_integer(Size) -> From ! <<0:(Size * 8)>>, bulk();
    {From, _} -> From ! got, bulk()
  end.

clock() -> erlang:monotonic_time(nanosecond).
since(Began) -> (clock() - Began) / 1000.

connect(Node) ->
  erlang:disconnect_node(Node),
  timer:sleep(10),
  Began = clock(),
  true = net_kernel:connect_node(Node),
  since(Began).

trips(Node, Size, N) ->
  Message = {self(), <<0:(Size * 8)>>},
  [begin
     Began = clock(),
     {echo, Node} ! Message,
     receive Message -> since(Began) end
   end || _ <- lists:seq(1, N)].

small() -> {event, 17, #{kind => up, value => 42}}.

out(Node, N) ->
  Began = clock(),
  flood({sink, Node}, N, small()),
  Taken = since(Began),
  {sink, Node} ! {total, self()},
  receive {total, N} -> Taken end.

into(Node, N) ->
  Began = clock(),
  {flood, Node} ! {self(), N, small()},
  take(N),
  since(Began).

take(0) -> ok;
take(N) -> receive {event, _, _} -> take(N - 1) end.

bulk(Node, What) ->
  Payload = case What of {out, Size} -> <<0:(Size * 8)>>; {in, Size} -> Size end,
  Began = clock(),
  {bulk, Node} ! {self(), Payload},
  receive got -> ok; Binary when is_binary(Binary) -> ok end,
  since(Began).

term(small) -> small();
term(maps) -> [#{id => I, name => <<"n17">>, on => true, x => 1.5} || I <- lists:seq(0, 999)];
term(binary) -> <<0:(8 bsl 20)>>.

encoding(What, N) ->
  Term = term(What),
  Began = clock(),
  true = is_binary(encode(Term, N, none)),
  since(Began) / N.
encode(_, 0, Last) -> Last;
encode(Term, N, _) -> encode(Term, N - 1, term_to_binary(Term)).

decoding(What, N) ->
  Data = erlang:term_to_binary(term(What)),
  Began = clock(),
  true = term(What) =:= decode(Data, N, none),
  since(Began) / N.
decode(_, 0, Last) -> Last;
decode(Data, N, _) -> decode(Data, N - 1, binary_to_term(Data)).
"""


class Beams:
    """Two BEAM nodes."""

    def __init__(self, beam: Beam, peer: Beam) -> None:
        self.version = beam.erlang.version
        self.peer = peer.name
        self._beam = beam

    async def _ask(self, code: str) -> float:
        return float(await self._beam.eval(f"bench:{code}"))

    async def connect(self, *, known: bool) -> float:
        """It looks up each time."""
        return float("nan") if known else await self._ask(f"connect('{self.peer}')")

    async def trips(self, size: int, times: int) -> list[float]:
        """See `Player`."""
        answer = await self._beam.eval(f"bench:trips('{self.peer}', {size}, {times})")
        return [float(each) for each in answer.strip("[]").split(",")]

    async def out(self, count: int) -> float:
        """See `Player`."""
        return await self._ask(f"out('{self.peer}', {count})")

    async def into(self, count: int) -> float:
        """See `Player`."""
        return await self._ask(f"into('{self.peer}', {count})")

    async def bulk_out(self, size: int) -> float:
        """See `Player`."""
        return await self._ask(f"bulk('{self.peer}', {{out, {size}}})")

    async def bulk_in(self, size: int) -> float:
        """See `Player`."""
        return await self._ask(f"bulk('{self.peer}', {{in, {size}}})")

    async def codec(self, term: str, way: str, times: int) -> float:
        """Encode or decode a term, on average."""
        return await self._ask(f"{way}({term}, {times})")


@asynccontextmanager
async def open_beams() -> AsyncIterator[Beams | None]:
    """Two BEAM nodes of the newest OTP; None where there is no Erlang."""
    if not ERLANGS:
        yield None
        return
    async with AsyncExitStack() as stack:
        start = partial(open_beam, ERLANGS[-1], cookie=COOKIE)
        one, other = [await stack.enter_async_context(start()) for _ in range(2)]
        for beam in (one, other):
            await load_module(beam, _MODULE)
        await other.eval("bench:start()")
        yield Beams(one, other)
