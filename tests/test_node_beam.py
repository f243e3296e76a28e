"""Our nodes among real BEAM nodes."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

from barnacle_trio._errors import CookieRejected, HandshakeRefused, NameTakenError, PeerUnreachable
from barnacle_trio._names import NodeName
from barnacle_trio._transport import PeerChange, PeerDown
from barnacle_trio.distribution import Node, open_node
from barnacle_trio.epmd import names
from tests.beam import COOKIE, DIALS_WHEN_TOLD, Beam, open_beam, unique
from tests.erlang import Erlang, require_erlangs

pytestmark = pytest.mark.usefixtures("epmd_port")


def record(node: Node) -> list[PeerChange]:
    changes: list[PeerChange] = []
    node.subscribe(changes.append)
    return changes


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    with trio.fail_after(seconds):
        while not await condition():  # noqa: ASYNC110 - another process cannot wake us
            await trio.sleep(0.01)


async def sees(beam: Beam, *nodes: str, kind: str = "visible") -> None:
    expected = sorted(nodes)

    async def same() -> bool:
        answer = await beam.eval(f"[atom_to_list(N) || N <- lists:sort(nodes({kind}))]")
        return answer == "[" + ",".join(f'"{name}"' for name in expected) + "]"

    await until(same)


async def test_we_dial_a_beam_node(erlang: Erlang) -> None:
    async with open_node(unique("py"), cookie=COOKIE) as node, open_beam(erlang) as beam:
        await node.connect(beam.name)
        assert node.nodes.value == {beam.name}
        assert node.hidden_nodes.value == frozenset()
        await sees(beam, node.name)
        await sees(beam, kind="hidden")


async def test_a_beam_node_dials_us(erlang: Erlang) -> None:
    async with open_node(unique("py"), cookie=COOKIE) as node, open_beam(erlang) as beam:
        assert await beam.eval(f"net_kernel:connect_node('{node.name}')") == "true"
        await node.nodes.wait_value(frozenset({NodeName(beam.name)}))
        await sees(beam, node.name)


async def test_a_hidden_node_of_ours_is_hidden_to_a_beam_node(erlang: Erlang) -> None:
    async with (
        open_node(unique("py"), cookie=COOKIE, hidden=True) as node,
        open_beam(erlang) as beam,
    ):
        await node.connect(beam.name)
        assert node.hidden_nodes.value == {beam.name}
        assert node.nodes.value == frozenset()
        await sees(beam, node.name, kind="hidden")
        await sees(beam)


async def test_a_hidden_beam_node_is_hidden_to_us(erlang: Erlang) -> None:
    async with (
        open_node(unique("py"), cookie=COOKIE) as node,
        open_beam(erlang, flags=("-hidden",)) as beam,
    ):
        await node.connect(beam.name)
        assert node.hidden_nodes.value == {beam.name}
        assert node.nodes.value == frozenset()


async def test_pong_both_ways(erlang: Erlang) -> None:
    async with open_node(unique("py"), cookie=COOKIE) as node, open_beam(erlang) as beam:
        assert await beam.eval(f"net_adm:ping('{node.name}')") == "pong"
        assert await node.ping(beam.name)
        assert await beam.eval("net_adm:ping('nobody@127.0.0.1')") == "pang"
        assert node.nodes.value == {beam.name}, "a ping must not cost the connection"


async def test_a_wrong_cookie_is_refused_on_both_sides(
    erlang: Erlang, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        open_node(unique("py"), cookie="this_is_not_their_cookie") as node,
        open_beam(erlang) as beam,
    ):
        with pytest.raises(CookieRejected, match="cookie") as caught:
            await node.connect(beam.name)
        assert "this_is_not_their_cookie" not in str(caught.value)
        assert caught.value.location == (await names())[beam.name.partition("@")[0]]
        assert await beam.eval(f"net_kernel:connect_node('{node.name}')") == "false"
        assert "does not know the cookie" in caplog.text
        assert COOKIE not in caplog.text
        assert node.nodes.value == frozenset()


async def test_another_cookie_for_one_peer(erlang: Erlang) -> None:
    name = unique("beam")
    cookies = {name: "the_cookie_of_others"}
    async with (
        open_node(unique("py"), cookie=COOKIE, cookies=cookies) as node,
        open_beam(erlang, name, cookie="the_cookie_of_others") as beam,
    ):
        await node.connect(name)
        await sees(beam, node.name)


async def test_a_name_that_a_beam_node_has_is_taken(erlang: Erlang) -> None:
    async with open_node(unique("py"), cookie=COOKIE), open_beam(erlang) as beam:
        with pytest.raises(NameTakenError, match=beam.name.partition("@")[0]):
            async with open_node(beam.name, cookie=COOKIE):
                raise AssertionError("two nodes of one name")


async def test_an_unknown_name_is_unreachable() -> None:
    async with open_node(unique("py"), cookie=COOKIE) as node:
        with pytest.raises(PeerUnreachable):
            await node.connect(unique("nobody"))


async def test_dialling_oneself_under_another_host_name_is_refused_at_once() -> None:
    name = unique("py")
    async with open_node(name, cookie=COOKIE) as node:
        with trio.fail_after(2), pytest.raises(HandshakeRefused, match="leads back to this node"):
            await node.connect(name.replace("127.0.0.1", "localhost"))


def _open_sockets() -> int:
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found += str(entry.readlink()).startswith("socket:")
        except FileNotFoundError:
            continue
    return found


async def test_a_hundred_connects_leave_no_task_and_no_socket(erlang: Erlang) -> None:
    async with (
        open_node(unique("py"), cookie=COOKIE) as node,
        open_beam(erlang, flags=DIALS_WHEN_TOLD) as beam,
    ):
        for _ in range(3):
            await node.connect(beam.name)
            await node.disconnect(beam.name)
        await sees(beam)
        await trio.testing.wait_all_tasks_blocked()
        sockets, tasks = _open_sockets(), trio.lowlevel.current_statistics().tasks_living
        for _ in range(50):
            await node.connect(beam.name)
            await node.disconnect(beam.name)
        await sees(beam)  # else it takes the connection that just ended for the one it asks for
        for _ in range(50):
            await until(lambda: _is(beam, f"net_kernel:connect_node('{node.name}')", "true"))
            assert await beam.eval(f"erlang:disconnect_node('{node.name}')") == "true"
            await node.nodes.wait_value(frozenset())
        await trio.testing.wait_all_tasks_blocked()
        assert _open_sockets() == sockets
        assert trio.lowlevel.current_statistics().tasks_living == tasks


async def _is(beam: Beam, code: str, value: str) -> bool:
    return await beam.eval(code) == value


async def test_a_killed_beam_node_is_lost_and_dialled_again(erlang: Erlang) -> None:
    async with open_node(unique("py"), cookie=COOKIE) as node:
        changes = record(node)
        async with open_beam(erlang) as beam:
            await node.connect(beam.name)
            await beam.kill()
            with trio.fail_after(2):
                await node.nodes.wait_value(frozenset())
        assert isinstance(changes[-1], PeerDown)
        assert changes[-1].reason == "lost"
        async with open_beam(erlang, beam.name):
            await node.connect(beam.name)
            assert node.nodes.value == {beam.name}


async def test_callers_on_a_beam_node_never_hang_because_of_us(erlang: Erlang) -> None:
    async with (
        open_node(unique("py"), cookie=COOKIE) as node,
        open_node(unique("py"), cookie=COOKIE) as other,
        open_beam(erlang) as beam,
    ):
        for each in (node, other):
            await each.connect(beam.name)
        await sees(beam, node.name, other.name)
        with trio.fail_after(3):
            answer = await beam.eval("rpc:multicall(nodes(), erlang, node, [])")
            assert answer.count("notsup") == 2
            answer = await beam.eval("erpc:multicall(nodes(), erlang, node, [])")
            assert answer.count("notsup") == 2
            assert "notsup" in await beam.eval(f"rpc:call('{node.name}', erlang, node, [])")
            assert "badrpc" in await beam.eval(f"rpc:block_call('{node.name}', erlang, node, [])")
            assert await beam.eval("global:sync()") == "ok"
            assert await beam.eval("global:trans({x, self()}, fun() -> done end, nodes())") == (
                "done"
            )
            assert await beam.eval("global:register_name(one, self())") == "yes"
            absent = await beam.eval(f"gen_server:call({{nothing, '{node.name}'}}, hello)")
            assert "noproc" in absent
            multi = await beam.eval("gen_server:multi_call(nodes(), nothing, hello)")
            assert multi.startswith("{[],[")
            assert "noproc" in await beam.eval(
                f"R = monitor(process, {{nothing, '{node.name}'}}),"
                " receive {'DOWN', R, _, _, Why} -> Why end"
            )
            assert "notsup" in await beam.eval(
                f"try erlang:spawn_monitor('{node.name}', erlang, node, []) of"
                " {_, R} -> receive {'DOWN', R, _, _, Why} -> Why end catch _:E -> E end"
            )
            assert await beam.eval(f"{{any, '{node.name}'}} ! hello") == "hello"
        assert node.nodes.value == other.nodes.value == {beam.name}


async def test_peers_of_other_ticktimes_keep_us_and_we_keep_them() -> None:
    async with open_node(unique("py"), cookie=COOKIE) as node, AsyncExitStack() as stack:
        beams = []
        for erlang in require_erlangs():
            for ticktime in ("8", "240"):
                flags = ("-kernel", "net_ticktime", ticktime)
                beam = await stack.enter_async_context(open_beam(erlang, flags=flags))
                await node.connect(beam.name)
                beams.append(beam)
        for beam in beams:
            await beam.eval("net_kernel:monitor_nodes(true, [{node_type, all}])")
        changes = record(node)
        await trio.sleep(13)  # beyond what a ticktime of 8 s bears, and beyond failure_timeout
        assert changes == []
        for beam in beams:
            downs = await beam.eval("receive {nodedown, N, _} -> N after 0 -> none end")
            assert downs == "none"


async def test_a_frozen_beam_node_is_silent_and_back_at_once(erlang: Erlang) -> None:
    async with (
        open_node(unique("py"), cookie=COOKIE, failure_timeout=3) as node,
        open_beam(erlang) as beam,
    ):
        await node.connect(beam.name)
        await sees(beam, node.name)  # it has answered, and so the first probe before it
        changes = record(node)
        beam.freeze()
        frozen_at = trio.current_time()
        with trio.fail_after(5):
            await node.nodes.wait_value(frozenset())
        assert 2 <= trio.current_time() - frozen_at <= 5
        assert [c.reason for c in changes if isinstance(c, PeerDown)] == ["silent"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.connect, beam.name)
            await trio.sleep(0.5)
            beam.thaw()
            with trio.fail_after(1.5):
                await node.nodes.wait_value(frozenset({NodeName(beam.name)}))
        await sees(beam, node.name)


async def test_ipv6_loopback(erlang: Erlang) -> None:
    flags = ("-proto_dist", "inet6_tcp")
    async with (
        open_node(unique("py", "::1"), cookie=COOKIE) as node,
        open_beam(erlang, unique("beam", "::1"), flags=flags) as beam,
    ):
        await node.connect(beam.name)
        await sees(beam, node.name)
        await node.disconnect(beam.name)
        assert await beam.eval(f"net_adm:ping('{node.name}')") == "pong"


async def test_short_names(erlang: Erlang) -> None:
    async with (
        open_node(unique("py", "localhost"), cookie=COOKIE) as node,
        open_beam(erlang, unique("beam", "localhost"), short=True) as beam,
    ):
        assert await beam.eval(f"net_adm:ping('{node.name}')") == "pong"
        await beam.eval(f"erlang:disconnect_node('{node.name}')")
        await node.nodes.wait_value(frozenset())
        await node.connect(beam.name)
        await sees(beam, node.name)


async def test_racing_connects_with_a_beam_node_end_with_one_connection(erlang: Erlang) -> None:
    for basename in ("a_first", "z_last"):  # sorted before and after the BEAM node's name
        async with (
            open_node(unique(basename), cookie=COOKIE) as node,
            open_beam(erlang, flags=DIALS_WHEN_TOLD) as beam,
        ):
            for _ in range(20):
                changes = record(node)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(node.connect, beam.name)
                    nursery.start_soon(beam.eval, f"net_kernel:connect_node('{node.name}')")
                await sees(beam, node.name)
                assert len(changes) == 1, changes
                await node.disconnect(beam.name)
                await sees(beam)


async def test_a_mesh_of_three_beam_and_two_python_nodes_stays_calm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No BEAM node disconnects another when a Python node comes, goes or dies."""
    erlangs = require_erlangs()
    mixed = [erlangs[0], erlangs[-1], erlangs[0]]
    async with AsyncExitStack() as stack:
        stays = await stack.enter_async_context(open_node(unique("py"), cookie=COOKIE))
        beams = [await stack.enter_async_context(open_beam(each)) for each in mixed]
        for beam in beams:
            for other in beams:
                await beam.eval(f"net_kernel:connect_node('{other.name}')")
            await stays.connect(beam.name)
        for beam in beams:
            await beam.eval("net_kernel:monitor_nodes(true)")
        mesh: list[str] = [beam.name for beam in beams]

        async def calm() -> None:
            for beam in beams:
                with trio.fail_after(3):
                    assert await beam.eval("global:sync()") == "ok"
                others = [name for name in mesh if name != beam.name]
                await sees(beam, stays.name, *others)

        await calm()
        for _ in range(3):
            async with open_node(unique("py"), cookie=COOKIE) as guest:
                for name in mesh:
                    await guest.connect(name)
                await guest.nodes.wait_value(frozenset(map(NodeName, mesh)))
            await calm()
            dying = await _python_node(mesh)
            for beam in beams:
                await until(partial(_contains, beam, "nodes()", dying.name))
            dying.process.kill()
            await dying.process.wait()
            await calm()
        for beam in beams:
            downs = await beam.eval(
                "(fun F(L) -> receive {nodedown, N} -> F([N|L]); {nodeup, _} -> F(L)"
                " after 0 -> L end end)([])"
            )
            assert not any(name in downs for name in mesh), downs
            assert not any("global" in line and "disconnect" in line for line in beam.log)


async def _contains(beam: Beam, code: str, text: str) -> bool:
    return text in await beam.eval(code)


class _Child:
    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self.process = process


async def _python_node(peers: list[str]) -> _Child:
    """A Python node in a process of its own, connected to the peers."""
    name = unique("py_child")
    code = (
        "import trio, sys\n"
        "from barnacle_trio.distribution import open_node\n"
        "async def main():\n"
        "    async with open_node(sys.argv[1], cookie=sys.argv[2]) as node:\n"
        "        for peer in sys.argv[3:]:\n"
        "            await node.connect(peer)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    process = await trio.lowlevel.open_process([sys.executable, "-c", code, name, COOKIE, *peers])
    return _Child(name, process)
