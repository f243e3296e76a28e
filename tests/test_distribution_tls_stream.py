"""One stream inside TLS, over memory: as Trio's streams behave, cut and cancelled anywhere."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio
from trio.testing import (
    MemoryReceiveStream,
    MemorySendStream,
    check_two_way_stream,
    memory_stream_pair,
    memory_stream_pump,
)

from barnacle_trio import BarnacleError, NodeName, PeerUnreachable, TlsOptions
from barnacle_trio.distribution._tls_files import Contexts, Keyring
from barnacle_trio.distribution._tls_stream import TlsStream, handshake_header
from tests.tls_lab import Lab

NAME = NodeName("node@127.0.0.1")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> TlsOptions:
    return Lab(tmp_path_factory.mktemp("tls")).options()


async def contexts_of(options: TlsOptions, version: ssl.TLSVersion) -> Contexts:
    keyring = Keyring(options, NAME)
    await keyring.open()
    contexts = await keyring.contexts()
    contexts.dial.maximum_version = version
    return contexts


Pair = tuple[TlsStream, TlsStream]
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def pair(options: TlsOptions, contexts: Contexts) -> Pair:
    left, right = memory_stream_pair()
    return (
        TlsStream(left, contexts.dial, options, dialled=NAME),
        TlsStream(right, contexts.accept, options),
    )


async def introduce(dialling: TlsStream, dialled: TlsStream) -> None:
    """Have both hear a byte: from then on they break as Trio's streams do."""
    async with trio.open_nursery() as nursery:
        for stream in (dialling, dialled):
            nursery.start_soon(stream.send_all, b"!")
            nursery.start_soon(stream.receive_some, 1)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
async def test_it_is_a_stream(options: TlsOptions, version: ssl.TLSVersion) -> None:
    contexts = await contexts_of(options, version)

    async def make() -> Pair:
        made = pair(options, contexts)
        await introduce(*made)
        return made

    await check_two_way_stream(make, None)


async def test_the_length_of_a_handshakes_message(options: TlsOptions) -> None:
    contexts = await contexts_of(options, VERSIONS[0])
    inside, _ = pair(options, contexts)
    assert handshake_header(inside) == 4
    assert handshake_header(inside.transport_stream) == 2


async def test_a_large_amount_both_ways_at_once(options: TlsOptions) -> None:
    data = bytes(range(256)) * 8000
    contexts = await contexts_of(options, VERSIONS[1])
    streams = pair(options, contexts)
    received: list[bytes] = []

    async def receive(stream: TlsStream) -> None:
        got = bytearray()
        while len(got) < len(data):
            got += await stream.receive_some()
        received.append(bytes(got))

    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(stream.send_all, data)
            nursery.start_soon(receive, stream)
    assert received == [data, data]


class _Cut:
    """Lets so many bytes through from one to the other, in all, and then ends the line."""

    def __init__(self, sender: MemorySendStream, receiver: MemoryReceiveStream, left: int) -> None:
        self._sender = sender
        self._receiver = receiver
        self.left = left
        sender.send_all_hook = self.pump

    async def pump(self) -> None:
        await trio.lowlevel.checkpoint()
        data = self._sender.get_data_nowait() if self.left > 0 else bytearray()
        passed = data[: self.left]
        self.left -= len(data)
        if passed:
            self._receiver.put_data(passed)
        if self.left <= 0:
            self._receiver.put_eof()


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("ours", [True, False], ids=["what we send", "what is sent to us"])
async def test_the_line_is_cut_after_any_number_of_bytes_of_the_handshake(
    options: TlsOptions, version: ssl.TLSVersion, ours: bool
) -> None:
    contexts = await contexts_of(options, version)

    async def attempt(cut_after: int) -> tuple[BaseException | None, int]:
        left, right = memory_stream_pair()
        sender, receiver = (left, right) if ours else (right, left)
        cut = _Cut(sender.send_stream, receiver.receive_stream, cut_after)
        dialling = TlsStream(left, contexts.dial, options, dialled=NAME)
        accepted = TlsStream(right, contexts.accept, options)
        fault: BaseException | None = None

        async def serve() -> None:
            try:
                await accepted.do_handshake()
                await accepted.send_all(b"!")
            except (BarnacleError, trio.BrokenResourceError):
                await trio.aclose_forcefully(accepted)

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                try:
                    if not await dialling.receive_some(1):
                        fault = EOFError()
                except (BarnacleError, trio.BrokenResourceError) as error:
                    fault = error
                await trio.aclose_forcefully(dialling)
        return fault, cut_after - cut.left

    whole = 1_000_000
    fault, needed = await attempt(whole)
    assert fault is None
    for size in [*range(12), *range(12, needed - 40, 97), needed - 40]:
        fault, _ = await attempt(size)
        assert isinstance(fault, PeerUnreachable | EOFError | trio.BrokenResourceError), size
        if not ours and size < 12:
            assert isinstance(fault, PeerUnreachable)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
async def test_a_handshake_is_cancelled_anywhere(
    options: TlsOptions, version: ssl.TLSVersion
) -> None:
    """At each of its checkpoints; whoever closes the stream after that closes what is below."""
    contexts = await contexts_of(options, version)
    passed = 0
    while True:
        made: list[TlsStream] = []

        async def shake(stream: TlsStream, made: list[TlsStream]) -> None:
            await stream.do_handshake()
            made.append(stream)

        streams = pair(options, contexts)
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(shake, stream, made)
            for _ in range(passed):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        for stream in streams:
            await trio.aclose_forcefully(stream)
            with pytest.raises(trio.ClosedResourceError):
                await stream.transport_stream.send_all(b"x")
        if len(made) == 2:
            break
        passed += 1
    assert passed > 3


async def test_an_alert_reaches_who_is_refused(options: TlsOptions, tmp_path: Path) -> None:
    """`trio.SSLStream` alone keeps it to itself."""
    contexts = await contexts_of(options, VERSIONS[1])
    left, right = memory_stream_pair()
    accepted = TlsStream(right, contexts.accept, options)
    await left.send_all(bytes.fromhex("1603010005") + b"hello")
    with pytest.raises(BarnacleError):
        await accepted.do_handshake()
    memory_stream_pump(right.send_stream, left.receive_stream)
    assert (await left.receive_some())[0] == 0x15
