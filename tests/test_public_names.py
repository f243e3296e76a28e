"""What users may rely on, and the plan of the house: who may import whom."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

import barnacle_trio
from tests.strictly import type_errors

HOUSE = Path(barnacle_trio.__file__).parent

NAMES = {
    "barnacle_trio": """
        ASK AsyncValue Atom Barnacle BarnacleCrashed BarnacleError BarnaclePaused BitString
        ChildSpec ConfigurationError ConnectError CookieRejected DisconnectError
        DiscoveryError Down DownReason Draining Event Exit Export FixedPort Fun
        HandshakeRefused ImproperList Mailbox Match Missed NameTakenError Node NodeCrashed
        NodeDown NodeName NodeOptions NodeUp Paused PeerChange PeerDown PeerStatus
        PeerUnreachable PeerUp Pid Port Process ProcessDown ProcessExit Reference
        RefreshFailed RefreshResult Refreshed RemoteError RemoteProtocolError RestartPolicy
        Restarted Resumed ShutDown Status Strategy TlsOptions
        Transport barnacle_child custom_transport
        dns dns_srv epmd erlang_hosts fallback fly gossip kubernetes kubernetes_dns
        kubernetes_dns_srv local_epmd merge only open_barnacle open_node postgres
        remember rename run_once serve_barnacle supervise
    """,
    "barnacle_trio.distribution": """
        Down Exit Mailbox Node NodeOptions Process TlsOptions open_node
    """,
    "barnacle_trio.epmd": """
        Epmd FixedPort PortEntry PortMapper Registration lookup names open_registration serve_epmd
    """,
    "barnacle_trio.etf": """
        Atom BitString DecodeError EncodeError Export Fun ImproperList Limits Map Pid Port Reference
        decode decode_prefix encode
    """,
    "barnacle_trio.strategies": """
        ASK dns dns_srv epmd erlang_hosts fallback fly gossip kubernetes kubernetes_dns
        kubernetes_dns_srv local_epmd merge only postgres remember rename
    """,
    "barnacle_trio.testing": """
        EventRecorder FakePeer FakeTransport HANG MemoryNetwork ScriptedStrategy check_strategy
        check_transport open_memory_nodes
    """,
}
"""Every public name. A name that goes, or changes its place, breaks somebody's program."""

NOT_FOR_IMPORT = {"cli"}
"""Packages that are used by their command alone."""

# -- the house ------------------------------------------------------------------------------------

GROUND = {
    "_errors",
    "_events",
    "_logs",
    "_names",
    "_scopes",
    "_strategy",
    "_supervisor",
    "_transport",
    "_values",
}
"""The ground floor: plain values and protocols, which every room may use."""

MAY_USE = {
    "": {"etf"},  # the barnacle and all that is its own: it knows protocols only
    "etf": set(),
    "epmd": set(),
    "distribution": {"etf", "epmd"},
    "strategies": {"epmd"},
    "testing": {"distribution", ""},
    "cli": {"distribution", "epmd", "etf", "strategies", ""},
}
"""Which rooms each one may import from, beside itself and the ground floor."""

PURE = {
    "_dial_queue",
    "_errors",
    "_events",
    "_names",
    "_peers",
    "_plan",
    "_pruning",
    "_rules",
    "distribution._challenges",
    "distribution._control",
    "distribution._control_in",
    "distribution._control_out",
    "distribution._fragments",
    "distribution._lanes",
    "distribution._detector",
    "distribution._erlang_terms",
    "distribution._flags",
    "distribution._frames",
    "distribution._gen",
    "distribution._handshake",
    "distribution._handshake_base",
    "distribution._handshake_events",
    "distribution._messages",
    "epmd._registry",
    "epmd._wire",
    "distribution._tls",
    "distribution._tls_names",
    "etf",
    "etf._decode",
    "etf._encode",
    "etf._errors",
    "etf._leaves",
    "etf._limits",
    "etf._map",
    "etf._terms",
    "strategies._addresses",
    "strategies._postgres_members",
    "strategies._gossip_members",
    "strategies._gossip_packets",
}
"""Codecs, parsers and plans: bytes and facts in, values and decisions out, no I/O."""

IMPURE = {"asyncio", "dns", "os", "select", "selectors", "socket", "ssl", "subprocess", "trio"}
WORDS_ONLY = {"_strategy", "_transport"}
"""Protocols that speak of Trio, from which pure modules may take types."""


