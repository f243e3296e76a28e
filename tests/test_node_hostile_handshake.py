"""A whole node against peers that do not know the cookie, in both roles of the handshake."""

from __future__ import annotations

import logging
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from barnacle_trio._errors import (
    ConfigurationError,
    CookieRejected,
    HandshakeRefused,
    PeerUnreachable,
)
from barnacle_trio._names import NodeName
from barnacle_trio.distribution import Node, _acceptor, open_node
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._addresses import WILDCARD
from barnacle_trio.distribution._challenges import MAX_REMEMBERED, digest
from barnacle_trio.distribution._cookie import Cookies
from barnacle_trio.distribution._flags import OUR_FLAGS
from barnacle_trio.distribution._frames import frame
from barnacle_trio.distribution._guessing import GUESSES, PAUSE, PROOF_PAUSE, PROOFS
from barnacle_trio.distribution._network import Accept
from barnacle_trio.distribution._node import run_node
from barnacle_trio.etf import Atom, Pid
from tests.handshakes import challenge_in
from tests.intruder import drained, message, name_message

LOCAL = NodeName("victim@h")
COOKIE = b"correct horse"
Answer = Callable[[trio.abc.Stream], Awaitable[object]]


class Street:
    """A network in which a test is everybody else: it knocks, and answers.

    ``answer`` is who answers when the node dials, on a stream that is closed after it.
    """

    def __init__(self) -> None:
        self.answer: Answer = drained

    async def serve(self, accept: Accept, *, task_status: trio.TaskStatus[int]) -> None:
        self._accept = accept
        async with trio.open_nursery() as self._nursery:
            task_status.started(1)
            await trio.sleep_forever()

    def knock(self) -> trio.abc.Stream:
        """Connect to the node."""
        ours, theirs = memory_stream_pair()
        self._nursery.start_soon(self._accept, theirs)
        return ours

    async def dial(self, _name: NodeName) -> tuple[trio.abc.Stream, Hashable]:
        await trio.lowlevel.checkpoint()
        ours, theirs = memory_stream_pair()
        self._nursery.start_soon(self._run, self.answer, theirs)
        return ours, 1

    async def _run(self, answer: Answer, stream: trio.abc.Stream) -> None:
        try:
            await answer(stream)
        except (EOFError, trio.BrokenResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    def forget(self, name: NodeName) -> None:
        pass

    async def withdraw(self) -> None:
        await trio.lowlevel.checkpoint()

    async def locate(self, _name: NodeName) -> Hashable:
        await trio.lowlevel.checkpoint()
        return None

    def acknowledged(self, _stream: trio.abc.Stream) -> int | None:
        return None

    def unheard(self, _stream: trio.abc.Stream) -> float | None:
        return None


@asynccontextmanager
async def open_victim(**options: Any) -> AsyncIterator[tuple[Node, Street]]:
    street = Street()
    async with run_node(LOCAL, street, cookies=Cookies(COOKIE), **options) as node:
        yield node, street


async def read(stream: trio.abc.Stream, count: int) -> bytes:
    """So many messages of the handshake."""
    data = b""
    for _ in range(count):
        part = b""
        while len(part) < 2 or len(part) < 2 + int.from_bytes(part[:2]):
            size = 2 - len(part) if len(part) < 2 else 2 + int.from_bytes(part[:2]) - len(part)
            more = await stream.receive_some(size)
            if not more:
                raise EOFError
            part += more
        data += part
    return data


async def take_challenge(stream: trio.abc.Stream, name: str) -> int:
    """Give a name to a node that was dialled, and stop at its challenge."""
    await stream.send_all(name_message(name.encode()))
    return challenge_in(await read(stream, 2))


async def prove(stream: trio.abc.Stream, challenge: int, proof: bytes) -> None:
    await stream.send_all(message(b"r" + struct.pack(">I", challenge) + proof))


async def guess(street: Street, name: str, cookie: bytes = b"wrong") -> bool:
    """Try a cookie. False: no challenge was given. True: it was, and the answer was a close."""
    stream = street.knock()
    try:
        challenge = await take_challenge(stream, name)
        await prove(stream, 4711, digest(cookie, challenge))
        assert await stream.receive_some(100) == b""
    except EOFError:
        return False
    finally:
        await trio.aclose_forcefully(stream)
    return True


async def enter(street: Street, name: str, after: bytes = b"") -> trio.abc.Stream:
    """Know the cookie, and be let in."""
    stream = street.knock()
    challenge = await take_challenge(stream, name)
    await stream.send_all(
        message(b"r" + struct.pack(">I", 4711) + digest(COOKIE, challenge)) + after
    )
    assert (await read(stream, 1))[2:3] == b"a"
    return stream


def challenge_message(name: str, challenge: int, flags: int = int(OUR_FLAGS)) -> bytes:
    body = struct.pack(">cQIIH", b"N", flags, challenge, 7, len(name)) + name.encode()
    return message(b"sok") + message(body)


# -- it is dialled ---------------------------------------------------------------------------------


async def test_30_31_silence_and_a_drip_end_at_the_deadline(autojump_clock: MockClock) -> None:
    async with open_victim() as (node, street), trio.open_nursery() as nursery:
        silent, dripping = street.knock(), street.knock()

        async def drip() -> None:
            for byte in name_message(b"slow@h"):
                await trio.sleep(1)
                await dripping.send_all(bytes([byte]))

        async def broken() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await drip()
            assert trio.current_time() <= _acceptor.HANDSHAKE_TIMEOUT + 1

        nursery.start_soon(broken)
        assert await drained(silent) == b""
        assert trio.current_time() == _acceptor.HANDSHAKE_TIMEOUT
        assert node._doorkeeper.strangers == 0


async def test_32_of_many_half_open_handshakes_the_oldest_go_first(
    autojump_clock: MockClock,
) -> None:
    async with open_victim() as (node, street):
        streams = []
        for _ in range(_acceptor.MAX_STRANGERS):
            streams.append(street.knock())
            await wait_all_tasks_blocked()  # or chance would decide who comes first
        late = street.knock()
        await wait_all_tasks_blocked()
        assert node._doorkeeper.strangers == _acceptor.MAX_STRANGERS
        assert await streams[0].receive_some(1) == b"", "the oldest one was closed"
        with trio.move_on_after(1) as waiting:
            await streams[1].receive_some(1)
        assert waiting.cancelled_caught, "the next one was not"
        await enter(street, "good@h")
        assert await streams[1].receive_some(1) == b""
        await late.send_all(name_message(b"late@h"))
        assert (await read(late, 1))[2:] == b"sok"


async def test_40_a_wrong_cookie_is_never_up_and_sees_no_answer(autojump_clock: MockClock) -> None:
    async with open_victim() as (node, street):
        changes: list[Any] = []
        node.subscribe(changes.append)
        assert await guess(street, "stranger@h")
        assert changes == []


async def test_41_a_thousand_guesses_in_a_second_are_not_heard(autojump_clock: MockClock) -> None:
    chance = random.Random(41)
    heard: list[bool] = []

    async with open_victim() as (node, street), trio.open_nursery() as nursery:

        async def attack(number: int) -> None:
            heard.append(await guess(street, f"stranger{number}@h"))

        async def flood() -> None:
            for number in range(5_000):
                nursery.start_soon(attack, number)
                await trio.sleep(chance.expovariate(1000))

        await trio.aclose_forcefully(await enter(street, "known@h"))
        began = trio.current_time()
        nursery.start_soon(flood)
        await trio.sleep(2)
        with trio.fail_after(0.01):  # who proved the cookie once is not slowed down
            known = await enter(street, "known@h")
        tries = 0
        while True:  # a newcomer at the same address tries again, and gets in
            tries += 1
            try:
                good = await enter(street, "good@h")
                break
            except EOFError:
                await trio.sleep(0.2 * chance.random())
        assert tries <= 100
        assert {"known@h", "good@h"} <= node.hidden_nodes.value | node.nodes.value
        while len(heard) < 5_000:  # noqa: ASYNC110 - the rest of the flood
            await trio.sleep(0.1)
        assert sum(heard) <= GUESSES + (trio.current_time() - began) / PAUSE + 128
        assert {"known@h", "good@h"} <= node.hidden_nodes.value | node.nodes.value
        await known.aclose()
        await good.aclose()


async def test_43_reflection_succeeds_in_none_of_a_thousand_tries(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Who does not know the cookie has the node answer its own challenges, in every way there is.

    Each try is at all of: the challenge of a connection that we dialled, still open; of one that
    has ended; the one that the node gave where it dialled us.
    """
    caplog.set_level(logging.CRITICAL)
    counted = {"pending": 0, "ended": 0, "from its own dial": 0}
    answers, successes = 0, 0
    challenge = 0
    given: list[int] = []

    async def reflect(stream: trio.abc.Stream) -> None:
        nonlocal answers
        await read(stream, 1)
        await stream.send_all(challenge_message("mirror@h", challenge))
        answer = await drained(stream)
        answers += bool(answer)

    async def take(stream: trio.abc.Stream) -> None:
        """Be dialled, give a challenge of our own, and keep the node's."""
        await read(stream, 1)
        await stream.send_all(challenge_message("mirror@h", random.getrandbits(32)))
        given.append(challenge_in(await read(stream, 1)))

    async with open_victim() as (node, street):
        changes: list[Any] = []
        node.subscribe(changes.append)
        for number in range(1000):
            street.answer = reflect
            stream = street.knock()
            challenge = await take_challenge(stream, f"mirror{number}@h")
            way = ("pending", "ended", "from its own dial")[number % 3]
            if way == "ended":
                await stream.aclose()
                await wait_all_tasks_blocked()
            elif way == "from its own dial":
                street.answer = take
                with pytest.raises(CookieRejected):
                    await node.connect("mirror@h")
                challenge = given.pop()
                street.answer = reflect
                await trio.sleep(PROOF_PAUSE)
            with pytest.raises(HandshakeRefused, match="itself issued"):
                await node.connect("mirror@h")
            counted[way] += 1
            await trio.aclose_forcefully(stream)
            successes += len(changes)
        assert (answers, successes) == (0, 0)
        assert sum(counted.values()) == 1000
        assert min(counted.values()) >= 333
        assert node.nodes.value | node.hidden_nodes.value == frozenset()


async def test_43_a_challenge_of_the_node_as_dialler_is_proven_to_nobody_by_itself_as_acceptor(
    autojump_clock: MockClock,
) -> None:
    """The other direction: it dials us, and we have it prove its challenge where we dial it."""
    told: list[bytes] = []

    async with open_victim() as (node, street):

        async def be_dialled(stream: trio.abc.Stream) -> None:
            await read(stream, 1)
            await stream.send_all(challenge_message("mirror@h", 99))
            wanted = challenge_in(await read(stream, 1))  # prove this, and we are in
            other = street.knock()
            await take_challenge(other, "second@h")
            await prove(other, wanted, bytes(16))
            told.append(await drained(other))

        street.answer = be_dialled
        with pytest.raises(CookieRejected):
            await node.connect("mirror@h")
        assert told == [b""], "it proves nothing before the other side has"


async def test_44_a_name_alone_cuts_no_living_connection(autojump_clock: MockClock) -> None:
    async with open_victim() as (node, street):
        changes: list[Any] = []
        node.subscribe(changes.append)
        friend = await enter(street, "friend@h")
        thief = street.knock()
        await thief.send_all(name_message(b"friend@h"))
        assert (await read(thief, 1))[2:] == b"salive"
        await thief.send_all(message(b"strue"))
        await read(thief, 1)
        await prove(thief, 4711, bytes(16))
        assert await drained(thief) == b""
        assert len(changes) == 1, "the friend is up, and nothing else happened"
        await friend.send_all(bytes(4))
        assert node.hidden_nodes.value | node.nodes.value == {"friend@h"}


async def test_45_who_is_not_allowed_sees_no_challenge_and_is_not_dialled(
    autojump_clock: MockClock,
) -> None:
    async with open_victim(allowed=lambda name: name.basename == "good") as (node, street):
        stream = street.knock()
        await stream.send_all(name_message(b"bad@h"))
        assert await drained(stream) == message(b"snot_allowed")
        with pytest.raises(HandshakeRefused, match="allow"):
            await node.connect("bad@h")
        await enter(street, "good@h")


async def test_46_many_names_before_the_proof_leave_nothing_behind(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[object] = []
    monkeypatch.setattr(control, "parse", lambda *args, **_: decoded.append(args))
    async with open_victim() as (node, street):

        async def ask(number: int) -> None:
            stream = street.knock()
            await take_challenge(stream, f"{'x' * 200}{number}@h")
            await trio.aclose_forcefully(stream)

        for start in range(0, 2000, 100):
            async with trio.open_nursery() as nursery:
                for number in range(start, start + 100):
                    nursery.start_soon(ask, number)
        await wait_all_tasks_blocked()
        assert node._doorkeeper.strangers == 0
        assert len(node._doorkeeper._guesses) == 0
        assert node._dialler._inbound == {}
        assert node._local.challenges.remembered <= min(2000, MAX_REMEMBERED)
        assert len(node._peers) == 0
        assert decoded == []


def greeting(text: bytes) -> bytes:
    sender = Pid(node=Atom("early@h"), id=1, serial=0, creation=7)
    return frame(control.reg_send(sender, Atom("desk"), text))


async def test_48_what_follows_a_right_proof_is_read_and_what_follows_a_wrong_one_is_not(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_victim() as (node, street), node.open_mailbox("desk") as desk:
        await enter(street, "early@h", after=greeting(b"let in"))
        assert await desk.receive() == b"let in"

        def no_frame(*_args: object, **_options: object) -> None:
            raise AssertionError("a frame was decoded before the proof")

        monkeypatch.setattr(control, "parse", no_frame)
        stream = street.knock()
        await take_challenge(stream, "wrong@h")
        proof = message(b"r" + bytes(4) + bytes(16))
        await stream.send_all(proof + greeting(b"let me in") * 100)
        assert await drained(stream) == b""


async def test_50_a_request_for_a_name_is_declined(autojump_clock: MockClock) -> None:
    async with open_victim() as (_, street):
        stream = street.knock()
        await stream.send_all(name_message(b"h", int(OUR_FLAGS) | 1 << 33))
        assert await drained(stream) == message(b"snot_allowed")


# -- it dials --------------------------------------------------------------------------------------


async def test_54_who_cannot_prove_the_cookie_is_never_up(autojump_clock: MockClock) -> None:
    async def pretend(stream: trio.abc.Stream) -> None:
        await read(stream, 1)
        await stream.send_all(challenge_message("liar@h", 99))
        await read(stream, 1)
        await stream.send_all(message(b"a" + bytes(16)) + greeting(b"hello"))

    async with open_victim() as (node, street):
        changes: list[Any] = []
        node.subscribe(changes.append)
        street.answer = pretend
        with pytest.raises(CookieRejected):
            await node.connect("liar@h")
        assert changes == []


async def test_55_who_never_acknowledges_is_given_up_in_time(autojump_clock: MockClock) -> None:
    async def stop(stream: trio.abc.Stream) -> None:
        await read(stream, 1)
        await stream.send_all(challenge_message("mute@h", 99))
        await drained(stream)

    async with open_victim() as (node, street):
        street.answer = stop
        with pytest.raises(PeerUnreachable):
            await node.connect("mute@h")
        assert trio.current_time() == pytest.approx(7.0)


async def test_57_an_oracle_gets_few_proofs_and_only_of_who_is_dialled(
    autojump_clock: MockClock,
) -> None:
    """Each proof lets its receiver try cookies offline, or be relayed to another node."""
    proofs: list[bytes] = []

    async def collect(stream: trio.abc.Stream) -> None:
        await read(stream, 1)
        await stream.send_all(challenge_message("oracle@h", len(proofs)))
        proofs.append(await read(stream, 1))

    async with open_victim() as (node, street):
        street.answer = collect
        refused = 0
        for _ in range(1000):
            try:
                await node.connect("oracle@h")
            except CookieRejected:
                pass
            except PeerUnreachable as error:
                refused += "took proof of the cookie too often" in str(error)
            await trio.sleep(0.01)
        assert len(proofs) <= PROOFS + trio.current_time() / PROOF_PAUSE + 1
        assert refused == 1000 - len(proofs)


# -- operators -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"cookie": "short"},
        {"cookie": "long enough for anybody", "cookies": {"db*": "short"}},
    ],
)
async def test_90_a_short_cookie_stays_on_loopback(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="insecure_cookie") as caught:
        async with open_node("app@127.0.0.1", listen=(WILDCARD[0], 0), **options):
            pass
    assert "short" not in str(caught.value)


@pytest.mark.usefixtures("epmd_port")
async def test_90_unless_that_is_asked_for() -> None:
    async with open_node(
        "app@127.0.0.1", cookie="short", listen=(WILDCARD[0], 0), insecure_cookie=True
    ):
        pass
