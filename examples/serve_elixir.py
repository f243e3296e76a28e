"""Be called from Elixir: a gen_server and a function in Python.

It stays until Ctrl-C. Start it, and then Elixir in another terminal:

    iex --name my_elixir@127.0.0.1 --cookie my_cookie

    iex> Node.connect(:"py@127.0.0.1")
    true
    iex> GenServer.cast({:stats, :"py@127.0.0.1"}, {:add, [3, 1, 2]})
    :ok
    iex> GenServer.call({:stats, :"py@127.0.0.1"}, :summary)
    {:ok, %{count: 3, mean: 2.0}}
    iex> GenServer.call({:stats, :"py@127.0.0.1"}, :colour)
    {:error, :unknown_request}
    iex> :erpc.call(:"py@127.0.0.1", Stats, :median, [[1, 2, 3, 10]])
    2.5

    $ python examples/serve_elixir.py
    py@127.0.0.1 serves :stats and Stats.median/1
    :summary for my_elixir@127.0.0.1
    :colour for my_elixir@127.0.0.1
    bye
"""

import signal
import statistics
from typing import Any

import trio

from barnacle_trio import Atom, Pid, open_node


class Stats:
    """A gen_server. One message at a time is handled, so its state needs no lock."""

    def __init__(self) -> None:
        self._numbers: list[float] = []

    async def call(self, request: Any, sender: Pid) -> Any:
        await trio.lowlevel.checkpoint()
        if isinstance(request, Atom):
            print(f":{request.name} for {sender.node.name}", flush=True)
        match request:
            case Atom("summary"):
                # What raises here (there is no mean of nothing) ends this process as it would an
                # Erlang one: the caller exits with the reason, and the process is started again.
                mean = statistics.fmean(self._numbers)
                return Atom("ok"), {Atom("count"): len(self._numbers), Atom("mean"): mean}
            case _:
                return Atom("error"), Atom("unknown_request")

    async def cast(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        match message:
            case (Atom("add"), list(numbers)):
                self._numbers += numbers


async def median(numbers: list[float]) -> float:
    await trio.lowlevel.checkpoint()
    return statistics.median(numbers)


async def main() -> None:
    async with (
        open_node("py@127.0.0.1", cookie="my_cookie") as node,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(node.serve_process, "stats", Stats())
        with node.expose({("Elixir.Stats", "median"): median}):  # nothing else can be called
            print(f"{node.name} serves :stats and Stats.median/1", flush=True)
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _signal in signals:
                    break
        nursery.cancel_scope.cancel("asked to end")
    print("bye")


if __name__ == "__main__":
    trio.run(main)
