"""Gossip on loopback, and an Erlang process that gossips as libcluster does."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import trio

from barnacle_trio import DiscoveryError, NodeName, gossip
from barnacle_trio._strategy import ServedStrategy
from barnacle_trio.strategies._gossip_group import DEFAULT_GROUP
from tests.erlang import Erlang
from tests.ports import free_port

LOOPBACK = "127.0.0.1"
SECRET = "correct horse battery staple"
QUICK = {"interval": (0.01, 0.3), "expire_after": 0.9}
PATIENCE = 20.0


def quick(port: int, **options: Any) -> ServedStrategy:
    """Gossip of the impatient, on loopback: with a secret, unless something else is said."""
    given = {"port": port, "interface": LOOPBACK, **QUICK, **options}
    if "insecure" not in given:
        given.setdefault("secret", SECRET)
    return gossip(**given)


class Talker:
    """A strategy that is served, and what it has told. Made by `talking`."""

    def __init__(self, strategy: Any, name: str) -> None:
        self.strategy = strategy
        self.name = NodeName(name)
        self.changes = 0

    def changed(self) -> None:
        self.changes += 1

    async def ask(self) -> frozenset[str]:
        answer: frozenset[str] = await self.strategy(self.name)
        return answer

    async def hears(self, *names: str) -> None:
        """Wait until complete answers are exactly these names."""
        expected = frozenset(names)
        found: object = None
        with trio.move_on_after(PATIENCE):
            while found != expected:
                try:
                    found = await self.ask()
                except DiscoveryError as error:
                    found = error
                await trio.sleep(0.01)
        assert found == expected

    async def fails(self) -> DiscoveryError:
        """Wait until the answer is a failed one."""
        with trio.fail_after(PATIENCE):
            while True:
                try:
                    await self.ask()
                except DiscoveryError as error:
                    if error.partial is None:
                        return error
                await trio.sleep(0.01)

    async def ignores(self, packets: int) -> None:
        """Wait until so many packets were ignored."""
        await until(lambda: sum(self.ignored.values()) >= packets)

    @property
    def ignored(self) -> dict[str, int]:
        return dict(self.strategy._of(self.name)[-1].ignored)


@asynccontextmanager
async def talking(
    strategy: ServedStrategy, name: str, changed: Callable[[], None] | None = None
) -> AsyncIterator[Talker]:
    """Serve a strategy for the length of the block."""
    talker = Talker(strategy, name)
    async with trio.open_nursery() as nursery:
        serve = partial(strategy.serve, talker.name, changed=changed or talker.changed)
        await nursery.start(serve)
        yield talker
        nursery.cancel_scope.cancel("the test is over")


@asynccontextmanager
async def all_talking(
    port: int, names: Iterable[str], **options: Any
) -> AsyncIterator[list[Talker]]:
    """Several nodes of this host."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(talking(quick(port, **options), name)) for name in names
        ]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody tells of."""
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - nobody could set an event
            await trio.sleep(0.01)


def throw(port: int, *packets: bytes) -> None:
    """Send packets to the group, as anybody could."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        interface = socket.inet_aton(LOOPBACK)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
        for packet in packets:
            sock.sendto(packet, (DEFAULT_GROUP, port))


# -- Erlang ----------------------------------------------------------------------------------------

_LIBCLUSTER = """
Port = list_to_integer(os:getenv("PORT")), Secret = os:getenv("SECRET"),
Group = {233,252,1,32}, Loopback = {127,0,0,1},
{ok, Socket} = gen_udp:open(Port, [binary, {active, true}, {ip, {0,0,0,0}}, {reuseaddr, true},
    {broadcast, true}, {multicast_ttl, 1}, {multicast_loop, true}, {multicast_if, Loopback},
    {add_membership, {Group, Loopback}}]),
application:ensure_all_started(crypto),
Key = crypto:hash(sha256, Secret),
Crypt = fun(Data, Iv, Encrypt) -> crypto:crypto_one_time(aes_256_cbc, Key, Iv, Data,
    [{encrypt, Encrypt}, {padding, pkcs_padding}]) end,
Name = list_to_atom(os:getenv("NAME")),
Plain = <<"heartbeat::", (term_to_binary(#{node => Name}))/binary>>,
Beat = fun() ->
    Packet = case Secret of
        "" -> Plain;
        _ -> Iv = crypto:strong_rand_bytes(16), <<Iv/binary, (Crypt(Plain, Iv, true))/binary>>
    end,
    ok = gen_udp:send(Socket, Group, Port, Packet)
end,
Read = fun(<<"heartbeat::", Term/binary>>) ->
        #{node := Node} = binary_to_term(Term), io:format("~s~n", [Node]);
    (_) -> ok
end,
Loop = fun Loop() ->
    receive
        {udp, Socket, _, _, Packet} when Secret =:= "" -> Read(Packet);
        {udp, Socket, _, _, <<Iv:16/binary, Packet/binary>>} ->
            try Crypt(Packet, Iv, false) of Data -> Read(Data) catch error:_ -> ok end
    after 100 -> Beat()
    end,
    Loop()
end,
Beat(), Loop().
"""


@asynccontextmanager
async def open_libcluster_like(
    erlang: Erlang, port: int, name: str, secret: str | None
) -> AsyncIterator[Callable[[str], Any]]:
    """A BEAM that gossips by libcluster's socket options and packets; waits until it heard a name.

    libcluster itself needs Elixir, which is not here.
    """
    environ = erlang.environ(PORT=str(port), NAME=name, SECRET=secret or "")
    process = await trio.lowlevel.open_process(
        erlang.command("-boot", "start_clean", "-eval", _LIBCLUSTER),
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    stream = process.stdout
    heard = b""

    async def hears(name: str) -> None:
        nonlocal heard
        with trio.fail_after(PATIENCE):
            while f"{name}\n".encode() not in heard:
                data = await stream.receive_some()
                assert data, "it has ended"
                heard += data
        await trio.lowlevel.checkpoint()

    try:
        yield hears
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        await trio.aclose_forcefully(stream)


def any_port() -> int:
    """A port of loopback; nobody else gossips on it."""
    return free_port()
