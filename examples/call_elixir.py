"""Call an Elixir GenServer from Python.

Here is one, ``counter.exs``:

    defmodule Counter do
      use GenServer

      def start_link(n), do: GenServer.start_link(__MODULE__, n, name: __MODULE__)

      def init(n), do: {:ok, n}

      def handle_call(:value, _from, n), do: {:reply, n, n}
      def handle_call({:add, k}, _from, n), do: {:reply, n + k, n + k}

      def handle_cast(:reset, _n), do: {:noreply, 0}
    end

    Supervisor.start_link([{Counter, 0}], strategy: :one_for_one)
    Process.sleep(:infinity)

Start it in another terminal, and then this program:

    elixir --name my_elixir@127.0.0.1 --cookie my_cookie counter.exs

    $ python examples/call_elixir.py
    the counter stands at 0
    5 more: 5
    37 more: 42
    after a reset: 0
    it crashed: badarith
    nobody is called that: noproc
"""

import sys

import trio

from barnacle_trio import Atom, ProcessDown, open_node


async def main(elixir: str) -> None:
    # A process is called by its name at its node, or by a pid. Elixir's modules are atoms, too:
    # `Counter` is `:"Elixir.Counter"`. The node is dialled by the first call.
    counter = ("Elixir.Counter", elixir)
    async with open_node("py@127.0.0.1", cookie="my_cookie") as node:
        with trio.fail_after(5):  # no call ends by itself as long as the process lives
            print("the counter stands at", await node.call(counter, Atom("value")))
            for number in (5, 37):
                print(f"{number} more:", await node.call(counter, (Atom("add"), number)))
            await node.cast(counter, Atom("reset"))  # no reply; the next call comes after it
            print("after a reset:", await node.call(counter, Atom("value")))

            try:
                await node.call(counter, (Atom("add"), "a text"))
            except ProcessDown as down:
                match down.reason:  # as Erlang tells it: the error, and where it came from
                    case (Atom(error), _stack):
                        print("it crashed:", error)
            try:
                await node.call(("Elixir.Nobody", elixir), Atom("value"))
            except ProcessDown as down:
                if isinstance(down.reason, Atom):
                    print("nobody is called that:", down.reason.name)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "my_elixir@127.0.0.1")
