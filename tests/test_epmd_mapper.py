"""Port mappers inside programs: who serves, within one process and beside one of somebody else."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from barnacle_trio import _errors
from barnacle_trio._names import NodeName
from barnacle_trio.epmd import (
    Epmd,
    FixedPort,
    Registration,
    _client,
    _embedding,
    _mapper,
    names,
    open_registration,
)
from tests.epmd_lab import (
    PATIENCE,
    alive,
    connect,
    framed,
    open_python_node,
    processes_listening_at,
    real_epmd,
)
from tests.epmd_members import names_become, never_missing, nobody_serves, open_member
from tests.ports import free_port

# --- in one process -----------------------------------------------------------------------------


async def test_where_no_port_mapper_answers_a_node_runs_one_and_frees_its_name_by_leaving() -> None:
    port = free_port()
    async with open_member(Epmd(port=port), "one@127.0.0.1", 1111) as member:
        assert 4 <= member.creation < 2**32
        assert await names(port=port) == {"one": 1111}
        assert await Epmd(port=port).lookup(NodeName("one@127.0.0.1")) == 1111
        assert await Epmd(port=port).lookup(NodeName("one@::1")) == 1111
        assert await Epmd(port=port).names("localhost") == {"one": 1111}
        assert processes_listening_at(port) == {os.getpid()}
    with pytest.raises(_errors.PeerUnreachable):
        await names(port=port)


async def test_a_second_node_uses_the_first_ones_and_goes_on_with_it_without_a_gap() -> None:
    port = free_port()
    async with (
        open_member(Epmd(port=port), "one@127.0.0.1", 1111) as one,
        open_member(Epmd(port=port), "two@127.0.0.1", 2222) as two,
        open_member(Epmd(port=port), "three@127.0.0.1", 3333),
    ):
        assert await names(port=port) == {"one": 1111, "two": 2222, "three": 3333}
        assert len({one.creation, two.creation}) == 2
        async with never_missing(port, "three"):
            async with never_missing(port, "two"):
                one.scope.cancel()
                await names_become(port, {"two": 2222, "three": 3333})
            two.scope.cancel()
            await names_become(port, {"three": 3333})
    await nobody_serves(port)


async def test_nodes_that_leave_together_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_estate: object) -> None:
        pytest.fail("nobody was left to go on for")

    monkeypatch.setattr(_embedding, "hand_to_detached", never)
    port = free_port()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            for number in range(4):
                serve = partial(
                    Epmd(port=port).serve_registration,
                    NodeName(f"n{number}@127.0.0.1"),
                    port=1000 + number,
                    hidden=False,
                    addresses=["127.0.0.1"],
                )
                await nursery.start(serve)
            assert len(await names(port=port)) == 4
            scope.cancel()
    with pytest.raises(_errors.PeerUnreachable):
        await names(port=port)


async def test_a_taken_name_is_refused_plainly() -> None:
    port = free_port()
    async with open_member(Epmd(port=port), "one@127.0.0.1", 1111), trio.open_nursery() as nursery:
        serve = partial(
            Epmd(port=port).serve_registration,
            NodeName("one@127.0.0.1"),
            port=2222,
            hidden=False,
            addresses=[],
        )
        with pytest.raises(_errors.NameTakenError, match="'one' is taken"):
            await nursery.start(serve)
        assert await names(port=port) == {"one": 1111}


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """Set once a first registration is refused, which it then bears for long."""
    event = trio.Event()

    @asynccontextmanager
    async def telling(*arguments: Any, **options: Any) -> AsyncIterator[Registration]:
        try:
            async with open_registration(*arguments, **options) as registration:
                yield registration
        except _errors.NameTakenError:
            event.set()
            raise

    monkeypatch.setattr(_mapper, "open_registration", telling)
    monkeypatch.setattr(_mapper, "TAKEN_PATIENCE", PATIENCE)
    return event


async def test_a_name_whose_last_bearer_has_just_gone_is_waited_for(refused: trio.Event) -> None:
    """A port mapper hears that a connection has ended when it comes to it."""
    port = free_port()
    async with real_epmd(port), trio.open_nursery() as nursery:

        async def be_registered() -> None:
            async with open_member(Epmd(port=port), "one@127.0.0.1", 2222):
                assert await names(port=port) == {"one": 2222}

        async with open_registration("one", 1111, port=port):
            nursery.start_soon(be_registered)
            await refused.wait()


async def test_who_is_cancelled_while_it_waits_for_a_name_leaves_nothing(
    refused: trio.Event,
) -> None:
    port = free_port()
    mapper, one = Epmd(port=port), NodeName("one@127.0.0.1")
    serve = partial(mapper.serve_registration, one, port=2222, hidden=False, addresses=[])
    async with open_member(mapper, one, 1111):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await refused.wait()
            nursery.cancel_scope.cancel("it waits")
        assert mapper._registered == [(one, 1111)]
        assert await names(port=port) == {"one": 1111}
    await nobody_serves(port)


async def test_a_refused_namesake_leaves_the_node_that_bears_the_name_as_it_was() -> None:
    port = free_port()
    mapper = Epmd(port=port)
    one = NodeName("one@127.0.0.1")
    async with open_member(mapper, one, 1111), trio.open_nursery() as nursery:
        for other in (2222, 1111):
            serve = partial(mapper.serve_registration, one, port=other, hidden=False, addresses=[])
            with pytest.raises(_errors.NameTakenError):
                await nursery.start(serve)
        async with await connect(port) as liar:
            await liar.send_all(framed(alive(b"two", 1111)))
            await liar.receive_some()
            with pytest.raises(_errors.RemoteProtocolError, match="that of one@127"):
                await mapper.lookup(NodeName("two@127.0.0.1"))
    async with open_member(mapper, "two@127.0.0.1", 1111):  # the port is nobody else's any more
        assert await mapper.lookup(NodeName("two@127.0.0.1")) == 1111


async def test_lookups_are_answered_where_nodes_of_this_process_can_be_reached() -> None:
    port = free_port()
    here = NodeName("one@127.0.0.1"), NodeName("one@127.0.0.2"), NodeName("one@127.0.0.3")
    mapper = Epmd(port=port)
    async with open_member(mapper, "one@127.0.0.2", 1111, ["127.0.0.2"]):
        assert [await mapper.lookup(name) for name in here[:2]] == [1111, 1111]
        with pytest.raises(_errors.PeerUnreachable, match="no port mapper answers"):
            await mapper.lookup(here[2])
        async with open_member(Epmd(port=port), "two@127.0.0.3", 2222, ["127.0.0.3"]):
            assert [await mapper.lookup(name) for name in here] == [1111] * 3


async def test_a_foreign_registration_opens_all_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    monkeypatch.setenv("ERL_EPMD_ADDRESS", "127.0.0.2, 127.0.0.3")
    async with open_member(Epmd(port=port), "one@127.0.0.1", 1111) as member:
        with pytest.raises(_errors.PeerUnreachable):
            await names("127.0.0.2", port)
        async with await connect(port) as foreign:
            await foreign.send_all(framed(alive(b"beam")))
            await foreign.receive_some()
            for host in ("127.0.0.2", "127.0.0.3"):
                assert await names(host, port) == {"one": 1111, "beam": 1234}
            with pytest.raises(_errors.PeerUnreachable):
                await names("127.0.0.4", port)
            monkeypatch.delenv("ERL_EPMD_ADDRESS")
            async with await connect(port) as another:
                await another.send_all(framed(alive(b"other")))
                await another.receive_some()
                assert (await names("127.0.0.4", port))["beam"] == 1234
            await foreign.aclose()
            await names_become(port, {"one": 1111})
        member.scope.cancel()


async def test_an_unknown_peer_is_unreachable_and_our_own_port_is_no_peers() -> None:
    port = free_port()
    mapper = Epmd(port=port)
    async with open_member(mapper, "one@127.0.0.1", 1111):
        with pytest.raises(_errors.PeerUnreachable, match="not registered"):
            await mapper.lookup(NodeName("two@127.0.0.1"))
        async with await connect(port) as liar:
            await liar.send_all(framed(alive(b"two", 1111)))
            await liar.receive_some()
            with pytest.raises(_errors.RemoteProtocolError, match="that of one@127"):
                await mapper.lookup(NodeName("two@127.0.0.1"))


async def test_what_cannot_be_asked_for() -> None:
    for wrong in (0, -1, 65536):
        with pytest.raises(_errors.ConfigurationError):
            Epmd(port=wrong)
        with pytest.raises(_errors.ConfigurationError):
            FixedPort(wrong)


async def test_a_fixed_port_needs_no_port_mapper() -> None:
    mapper = FixedPort(9100)
    assert mapper.fixed == 9100
    assert Epmd(port=4369).fixed is None
    assert await mapper.lookup(NodeName("any@example.org")) == 9100
    with pytest.raises(_errors.ConfigurationError):
        await mapper.names("127.0.0.1")
    creations = set()
    for _ in range(5):
        async with open_member(mapper, "one@127.0.0.1", 9100) as member:
            creations.add(member.creation)
    assert len(creations) == 5
    assert all(4 <= creation < 2**32 for creation in creations)
    async with trio.open_nursery() as nursery:
        serve = partial(
            mapper.serve_registration,
            NodeName("one@127.0.0.1"),
            port=9101,
            hidden=False,
            addresses=[],
        )
        with pytest.raises(_errors.ConfigurationError, match="9100"):
            await nursery.start(serve)


# --- beside a port mapper of somebody else ------------------------------------------------------


async def test_without_a_port_mapper_and_without_running_one_a_node_does_not_start() -> None:
    async with trio.open_nursery() as nursery:
        serve = partial(
            Epmd(port=free_port(), embed=False).serve_registration,
            NodeName("one@127.0.0.1"),
            port=1111,
            hidden=False,
            addresses=[],
        )
        with pytest.raises(_errors.PeerUnreachable, match="no port mapper answers"):
            await nursery.start(serve)


async def test_a_mute_holder_of_the_port_ends_the_start(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(_client, "QUERY_DEADLINE", 0.2)
    monkeypatch.setattr(_mapper, "START_DEADLINE", 0.1)
    port: int = (await nursery.start(trio.serve_tcp, _mute, 0))[0].socket.getsockname()[1]
    with pytest.raises(_errors.PeerUnreachable, match="did not answer"):
        await nursery.start(
            partial(
                Epmd(port=port).serve_registration,
                NodeName("one@127.0.0.1"),
                port=1111,
                hidden=False,
                addresses=[],
            )
        )
    nursery.cancel_scope.cancel()


async def _mute(_stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def test_otps_epmd_is_used_and_when_it_dies_a_node_takes_its_place() -> None:
    port = free_port()
    async with (
        real_epmd(port) as epmd,
        open_member(Epmd(port=port), "one@127.0.0.1", 1111) as one,
        open_member(Epmd(port=port), "two@127.0.0.1", 2222),
        open_python_node("three@127.0.0.1", 3333, port),
    ):
        everybody = {"one": 1111, "two": 2222, "three": 3333}
        assert await names(port=port) == everybody
        assert processes_listening_at(port) == {epmd.pid}
        assert one.creation >= 4
        epmd.kill()
        await epmd.wait()
        await names_become(port, everybody, within=2)
        assert len(processes_listening_at(port)) == 1


async def test_without_running_one_a_node_waits_until_the_port_mapper_is_back() -> None:
    port = free_port()
    async with (
        real_epmd(port) as epmd,
        open_member(Epmd(port=port, embed=False), "one@127.0.0.1", 1111),
    ):
        epmd.kill()
        await nobody_serves(port)
        for _ in range(2):
            async with real_epmd(port):
                await names_become(port, {"one": 1111}, within=1.5)
            await nobody_serves(port)


async def test_an_old_entry_not_yet_dropped_is_waited_for(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    refusals = 0

    async def flawed(stream: trio.SocketStream) -> None:
        nonlocal refusals
        request = await stream.receive_some()
        if request[2:3] == b"x" and 0 < refusals < 5:
            refusals += 1
            await stream.send_all(bytes.fromhex("760100000063"))
            return
        refusals += 1
        await stream.send_all(bytes.fromhex("760000001000"))
        if refusals > 1:
            registered.set()
            await trio.sleep_forever()

    registered = trio.Event()
    await nursery.start(partial(trio.serve_tcp, flawed, port, host="127.0.0.1"))
    async with open_member(Epmd(port=port), "one@127.0.0.1", 1111) as member:
        assert member.creation == 0x1000
        with trio.fail_after(PATIENCE):
            await registered.wait()
    assert refusals == 6
    assert caplog.text.count("cannot be registered again yet") == 1