def modules() -> dict[str, Path]:
    """Every module by its name within the library."""
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        parts = list(path.relative_to(HOUSE).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


MODULES = modules()


def room(module: str) -> str:
    """The package that a module is in; empty for the library's own."""
    package = module.partition(".")[0]
    return package if (HOUSE / package).is_dir() and module else ""


@cache
def imports(module: str, *, at_run_time: bool = False) -> frozenset[str]:
    """What a module imports: our modules with a leading dot, others' by name."""
    found: set[str] = set()
    tree = ast.parse(MODULES[module].read_text())
    for node in list(ast.walk(tree)) if at_run_time else ():
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                ours = whole.removeprefix("barnacle_trio.")
                is_module = node.module.startswith("barnacle_trio") and ours in MODULES
                found.add(whole if is_module else node.module)
    return frozenset(
        f".{name.removeprefix('barnacle_trio').removeprefix('.')}"
        if name.partition(".")[0] == "barnacle_trio"
        else name.partition(".")[0]
        for name in found
    )


def ours(module: str, *, at_run_time: bool = False) -> set[str]:
    found = imports(module, at_run_time=at_run_time)
    return {name[1:] for name in found if name.startswith(".")}


def others(module: str) -> set[str]:
    return {name for name in imports(module) if not name.startswith(".")}


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", NAMES)
def test_the_public_names_are_exactly_these(package: str) -> None:
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(NAMES[package].split())
    lying_about = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and name not in module.__all__
        and not isinstance(value, ModuleType)
    }
    assert not lying_about


def test_packages_are_public_and_modules_are_private() -> None:
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    expected = {name.removeprefix("barnacle_trio").removeprefix(".") for name in NAMES}
    assert packages == expected | NOT_FOR_IMPORT
    for name in MODULES.keys() - packages:
        assert name.rpartition(".")[2].startswith("_"), f"{name} is a public module"


def test_the_strategy_and_the_package_of_one_name_are_told_apart() -> None:
    from barnacle_trio import epmd
    from barnacle_trio.epmd import Epmd
    from barnacle_trio.strategies import epmd as same

    assert epmd is same
    assert inspect.isclass(Epmd)


def documented() -> Iterator[tuple[str, object]]:
    """Every public name with a docstring at run time, and every public thing inside of it."""
    for package, names in NAMES.items():
        for name in names.split():
            value = getattr(importlib.import_module(package), name)
            if not inspect.isclass(value) and not inspect.isfunction(value):
                continue
            yield f"{package}.{name}", value
            if inspect.isclass(value):
                for inner in vars(value):
                    found = inspect.getattr_static(value, inner)
                    if not inner.startswith("_") and (
                        inspect.isfunction(found)
                        or isinstance(found, property | classmethod | staticmethod)
                    ):
                        yield f"{package}.{name}.{inner}", found


def test_every_public_name_has_a_docstring() -> None:
    everything = list(documented())
    assert len(everything) > 100
    undescribed = [
        name
        for name, value in everything
        if not value.__doc__ or value.__doc__.startswith(f"{name.rpartition('.')[2]}(")
    ]  # the latter is what a dataclass makes up
    assert not undescribed


def test_every_public_alias_and_constant_has_a_docstring() -> None:
    described = set()
    for path in MODULES.values():
        for node, following in itertools.pairwise(ast.parse(path.read_text()).body):
            target = node.target if isinstance(node, ast.AnnAssign) else None
            if isinstance(target, ast.Name) and isinstance(following, ast.Expr):
                described.add(target.id)
    undescribed = {
        name
        for package, names in NAMES.items()
        for name in names.split()
        if not inspect.isclass(value := getattr(importlib.import_module(package), name))
        and not inspect.isfunction(value)
        and name not in described
    }
    assert not undescribed


# -- the plan of the house ------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards(module: str) -> None:
    if module in ("", "__main__"):
        return  # the public face looks into every room
    here = room(module)
    assert here in MAY_USE, f"{here} is a new room: say what it may use"
    reached = {each for each in ours(module) if each not in GROUND}
    rooms = {room(each) for each in reached} - {here}
    assert rooms <= MAY_USE[here], f"{module} uses {rooms - MAY_USE[here]}"


