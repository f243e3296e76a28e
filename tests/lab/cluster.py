"""Real nodes on the laboratory's hosts: Python and BEAM, started, stopped, frozen and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from tests.erlang import Erlang, require_erlangs
from tests.lab.history import History
from tests.lab.network import ROOT, Host, Lan, open_lan

COOKIE = "a_cookie_of_the_laboratory"
BASENAME = "n"
BOOT = 30.0
"""Seconds that a process may take to be there."""

# A BEAM that keeps itself connected as BEAM libraries do: one dial after the other, every 5 s.
_BEAM = """
ok = net_kernel:monitor_nodes(true, [{node_type, all}, nodedown_reason]),
[_, PeersText, PollText] = init:get_plain_arguments(),
Peers = [list_to_atom(P) || P <- string:tokens(PeersText, [$,])],
Poll = list_to_integer(PollText),
spawn(fun() ->
  (fun Again() ->
    [net_kernel:connect_node(P) || P <- Peers, not lists:member(P, nodes(connected))],
    timer:sleep(Poll), Again()
  end)()
end),
spawn(fun() ->
  (fun Read() -> case io:get_line("") of eof -> erlang:halt(0); _ -> Read() end end)()
end),
io:format("start~n"),
There = nodes(connected),
[io:format("up ~s~n", [N]) || N <- There],
(fun Told(Known) ->
  receive
    {nodeup, N, _} ->
      case lists:member(N, Known) of
        true -> Told(Known -- [N]);
        false -> io:format("up ~s~n", [N]), Told(Known)
      end;
    {nodedown, N, Info} ->
      io:format("down ~s ~0p~n", [N, proplists:get_value(nodedown_reason, Info)]),
      Told(Known -- [N])
  end
end)(There).
"""


@dataclass
class Member:
    """One node of a cluster: what it is, and the process that runs it, if it runs."""

    host: Host
    kind: Erlang | None  # None: Python
    options: Mapping[str, Any] = field(default_factory=dict)
    peers: list[str] = field(default_factory=list)
    process: trio.Process | None = None
    log: list[str] = field(default_factory=list)
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def name(self) -> str:
        return f"{BASENAME}@{self.host.address}"

    @property
    def is_python(self) -> bool:
        return self.kind is None


@dataclass(frozen=True)
class Holding:
    """What a process holds: tasks, descriptors, bytes of memory."""

    tasks: int
    descriptors: int
    memory: int


class Cluster:
    """Nodes on a `Lan`, and their history. Made by `open_cluster`."""

    def __init__(self, lan: Lan, history: History, nursery: trio.Nursery) -> None:
        self.lan = lan
        self.history = history
        self.members: dict[str, Member] = {}
        self._nursery = nursery

    def __getitem__(self, host: str) -> Member:
        return self.members[host]

    def names(self, *hosts: str) -> list[str]:
        """The names of the nodes on some hosts; on all that have one, if none is given."""
        return [self.members[host].name for host in hosts or self.members]

    @property
    def running(self) -> list[Member]:
        return [member for member in self.members.values() if member.process is not None]

    def add(self, host: str, kind: Erlang | None = None, **options: Any) -> Member:
        """Plan a node on a host; all that are planned are each other's peers."""
        member = Member(self.lan[host], kind, options)
        self.members[host] = member
        return member

    async def start(self, *hosts: str, before: Iterable[str] = ()) -> None:
        """Start nodes, all at once, and wait until each is there.

        ``before``: names that stand before the others' in their lists of peers.
        """
        async with trio.open_nursery() as nursery:
            for host in hosts or self.members:
                nursery.start_soon(self._start, self.members[host], list(before))

    async def _start(self, member: Member, before: list[str]) -> None:
        if before or not member.peers:
            others = [each.name for each in self.members.values() if each is not member]
            member.peers = [*before, *others]
        if member.kind is not None:
            await self.start_port_mapper(member.host.name)
        environment = {**os.environ, **member.options.get("env", {})}
        if member.kind is not None:
            environment = member.kind.environ(**member.options.get("env", {}))
        member.process = await trio.lowlevel.open_process(
            member.host.command(*self._command(member)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=environment,
        )
        member.ended = trio.Event()
        there = trio.Event()
        self._nursery.start_soon(self._read, member, member.process, there)
        self._nursery.start_soon(self._read_log, member, member.process)
        with trio.move_on_after(BOOT):
            await there.wait()
        if not there.is_set():
            raise AssertionError(f"{member.name} did not start:\n" + "\n".join(member.log))

    def _command(self, member: Member) -> list[str]:
        options = member.options
        if member.kind is None:
            spec = {
                "name": member.name,
                "cookie": COOKIE,
                "peers": member.peers,
                "node": options.get("node", {}),
                "barnacle": options.get("barnacle", {}),
                "chatter": options.get("chatter", 0),
                "resolver": options.get("resolver", ""),
                "query": options.get("query", ""),
            }
            return [sys.executable, "-m", "tests.lab.python_node", json.dumps(spec)]
        flags = ["-name", member.name, "-setcookie", COOKIE, "-start_epmd", "false"]
        flags += ["+sbwt", "none", "+S", "1:1", *options.get("flags", ())]
        poll = str(options.get("poll", 5000))
        extra = ["-extra", "lab", ",".join(member.peers), poll]
        return member.kind.command(*flags, "-eval", " ".join(_BEAM.split()), *extra)

    async def _read(self, member: Member, process: trio.Process, there: trio.Event) -> None:
        assert process.stdout is not None
        buffer = b""
        async for data in process.stdout:
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                self._hear(member, line.decode(errors="replace"))
                there.set()
        await process.wait()
        await process.stdout.aclose()
        assert process.stdin is not None
        await process.stdin.aclose()
        member.process = None
        self.history.tell("end", member.name)
        member.ended.set()

    def _hear(self, member: Member, line: str) -> None:
        if member.kind is None:
            told = json.loads(line)
            what, at = told["what"], told["at"]
            peer, reason = told.get("peer", ""), told.get("reason", "")
        else:
            what, peer, reason, *_ = [*line.split(" ", 2), "", ""]
            at = None
            if what not in ("start", "up", "down"):
                member.log.append(line)
                return
        self.history.tell(what, member.name, peer, reason, at)

    async def _read_log(self, member: Member, process: trio.Process) -> None:
        assert process.stderr is not None
        buffer = b""
        async for data in process.stderr:
            *lines, buffer = (buffer + data).split(b"\n")
            member.log += [line.decode(errors="replace") for line in lines]
            del member.log[:-1000]
        await process.stderr.aclose()

    # -- what may happen to a node --

    async def kill(self, *hosts: str) -> None:
        """End nodes without a chance to say anything."""
        await self._end(hosts, signal.SIGKILL, "kill")

    async def leave(self, *hosts: str) -> None:
        """Have Python nodes drain."""
        await self._end(hosts, signal.SIGTERM, "drain")

    async def _end(self, hosts: Sequence[str], how: signal.Signals, what: str) -> None:
        for host in hosts:
            process = self.members[host].process
            assert process is not None
            self.history.tell("fault", self.members[host].name, reason=what)
            _signal(process, how)
        for host in hosts:
            await self.members[host].ended.wait()

    def freeze(self, host: str) -> None:
        """Stop a node where it stands."""
        self.history.tell("fault", self.members[host].name, reason="freeze")
        process = self.members[host].process
        assert process is not None
        _signal(process, signal.SIGSTOP)

    def thaw(self, host: str) -> None:
        """Undo `freeze`."""
        process = self.members[host].process
        assert process is not None
        _signal(process, signal.SIGCONT)
        self.history.tell("heal", self.members[host].name, reason="freeze")

    async def start_port_mapper(self, host: str) -> None:
        """Run the daemon of a host with a BEAM, which would start one that outlives it."""
        lan_host = self.lan[host]
        if _port_mappers(lan_host):
            return
        await trio.run_process(lan_host.command("epmd", "-daemon"))
        while not _port_mappers(lan_host):  # noqa: ASYNC110 - nobody could set an event
            await trio.sleep(0.01)

    async def kill_port_mapper(self, host: str) -> None:
        """End the daemon of a host, and wait until it is gone."""
        self.history.tell("fault", self.members[host].name, reason="the port mapper is killed")
        for pid in _port_mappers(self.lan[host]):
            os.kill(pid, signal.SIGKILL)
        while _port_mappers(self.lan[host]):  # noqa: ASYNC110 - nobody could set an event
            await trio.sleep(0.01)

    def vanish(self, host: str) -> None:
        """As if the plug was pulled: no packet leaves, and then the process is no more."""
        others = [each for each in self.lan.hosts if each != host]
        self.lan.partition([host], others)
        process = self.members[host].process
        assert process is not None
        self.history.tell("fault", self.members[host].name, reason="vanish")
        _signal(process, signal.SIGKILL)

    def end(self) -> None:
        """Kill what runs; its readers see the end of it."""
        for member in self.running:
            assert member.process is not None
            member.process.kill()

    async def count(self, host: str) -> Holding:
        """What a Python node holds at this moment."""
        began = self.history.now
        process = self.members[host].process
        assert process is not None
        _signal(process, signal.SIGUSR1)
        name = self.members[host].name
        await self.history.until(
            lambda: self.history.first(began, "count", name, "") is not None, 30, "a count"
        )
        counted = self.history.first(began, "count", name, "")
        assert counted is not None
        return Holding(*map(int, counted.reason.split()))

    # -- what is waited for --

    def is_mesh(self, members: Iterable[Member] | None = None) -> bool:
        """Whether each of some nodes (of all that run) has told that it has all the others."""
        names = {member.name for member in (self.running if members is None else members)}
        return all(self.history.seen_up(name) >= names - {name} for name in names)

    async def mesh(self, within: float, members: Iterable[Member] | None = None) -> float:
        """Wait until each has all the others; gives the time in the history."""
        chosen = None if members is None else list(members)
        return await self.history.until(lambda: self.is_mesh(chosen), within, "a full mesh")

    async def told(
        self, what: str, pairs: Iterable[tuple[str, str]], within: float, *, since: float
    ) -> float:
        """Wait until each observer has told something of its peer, for ``(observer, peer)`` hosts.

        It may have ceased to be true by then.
        """
        named = [(self[a].name, self[b].name) for a, b in pairs]
        return await self.history.until(
            lambda: all(self.history.first(since, what, *each) for each in named),
            within,
            f"{what}: {named}",
        )

    async def seen_down(self, pairs: Iterable[tuple[str, str]], within: float) -> float:
        """Wait until each observer no longer has its peer, for ``(observer, peer)`` hosts."""
        named = [(self[a].name, self[b].name) for a, b in pairs]
        return await self.history.until(
            lambda: all(b not in self.history.seen_up(a) for a, b in named),
            within,
            f"down: {named}",
        )


def _port_mappers(host: Host) -> list[int]:
    found = []
    for pid in host.pids():
        with suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "epmd":
                found.append(pid)
    return found


def _signal(process: trio.Process, how: signal.Signals) -> None:
    """Signal a node: `ip netns exec` becomes the program that it runs, so the pid is the node's."""
    process.send_signal(how)


@asynccontextmanager
async def open_cluster(
    kinds: Mapping[str, Erlang | None],
    *,
    wire: Mapping[str, float] | None = None,
    seed: int = 0,
    black_holes: int = 0,
    **options: Any,
) -> AsyncIterator[Cluster]:
    """Build hosts, and plan a node on each.

    Args:
      kinds: for each host's name the runtime of its node, None for Python.
      wire: see `open_lan`.
      seed: see ``wire``.
      black_holes: addresses where nobody answers, which stand first in everybody's list of peers.
      options: of the nodes: ``node`` and ``barnacle`` for Python's, which discover by DNS if told
        a ``resolver`` and a ``query``, and ``flags`` and ``poll`` (milliseconds) for BEAM's.
    """
    with open_lan(kinds, wire=wire, seed=seed) as lan:
        history = History()
        async with trio.open_nursery() as nursery:
            cluster = Cluster(lan, history, nursery)
            for host, kind in kinds.items():
                cluster.add(host, kind, **options)
            holes = [f"{BASENAME}@{hole}" for hole in lan.dig_black_holes(black_holes)]
            for member in cluster.members.values():
                others = [each.name for each in cluster.members.values() if each is not member]
                member.peers = [*holes, *others]
            try:
                yield cluster
            finally:
                cluster.end()
                nursery.cancel_scope.deadline = trio.current_time() + 5


def erlangs() -> list[Erlang]:
    """The BEAM runtimes of this machine."""
    return require_erlangs()
