"""Questions to a host and to a node, one at a time, each with its own deadline."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import trio

from barnacle_trio import BarnacleError, NodeName, PeerUnreachable
from barnacle_trio.cli._findings import Shaken, Trouble
from barnacle_trio.distribution._addresses import is_literal
from barnacle_trio.distribution._challenges import ChallengeBook
from barnacle_trio.distribution._flags import OUR_FLAGS
from barnacle_trio.distribution._handshake import AliveAsked, Done, Identity, Initiator, Send
from barnacle_trio.distribution._tls_files import Keyring
from barnacle_trio.distribution._tls_stream import TlsStream, handshake_header

_SECOND_CHANCE = 1.0
"""Seconds for somebody who is silent to say something after all."""
_KEPT = 64  # bytes of what somebody says first

T = TypeVar("T")


async def resolve(host: str) -> list[str]:
    """The addresses of a host, in the system's order.

    Raises:
      OSError: there are none.
    """
    if is_literal(host):
        await trio.lowlevel.checkpoint()
        return [host]
    try:
        found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"it is no host name: {error}") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def at_each(
    addresses: Sequence[str], ask: Callable[[str], Awaitable[T]], *, patience: float
) -> tuple[dict[str, T], dict[str, Trouble]]:
    """Ask something at all addresses at once: the answers, and why the others gave none."""
    answers: dict[str, T] = {}
    troubles: dict[str, Trouble] = {}

    async def ask_one(address: str) -> None:
        await trio.lowlevel.checkpoint()
        try:
            with trio.fail_after(patience):
                answers[address] = await ask(address)
        except trio.TooSlowError:
            troubles[address] = Trouble("silent", f"no answer within {patience:g} s")
        except (OSError, BarnacleError) as error:
            troubles[address] = _trouble(error)

    async with trio.open_nursery() as nursery:
        for address in addresses:
            nursery.start_soon(ask_one, address)
    # In the order of the addresses, not of the answers.
    return (
        {address: answers[address] for address in addresses if address in answers},
        {address: troubles[address] for address in addresses if address in troubles},
    )


def _trouble(error: Exception) -> Trouble:
    """What the system said, in the end, or else what we say."""
    for cause in _causes(error):
        if isinstance(cause, ConnectionRefusedError):
            return Trouble("refused", "nobody listens there (connection refused)")
        if isinstance(cause, OSError) and cause.errno is not None:
            return Trouble("other", cause.strerror or str(cause))
        if isinstance(cause, trio.TooSlowError):
            return Trouble("silent", str(error))
    return Trouble("other", str(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            yield from _causes(error.exceptions[0])
        error = error.__cause__


async def connects(address: str, port: int) -> None:
    """Connect, and close again.

    Raises:
      OSError: nobody listens there.
    """
    stream = await trio.open_tcp_stream(address, port)
    await trio.aclose_forcefully(stream)


async def shake_hands(
    address: str,
    port: int,
    *,
    own: NodeName,
    peer: NodeName,
    cookie: bytes,
    keyring: Keyring | None,
    patience: float,
) -> Shaken:
    """Dial a node as a hidden one, up to the proof of the cookie, and close again.

    With a ``keyring`` inside TLS.
    """
    stream: trio.abc.Stream
    try:
        with trio.fail_after(patience):
            stream = await trio.open_tcp_stream(address, port)
    except (OSError, trio.TooSlowError) as error:
        reason = _trouble(error).text or f"no answer within {patience:g} s"
        return Shaken(error=PeerUnreachable(f"port {port}: {reason}"))  # noqa: ASYNC910 - it dials
    async with stream:
        if keyring is None:
            return await _Handshake(stream, own, peer, cookie).run(patience)
        contexts = await keyring.contexts()
        inside = TlsStream(stream, contexts.dial, keyring.options, dialled=peer)
        try:
            with trio.fail_after(patience):
                await inside.do_handshake()
        except BarnacleError as error:
            return Shaken(error=error, tls_failed=True)
        except trio.TooSlowError:
            silent = PeerUnreachable(f"no answer to a TLS greeting within {patience:g} s")
            return Shaken(error=silent, tls_failed=True)
        version = inside.version()
        return replace(await _Handshake(inside, own, peer, cookie).run(patience), tls=version)


class _Handshake:
    def __init__(
        self, stream: trio.abc.Stream, own: NodeName, peer: NodeName, cookie: bytes
    ) -> None:
        identity = Identity(own, int(OUR_FLAGS), 4 + secrets.randbelow(2**32 - 4))
        challenges = ChallengeBook(trio.current_time)
        self._machine = Initiator(
            identity, peer, cookie, challenges, header=handshake_header(stream)
        )
        self._stream = stream
        self._first = b""

    async def run(self, patience: float) -> Shaken:
        error: Exception | None = None
        await trio.lowlevel.checkpoint()
        try:
            with trio.fail_after(patience):
                await self._converse()
        except BarnacleError as refusal:
            error = refusal
        except trio.TooSlowError:
            error = PeerUnreachable(f"no answer within {patience:g} s")
            if not self._first:
                await self._provoke()
        finally:
            self._machine.close()
        return Shaken(first=self._first, peer=self._machine.peer, error=error)

    async def _converse(self) -> None:  # noqa: ASYNC910 - eof() always raises
        try:
            await self._stream.send_all(self._machine.begin())
            while True:
                data = bytes(await self._stream.receive_some(4096))
                if len(self._first) < _KEPT:
                    self._first += data[:_KEPT]
                if not data:
                    self._machine.eof()
                for event in self._machine.receive(data):
                    match event:
                        case Send():
                            await self._stream.send_all(event.data)
                        case AliveAsked():
                            # Nobody has our name: an answer shows whatever is wrong with it.
                            await self._stream.send_all(self._machine.answer_alive(True))
                        case Done():
                            return
        except trio.BrokenResourceError:
            self._machine.eof()

    async def _provoke(self) -> None:
        """Servers that go by lines complain at the end of one; a node does not mind any more."""
        with trio.move_on_after(_SECOND_CHANCE):
            try:
                await self._stream.send_all(b"\r\n\r\n")
                self._first = bytes(await self._stream.receive_some(_KEPT))
            except trio.BrokenResourceError:
                await trio.lowlevel.checkpoint()
