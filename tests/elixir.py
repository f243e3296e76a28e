"""Elixir as the README and the examples show it, for BEAM nodes that know Erlang alone.

Sessions of `iex` are translated, in the little of the language that they use. A module has a twin
in Erlang form, which does as it does and is loaded under its name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import trio

from tests.beam import Beam
from tests.beam_modules import load_module

PATIENCE = 20


@dataclass(frozen=True)
class Server:
    """A GenServer as it is shown, and its twin."""

    name: str
    elixir: str
    erlang: str

    async def start(self, beam: Beam, state: str) -> None:
        """Start it under its module's name."""
        module = await load_module(beam, self.erlang)
        started = f"element(1, gen_server:start({{local, {module}}}, {module}, {state}, []))"
        assert await beam.eval(started) == "ok"


COUNTER = Server(
    "Counter",
    """\
defmodule Counter do
  use GenServer

  def start_link(n), do: GenServer.start_link(__MODULE__, n, name: __MODULE__)

  def init(n), do: {:ok, n}

  def handle_call(:value, _from, n), do: {:reply, n, n}
  def handle_call({:add, k}, _from, n), do: {:reply, n + k, n + k}

  def handle_cast(:reset, _n), do: {:noreply, 0}
end
""",
    """
-module('Elixir.Counter').
-behaviour(gen_server).
-export([init/1, handle_call/3, handle_cast/2]).
init(N) -> {ok, N}.
handle_call(value, _From, N) -> {reply, N, N};
handle_call({add, K}, _From, N) -> {reply, N + K, N + K}.
handle_cast(reset, _N) -> {noreply, 0}.
""",
)
SERVERS = {server.name: server for server in (COUNTER,)}

_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<text>"[^"\\]*")
    | ~c(?P<list>"[^"\\]*")
    | :(?P<called>[a-z]\w*)\.(?=\w+\()
    | :"(?P<quoted>[^"\\]+)"
    | :(?P<atom>[a-z]\w*)
    | (?P<key>[a-z]\w*):(?=\ )
    | (?P<function>[A-Z]\w*\.[a-z]\w*)(?=\()
    | (?P<alias>[A-Z]\w*(?:\.[A-Z]\w*)*)
    | (?P<map>%\{)
    | (?P<same><<|>>|=>|-?\d+(?:\.\d+)?|true\b|false\b|nil\b|[a-z]\w*(?=\()|[(){}\[\],])
    """,
    re.VERBOSE,
)
_FUNCTIONS = {
    "GenServer.call": "gen_server:call",
    "GenServer.cast": "gen_server:cast",
    "Node.connect": "net_kernel:connect_node",
    "Node.list": "nodes",
}


def to_erlang(code: str) -> str:
    """An expression or a term of Elixir as Erlang writes it.

    Raises:
      ValueError: it is more of Elixir than is known here.
    """
    written: list[str] = []
    position = 0
    while position < len(code):
        found = _TOKEN.match(code, position)
        if found is None:
            raise ValueError(f"not understood: {code[position:]!r}")
        written.append(_written(str(found.lastgroup), found[str(found.lastgroup)]))
        position = found.end()
    return "".join(written)


def _written(kind: str, token: str) -> str:
    match kind:
        case "text":
            return f"<<{token}/utf8>>"
        case "called":
            return f"{token}:"
        case "quoted" | "atom":
            return f"'{token}'"
        case "key":
            return f"'{token}' =>"
        case "function":
            return _FUNCTIONS[token]
        case "alias":
            return f"'Elixir.{token}'"
        case "map":
            return "#{"
        case _:
            return token


def session(text: str) -> list[tuple[str, str]]:
    """What is asked in a session of `iex`, and what it answers."""
    return re.findall(r"^ *iex> (.*)\n *(.*)$", text, re.MULTILINE)


async def hold(beam: Beam, text: str, *, patiently: bool = False) -> None:
    """Have a session on a node: each answer is the one that is shown.

    Args:
      beam: the node.
      text: the session.
      patiently: ask the first question again until its answer is the one that is shown.
    """
    until = trio.current_time() + (PATIENCE if patiently else 0)
    for asked, answer in session(text):
        question, expected = f"({to_erlang(asked)})", await beam.eval(to_erlang(answer))
        got = await beam.eval(question)
        while got != expected and trio.current_time() < until:  # noqa: ASYNC110
            await trio.sleep(0.02)
            got = await beam.eval(question)
        assert got == expected, asked
        until = 0