@pytest.mark.parametrize("module", sorted(GROUND))
def test_the_ground_floor_rests_on_nothing_else(module: str) -> None:
    assert ours(module) <= GROUND


def test_only_the_command_itself_imports_the_command_line() -> None:
    for module in MODULES:
        if room(module) != "cli" and module != "__main__":
            assert not {each for each in ours(module) if room(each) == "cli"}, module


def test_no_imports_in_a_circle() -> None:
    graph = {
        module: ours(module, at_run_time=True) - {module}
        for module in MODULES
        if MODULES[module].name != "__init__.py"
    }
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


@pytest.mark.parametrize("module", sorted(PURE))
def test_codecs_parsers_and_plans_do_no_io(module: str) -> None:
    assert not others(module) & IMPURE
    assert ours(module) <= PURE | WORDS_ONLY


def test_third_parties_stay_where_they_belong() -> None:
    for module in MODULES:
        if module != "_values":
            assert "trio_util" not in others(module), module
        if room(module) != "strategies":
            assert not others(module) & {"dns", "psycopg"}, module
        if room(module) != "cli":
            assert not others(module) & {"cyclopts", "rich"}, module


# -- types, as a user's own checker sees them -----------------------------------------------------

USER = """
from functools import partial
from typing import assert_type

import trio

from barnacle_trio import (
    AsyncValue, Barnacle, Event, NodeDown, NodeName, PeerChange, RefreshResult, Status, Strategy,
    Transport, barnacle_child, custom_transport, dns, epmd, fallback, local_epmd, merge, only,
    open_barnacle, open_node, run_once, serve_barnacle, supervise,
)
from barnacle_trio.epmd import names
from barnacle_trio.etf import Atom, decode, encode
from barnacle_trio.testing import FakeTransport, ScriptedStrategy


async def my_strategy(local: NodeName) -> list[str]:
    return [f"friend@{local.host}"]


async def connect(name: str) -> None: ...


async def main() -> None:
    strategy: Strategy = my_strategy
    fake: Transport = FakeTransport()
    strategies = [merge(dns("a"), epmd(["a@b"])), fallback(local_epmd()), only(strategy, "a*")]
    send, receive = trio.open_memory_channel[Event](8)
    async with (
        open_node("a@127.0.0.1", cookie="c", allow=["b@*", lambda name: name.host == "c"]) as node,
        open_barnacle(my_strategy, node, listener=send, prune="all") as barnacle,
        open_barnacle(ScriptedStrategy(), custom_transport(node, connect=connect)) as other,
        trio.open_nursery() as nursery,
    ):
        assert_type(barnacle, Barnacle)
        assert_type(barnacle.nodes, AsyncValue[frozenset[NodeName]])
        assert_type(barnacle.nodes.value, frozenset[NodeName])
        assert_type(await barnacle.refresh(), RefreshResult)
        assert_type(await barnacle.wait_for_nodes(1), frozenset[NodeName])
        assert_type(other.status(), Status)
        assert_type(await run_once(strategies[0], fake), RefreshResult)
        assert_type(await names("localhost"), dict[str, int])
        await nursery.start(partial(serve_barnacle, strategy, node, poll_interval=1))
        await nursery.start(supervise, barnacle_child(strategy, node, name="b", max_dials=3))
        node.subscribe(told)
        with barnacle.open_listener() as events:
            event = await events.receive()
            if isinstance(event, NodeDown) and event.reason == "silent":
                await node.ping(event.node)
    encode((Atom("ok"), decode(b"")))


def told(change: PeerChange) -> None: ...
"""

WRONG = """
from barnacle_trio import open_barnacle, open_node


async def main() -> None:
    async with open_node("a@127.0.0.1") as node:
        open_barnacle(["a@b"], node)
        open_barnacle(None, node, prune="some")
        node.nodes.value = frozenset()
"""


def test_the_package_says_that_it_is_typed() -> None:
    assert (HOUSE / "py.typed").is_file()


def test_a_users_program_is_checked_strictly(tmp_path: Path) -> None:
    errors = type_errors(tmp_path, {"user": USER, "wrong": WRONG})
    assert [line for line in errors if not line.startswith("wrong.py")] == []
    complaints = [line for line in errors if ": error:" in line]
    assert sorted({line.split(":")[1] for line in complaints}) == ["7", "8", "9"], errors
