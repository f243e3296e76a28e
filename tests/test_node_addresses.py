"""A host of several addresses: each gets its turn, and silence costs but the attempt it befell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio.distribution import _tcp as tcp_module
from barnacle_trio.distribution._tcp import CONNECT_PATIENCE, MAX_ATTEMPTS, STAGGER, _connect

PORT = 9100
ANSWERS = "10.0.1.1"
Attempt = Callable[[], Awaitable[None]]


def silent(count: int) -> list[str]:
    return [f"10.0.0.{number}" for number in range(count)]


async def refuse() -> None:
    await trio.lowlevel.checkpoint()
    raise ConnectionRefusedError("refused")


class Hosts:
    """What the addresses do when they are connected to: silence, unless told otherwise."""

    def __init__(self) -> None:
        self.attempts: list[tuple[str, float]] = []
        self.answers: dict[str, list[Attempt]] = {ANSWERS: [trio.lowlevel.checkpoint]}
        self.streams: list[trio.SocketStream] = []
        self.running = 0
        self.most = 0

    async def connect_one(self, address: str, port: int) -> trio.SocketStream:
        assert port == PORT
        self.attempts.append((address, trio.current_time()))
        answers = self.answers.get(address, [])
        # The last one holds for the attempts that follow, too.
        answer = answers.pop(0) if len(answers) > 1 else (answers or [trio.sleep_forever])[0]
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await answer()
        finally:
            self.running -= 1
        stream = trio.SocketStream(trio.socket.socket())
        self.streams.append(stream)
        return stream

    def started(self, address: str) -> list[float]:
        return [at for other, at in self.attempts if other == address]

    def open(self) -> list[trio.SocketStream]:
        return [stream for stream in self.streams if stream.socket.fileno() != -1]


@pytest.fixture
async def hosts(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hosts]:
    hosts = Hosts()
    monkeypatch.setattr(tcp_module, "_connect_one", hosts.connect_one)
    yield hosts
    assert hosts.running == 0
    for stream in hosts.open():
        stream.socket.close()


@contextmanager
def takes(seconds: float) -> Iterator[None]:
    start = trio.current_time()
    yield
    assert trio.current_time() - start == pytest.approx(seconds)


@pytest.mark.parametrize("patient", [True, False])
@pytest.mark.parametrize("count", [1, 4, 10, 15])
async def test_an_address_after_many_silent_ones_is_reached_in_its_turn(
    count: int, patient: bool, hosts: Hosts, autojump_clock: MockClock
) -> None:
    with trio.fail_after(60), takes(count * STAGGER):
        stream = await _connect([*silent(count), ANSWERS], PORT, patient=patient)
    assert hosts.running == 0
    assert hosts.open() == [stream]


async def test_more_silent_addresses_than_attempts_at_once_hide_nobody(
    hosts: Hosts, autojump_clock: MockClock
) -> None:
    count = MAX_ATTEMPTS + 6
    with trio.fail_after(7):
        stream = await _connect([*silent(count), ANSWERS], PORT, patient=True)
    assert hosts.most <= MAX_ATTEMPTS
    assert hosts.running == 0
    assert hosts.open() == [stream]


@pytest.mark.parametrize("others", [0, 1, 8])
async def test_a_silent_attempt_is_replaced_after_a_second_beside_others(
    others: int, hosts: Hosts, autojump_clock: MockClock
) -> None:
    hosts.answers[ANSWERS] = [trio.sleep_forever, trio.lowlevel.checkpoint]
    with trio.fail_after(60), takes(CONNECT_PATIENCE):
        stream = await _connect([ANSWERS, *silent(others)], PORT, patient=True)
    assert len(hosts.started(ANSWERS)) == 2
    assert hosts.open() == [stream]


async def test_each_silent_address_has_an_attempt_a_second_and_one_at_a_time(
    hosts: Hosts, autojump_clock: MockClock
) -> None:
    addresses = silent(6)
    start = trio.current_time()
    with trio.move_on_after(4.9):
        await _connect(addresses, PORT, patient=True)
    for turn, address in enumerate(addresses):
        first = start + turn * STAGGER
        expected = [first + again for again in range(5) if first + again < start + 4.9]
        assert hosts.started(address) == pytest.approx(expected)
    assert hosts.most == len(addresses)


async def test_a_refusal_beside_silence_is_asked_again_after_a_second(
    hosts: Hosts, autojump_clock: MockClock
) -> None:
    hosts.answers[ANSWERS] = [refuse, trio.lowlevel.checkpoint]  # it was just being started
    with trio.fail_after(60), takes(CONNECT_PATIENCE):
        stream = await _connect([ANSWERS, *silent(1)], PORT, patient=True)
    assert hosts.open() == [stream]


@pytest.mark.parametrize("patient", [True, False])
@pytest.mark.parametrize("count", [1, 2, 40])
async def test_where_all_addresses_refuse_the_dial_fails_at_once(
    count: int, patient: bool, hosts: Hosts, autojump_clock: MockClock
) -> None:
    addresses = silent(count)
    hosts.answers |= {address: [refuse] for address in addresses}
    with takes(0), pytest.raises(ConnectionRefusedError):
        await _connect(addresses, PORT, patient=patient)
    assert len(hosts.attempts) == count


async def test_an_attempt_under_way_outlasts_its_former_refusal(
    hosts: Hosts, autojump_clock: MockClock
) -> None:
    async def refuse_late() -> None:
        await trio.sleep(CONNECT_PATIENCE / 2)
        await refuse()

    one, other = silent(2)
    hosts.answers |= {one: [refuse, trio.sleep_forever], other: [trio.sleep_forever, refuse_late]}
    with trio.move_on_after(5) as scope:
        await _connect([one, other], PORT, patient=True)
    assert scope.cancelled_caught


async def test_without_patience_each_address_has_one_attempt(
    hosts: Hosts, autojump_clock: MockClock
) -> None:
    addresses = silent(6)
    with takes(5 * STAGGER + CONNECT_PATIENCE), pytest.raises(OSError, match="within 1 s"):
        await _connect(addresses, PORT, patient=False)
    assert [address for address, _ in hosts.attempts] == addresses


async def test_who_answers_too_late_to_win_is_closed(
    hosts: Hosts, autojump_clock: MockClock
) -> None:
    async def answer_at_the_same_moment() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(3 * STAGGER)

    first, second = silent(2)
    hosts.answers |= {address: [answer_at_the_same_moment] for address in (first, second)}
    with trio.fail_after(60):
        stream = await _connect([first, second], PORT, patient=True)
    assert len(hosts.streams) == 2
    assert hosts.open() == [stream]


async def test_a_dial_cancelled_as_it_is_answered_leaves_no_socket_open(
    hosts: Hosts, autojump_clock: MockClock
) -> None:
    scope = trio.CancelScope()

    async def answer_and_cancel() -> None:
        await trio.lowlevel.checkpoint()
        scope.cancel()

    hosts.answers |= {"10.0.0.1": [answer_and_cancel]}
    with scope:
        await _connect(silent(3), PORT, patient=True)
    assert scope.cancelled_caught
    assert len(hosts.streams) == 1
    assert hosts.open() == []


class _SilentSocket:
    def __init__(self) -> None:
        self.closed = False

    async def connect(self, _address: object) -> None:
        await trio.sleep_forever()

    def close(self) -> None:
        self.closed = True


async def test_the_sockets_of_attempts_given_up_are_closed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[_SilentSocket] = []
    most = 0

    def make(*_: object) -> _SilentSocket:
        nonlocal most
        made.append(_SilentSocket())
        most = max(most, sum(not sock.closed for sock in made))
        return made[-1]

    monkeypatch.setattr(trio.socket, "socket", make)
    with trio.move_on_after(7) as scope:
        await _connect(silent(40), PORT, patient=True)
    assert scope.cancelled_caught
    assert most == MAX_ATTEMPTS
    assert all(sock.closed for sock in made)
