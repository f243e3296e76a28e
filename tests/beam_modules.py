"""Erlang modules for BEAM nodes in tests: compiled from text, and loaded where they are needed."""

from __future__ import annotations

import subprocess
from base64 import b64encode

import trio

from tests.beam import Beam
from tests.erlang import require_erlangs

_COMPILE = r"""
[Encoded] = init:get_plain_arguments(),
Text = unicode:characters_to_list(base64:decode(Encoded)),
{ok, Tokens, _} = erl_scan:string(Text),
Parse = fun
  Parse([], [], Forms) -> lists:reverse(Forms);
  Parse([{dot, _} = Dot | Rest], Tokens1, Forms) ->
    {ok, Form} = erl_parse:parse_form(lists:reverse([Dot | Tokens1])),
    Parse(Rest, [], [Form | Forms]);
  Parse([Token | Rest], Tokens1, Forms) -> Parse(Rest, [Token | Tokens1], Forms)
end,
{ok, Module, Binary} = compile:forms(Parse(Tokens, [], []), [report]),
io:format("~n=> ~w ~s~n", [Module, base64:encode(Binary)]),
halt().
"""
_compiled: dict[str, tuple[str, str]] = {}


async def load_module(beam: Beam, source: str) -> str:
    """Compile a module and load it on a node; returns its name.

    The source is not preprocessed: no macros. Not every runtime brings the compiler along, so the
    oldest that has it compiles for all: newer ones load what older ones made.
    """
    if source not in _compiled:
        _compiled[source] = await _compile(source)
    module, code = _compiled[source]
    load = f'code:load_binary({module}, "test", base64:decode(<<"{code}">>))'
    assert await beam.eval(load) == f"{{module,{module}}}"
    return module


async def _compile(source: str) -> tuple[str, str]:
    said = ""
    for erlang in require_erlangs():
        command = erlang.command("-eval", " ".join(_COMPILE.split()), "-extra")
        result = await trio.run_process(
            [*command, b64encode(source.encode()).decode()],
            env=erlang.environ(),
            stdin=b"",
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )
        said = result.stdout.decode(errors="replace")
        for line in said.splitlines():
            if line.startswith("=> "):
                _, module, code = line.split()
                return module, code
    raise AssertionError(f"no erl compiles the module: {said}")
