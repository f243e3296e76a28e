"""The strategies that go by port mappers and by lists."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio

from barnacle_trio._errors import ConfigurationError, PeerUnreachable, RemoteProtocolError
from barnacle_trio._names import NodeName
from barnacle_trio._strategy import Discovery, Strategy, discover
from barnacle_trio.epmd import open_registration
from barnacle_trio.strategies import epmd, local_epmd
from tests.epmd_lab import real_epmd
from tests.epmd_members import registered

LOCAL = NodeName("my_app@10.0.0.7")


async def ask(strategy: Strategy, local: str = LOCAL) -> Discovery:
    with trio.fail_after(15):
        return await discover(strategy, NodeName(local))


def told(answer: Discovery) -> tuple[str, set[str]]:
    return answer.kind, set(answer.nodes)


@pytest.fixture
async def mapper(epmd_port: int) -> AsyncIterator[trio.Process]:
    """OTP's own port mapper, on a port of its own."""
    async with real_epmd(epmd_port) as process:
        yield process


class TestLocalEpmd:
    @pytest.mark.parametrize("local", ["my_app@10.0.0.7", "my_app@127.0.0.1", "my_app@fd00::7"])
    async def test_the_others_of_this_host_bear_its_address(
        self, mapper: trio.Process, local: str
    ) -> None:
        host = NodeName(local).host
        async with registered("my_app", "other", "third"):
            answer = await ask(local_epmd(), local)
            assert told(answer) == ("complete", {f"other@{host}", f"third@{host}"})
        assert told(await ask(local_epmd(), local)) == ("complete", set())

    @pytest.mark.parametrize(
        "match",
        ["worker*", "worker*@10.0.0.7", lambda name: name.basename[-1] == "1", ["x", "w*1"]],
    )
    async def test_a_match_chooses(self, mapper: trio.Process, match: str) -> None:
        async with open_registration("worker1", 4000), open_registration("rem_shell", 4001):
            answer = await ask(local_epmd(match=match))
        assert told(answer) == ("complete", {"worker1@10.0.0.7"})

    async def test_several_matches_may_come_from_an_iterator(self, mapper: trio.Process) -> None:
        strategy = local_epmd(match=iter(["a", "b"]))
        async with open_registration("a", 4000), open_registration("c", 4001):
            for _ in range(2):
                assert told(await ask(strategy)) == ("complete", {"a@10.0.0.7"})

    async def test_no_port_mapper_is_a_failure(self, epmd_port: int) -> None:
        answer = await ask(local_epmd())
        assert told(answer) == ("failed", set())
        assert answer.error is not None
        assert isinstance(answer.error.__cause__, PeerUnreachable)
        assert str(epmd_port) in answer.error.reason

    async def test_something_else_on_its_port_is_a_failure(self, epmd_port: int) -> None:
        async def greet(stream: trio.SocketStream) -> None:
            async with stream:
                await stream.receive_some()
                await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        async with trio.open_nursery() as nursery:
            await nursery.start(partial(trio.serve_tcp, greet, epmd_port, host="127.0.0.1"))
            answer = await ask(local_epmd())
            nursery.cancel_scope.cancel("the test is over")
        assert told(answer) == ("failed", set())
        assert answer.error is not None
        assert isinstance(answer.error.__cause__, RemoteProtocolError)

    async def test_a_faulty_predicate_is_a_bug(self, mapper: trio.Process) -> None:
        def faulty(name: NodeName) -> bool:
            raise ZeroDivisionError(name)

        async with open_registration("other", 4000):
            with pytest.raises(ZeroDivisionError):
                await ask(local_epmd(match=faulty))

    def test_what_is_no_match_is_refused_at_the_call(self) -> None:
        with pytest.raises(ConfigurationError, match="glob"):
            local_epmd(match=7)  # type: ignore[arg-type]

    def test_its_repr_is_its_call(self) -> None:
        assert repr(local_epmd()) == "local_epmd()"
        assert repr(local_epmd(match="a*")) == "local_epmd(match='a*')"


class TestKnownList:
    async def test_it_is_the_answer(self) -> None:
        listed = ["a@10.0.0.1", "b@fd00::1", "a@10.0.0.1", str(LOCAL)]
        assert told(await ask(epmd(listed))) == ("complete", set(listed))
        assert told(await ask(epmd(iter(listed)))) == ("complete", set(listed))
        assert told(await ask(epmd([]))) == ("complete", set())

    def test_a_bad_name_is_refused_at_the_call_and_named(self) -> None:
        with pytest.raises(ConfigurationError, match=r"'a10\.0\.0\.1'.*'@'") as caught:
            epmd(["good@10.0.0.1", "a10.0.0.1", "b@"])
        assert "'b@'" in str(caught.value)

    @pytest.mark.parametrize("nodes", ["a@10.0.0.1", b"b@10.0.0.1", None, 7])
    def test_what_is_no_list_is_refused_at_the_call(self, nodes: object) -> None:
        with pytest.raises(ConfigurationError, match="list of node names"):
            epmd(nodes)  # type: ignore[arg-type]

    def test_its_repr_stays_short(self) -> None:
        assert repr(epmd(["b@h", "a@h"])) == "epmd(['a@h', 'b@h'])"
        assert repr(epmd(f"{index}@h" for index in range(9))) == (
            "epmd(['0@h', '1@h', '2@h', ... 6 more])"
        )
