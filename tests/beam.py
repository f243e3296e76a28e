"""Real BEAM nodes for tests: started, asked, frozen and killed."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from tests.erlang import Erlang

COOKIE = "a_cookie_for_tests_only"
BOOT_TIMEOUT = 30
EVAL_TIMEOUT = 20
DIALS_WHEN_TOLD = ("-kernel", "dist_auto_connect", "never")
"""Flags for a node that is cut off as soon as it came up: else its `global`, which greets whom it
saw come, now and then dials back."""

_LOOP = r"""
Loop = fun Loop() ->
  case io:get_line('') of
    Line when is_list(Line) ->
      Result =
        try
          {ok, Tokens, _} = erl_scan:string(Line),
          {ok, Parsed} = erl_parse:parse_exprs(Tokens),
          {value, Value, _} = erl_eval:exprs(Parsed, []),
          Value
        catch Class:Reason -> {'CAUGHT', Class, Reason}
        end,
      io:format("~n=> ~0tp~n", [Result]),
      Loop();
    _ -> erlang:halt(0, [{flush, false}])
  end
end,
io:format("~n=> ready~n"),
Loop().
"""
_numbers = itertools.count(1)


def unique(basename: str, host: str = "127.0.0.1") -> str:
    """A node name that no other test uses."""
    return f"{basename}_{os.getpid()}_{next(_numbers)}@{host}"


class Beam:
    """A running BEAM node."""

    def __init__(self, name: str, erlang: Erlang, process: trio.Process) -> None:
        self.name = name
        self.erlang = erlang
        self.process = process
        self.log: list[str] = []
        self._answers_in, self._answers = trio.open_memory_channel[str](100)

    async def eval(self, code: str) -> str:
        """Run an Erlang expression there and return its value as ``~0tp`` prints it."""
        assert self.process.stdin is not None
        line = " ".join(code.split())
        with trio.fail_after(EVAL_TIMEOUT):
            await self.process.stdin.send_all(line.rstrip(".").encode() + b".\n")
            return await self._answers.receive()

    async def read_output(self) -> None:
        assert self.process.stdout is not None
        buffer = b""
        try:
            async for data in self.process.stdout:
                *lines, buffer = (buffer + data).split(b"\n")
                for raw in lines:
                    text = raw.decode(errors="replace")
                    if text.startswith("=> "):
                        await self._answers_in.send(text[3:])
                    elif text:
                        self.log.append(text)
        finally:
            self._answers_in.close()

    async def ready(self) -> None:
        with trio.fail_after(BOOT_TIMEOUT):
            try:
                assert await self._answers.receive() == "ready"
            except trio.EndOfChannel:
                raise AssertionError(f"erl did not start: {self.log}") from None

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """End it without a chance to say anything."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def open_beam(
    erlang: Erlang,
    name: str | None = None,
    *,
    cookie: str = COOKIE,
    flags: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
    short: bool = False,
    epmd: bool = False,
) -> AsyncIterator[Beam]:
    """Run a BEAM node until the block ends. It starts no port mapper unless ``epmd`` is set."""
    name = name or unique("beam")
    command = [
        str(erlang.path),
        *("-sname" if short else "-name", name),
        *("-setcookie", cookie),
        *(() if epmd else ("-start_epmd", "false")),
        *("-noshell", "+sbwt", "none", "+S", "1:1"),
        *flags,
        *("-eval", " ".join(_LOOP.split())),
    ]
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **erlang.env, **(env or {})},
    )
    try:
        beam = Beam(name, erlang, process)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(beam.read_output)
            try:
                await beam.ready()
                yield beam
            finally:
                nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                await trio.aclose_forcefully(pipe)
