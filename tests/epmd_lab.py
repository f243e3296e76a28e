"""What the tests of the port mapper need: free ports, OTP's `epmd`, BEAMs, raw requests."""

from __future__ import annotations

import shutil
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE

import trio

from tests.erlang import Erlang

PATIENCE = 20.0
"""Seconds that anything here may take on a busy machine; nothing waits for them to pass."""


def framed(body: bytes) -> bytes:
    """A request."""
    return struct.pack(">H", len(body)) + body


def alive(name: bytes, port: int = 1234, *, highest: int = 6, extra: bytes = b"") -> bytes:
    """The body of a registration."""
    head = struct.pack(">HBBHHH", port, 77, 0, highest, 5, len(name))
    return b"x" + head + name + struct.pack(">H", len(extra)) + extra


async def connect(port: int, host: str = "127.0.0.1") -> trio.SocketStream:
    """A connection, as soon as somebody listens."""
    with trio.fail_after(PATIENCE):
        while True:
            try:
                return await trio.open_tcp_stream(host, port)
            except OSError:
                await trio.sleep(0.01)


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Everything up to the end; a reset is one."""
    answer = b""
    with trio.fail_after(PATIENCE):
        try:
            async for data in stream:
                answer += data
        except trio.BrokenResourceError:
            pass
    return answer


async def ask(port: int, request: bytes, host: str = "127.0.0.1") -> bytes:
    """Send bytes as they are and return the whole answer."""
    async with await connect(port, host) as stream:
        await stream.send_all(request)
        return await read_all(stream)


@asynccontextmanager
async def real_epmd(port: int, *arguments: str) -> AsyncIterator[trio.Process]:
    """OTP's own, in the foreground, until the block ends."""
    program = shutil.which("epmd")
    assert program is not None, "these tests need OTP's epmd"
    command = [program, "-port", str(port), *arguments]
    process = await trio.lowlevel.open_process(
        command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
    )
    try:
        await (await connect(port)).aclose()
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


# Evaluates each line that it reads and answers with one; ends with its standard input.
_LOOP = """
Loop = fun(Again) ->
    case io:get_line("") of
        eof -> halt(0, [{flush, false}]);
        Line ->
            {ok, Tokens, _} = erl_scan:string(Line),
            {ok, Parsed} = erl_parse:parse_exprs(Tokens),
            Result = (catch element(2, erl_eval:exprs(Parsed, []))),
            io:format("~0p~n", [Result]),
            Again(Again)
    end
end,
io:format("up~n"),
Loop(Loop).
"""


class Beam:
    """A running BEAM. Made by `open_beam`."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._read = b""

    async def line(self) -> str:
        """The next line that it prints."""
        while b"\n" not in self._read:
            data = await self._stdout.receive_some()
            assert data, f"the BEAM ended: {self._read!r}"
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    async def eval(self, expression: str) -> str:
        """What an expression (with its final stop) gives, on one line."""
        with trio.fail_after(PATIENCE):
            await self._stdin.send_all(expression.encode() + b"\n")
            return await self.line()

    async def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def open_beam(erlang: Erlang, name: str, epmd_port: int, *flags: str) -> AsyncIterator[Beam]:
    """Run a BEAM under a long name, with the port mapper at a given port."""
    names = ["-name", name, "-setcookie", "epmd-tests", "-start_epmd", "false"]
    command = erlang.command(*names, *flags, "-eval", " ".join(_LOOP.split()))
    process = await trio.lowlevel.open_process(
        command,
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        cwd=Path("/"),
        env=erlang.environ(ERL_EPMD_PORT=str(epmd_port), ERL_CRASH_DUMP_SECONDS="0"),
    )
    beam = Beam(process)
    try:
        with trio.fail_after(PATIENCE):
            assert await beam.line() == "up"
        yield beam
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        await beam._stdin.aclose()
        await beam._stdout.aclose()


# Registers one node, tells its creation, and leaves when its standard input ends.
_NODE = """
import signal, sys, trio
from functools import partial
from barnacle_trio import _names
from barnacle_trio.epmd import Epmd

async def main(name, port, mapper_port):
    async with trio.open_nursery() as nursery:
        serve = partial(
            Epmd(port=mapper_port).serve_registration,
            _names.NodeName(name), port=port, hidden=False, addresses=["127.0.0.1"],
        )
        print(await nursery.start(serve), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()

signal.signal(signal.SIGINT, signal.default_int_handler)
trio.run(main, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


@asynccontextmanager
async def open_python_node(name: str, port: int, epmd_port: int) -> AsyncIterator[trio.Process]:
    """A node of another Python process that is registered, until the block ends."""
    command = [sys.executable, "-c", _NODE, name, str(port), str(epmd_port)]
    process = await trio.lowlevel.open_process(
        command, stdin=PIPE, stdout=PIPE, cwd=Path(__file__).parent.parent
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with trio.fail_after(PATIENCE):
            assert (await process.stdout.receive_some()).strip().isdigit()
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        await process.stdin.aclose()
        await process.stdout.aclose()


def processes_listening_at(port: int) -> set[int]:
    """The processes that hold a listening socket of a port."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _number, local, _peer, state, *rest = line.split()
            if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{rest[5]}]")
    holders = set()
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # gone meanwhile, or another user's
            if str(fd.readlink()) in inodes:
                holders.add(int(fd.parts[2]))
    return holders
