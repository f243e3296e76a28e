"""The handshake and a ping with real BEAMs, over plain sockets: no node of ours is involved."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from barnacle_trio._errors import CookieRejected, HandshakeRefused, PeerUnreachable
from barnacle_trio._names import NodeName
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._challenges import ChallengeBook
from barnacle_trio.distribution._flags import OUR_FLAGS, Flag
from barnacle_trio.distribution._frames import FrameDecoder, frame
from barnacle_trio.distribution._handshake import (
    Acceptor,
    AliveAnswered,
    AliveAsked,
    Done,
    HandshakeNok,
    Identity,
    Initiator,
    NameReceived,
    Send,
    StatusReceived,
)
from barnacle_trio.etf import Atom, ImproperList, Pid, Reference
from tests.erlang import Erlang
from tests.ports import free_port

COOKIE = b"the cookie of this test"
BEAM = NodeName("beam@127.0.0.1")
PYTHON = Identity(NodeName("py@127.0.0.2"), int(OUR_FLAGS), 5)
VISIBLE = Identity(PYTHON.name, int(OUR_FLAGS | Flag.PUBLISHED), 5)
TIMEOUT = 20.0


class Beam:
    """A BEAM without a port mapper: it takes every node to listen on its own port."""

    def __init__(self, port: int, process: subprocess.Popen[str]) -> None:
        self.port = port
        self._process = process

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def dial(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), TIMEOUT)

    @contextmanager
    def listen(self) -> Iterator[Callable[[], socket.socket]]:
        """Be where the BEAM looks for ``py@127.0.0.2``."""
        with socket.create_server(("127.0.0.2", self.port)) as listener:
            listener.settimeout(TIMEOUT)

            def accept() -> socket.socket:
                stream, _ = listener.accept()
                stream.settimeout(TIMEOUT)
                return stream

            yield accept


@contextmanager
def running(erlang: Erlang, home: Path, code: str) -> Iterator[Beam]:
    port = free_port()
    flags = ["-name", BEAM, "-setcookie", COOKIE.decode(), "-boot", "start_clean"]
    flags += ["-start_epmd", "false", "-erl_epmd_port", str(port)]
    flags += ["-kernel", "inet_dist_use_interface", "{127,0,0,1}", "logger_level", "none"]
    process = subprocess.Popen(
        erlang.command(*flags, "-eval", f'io:format("up~n"), {code}'),
        env=erlang.environ(HOME=str(home)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        beam = Beam(port, process)
        assert beam.line() == "up"
        yield beam
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def beam(erlang: Erlang, tmp_path: Path) -> Iterator[Beam]:
    with running(erlang, tmp_path, "receive after infinity -> ok end.") as found:
        yield found


def book() -> ChallengeBook:
    return ChallengeBook(lambda: 0.0)


def shake(
    stream: socket.socket, machine: Initiator | Acceptor, cookie: bytes = COOKIE
) -> tuple[Done, list[object]]:
    events: list[object] = []
    if isinstance(machine, Initiator):
        stream.sendall(machine.begin())
    while True:
        try:
            data = stream.recv(7)
        except ConnectionResetError:
            data = b""
        if not data:
            machine.eof()
        for event in machine.receive(data):
            match event:
                case Send():
                    stream.sendall(event.data)
                case NameReceived():
                    assert isinstance(machine, Acceptor)
                    stream.sendall(machine.accept(cookie))
                case Done():
                    return event, events
            events.append(event)


@pytest.mark.parametrize("local", [PYTHON, VISIBLE], ids=["hidden", "visible"])
def test_a_beam_takes_us_and_answers(beam: Beam, local: Identity) -> None:
    with beam.dial() as stream:
        done, events = shake(stream, Initiator(local, BEAM, COOKIE, book()))
        assert done.peer.name == BEAM
        assert done.peer.creation > 0
        assert done.agreed == OUR_FLAGS | (local.flags & Flag.PUBLISHED)
        assert events[0] == StatusReceived("ok")

        node = Atom(local.name)
        ours, ref = Pid(node, 1, 0, 5), Reference(node, 5, (1, 2, 3))
        call = (Atom("$gen_call"), (ours, ImproperList([Atom("alias")], ref)))
        question = (*call, (Atom("is_auth"), node))
        stream.sendall(frame(control.reg_send(ours, Atom("net_kernel"), question, done.agreed)))
        decoder = FrameDecoder()
        data = done.leftover
        while True:
            for body in decoder.feed(data):
                message = control.parse(body, headed=True) if body else None
                # To the alias, but from OTP 25's net_kernel to the pid all the same.
                if isinstance(message, control.AliasSend | control.Send):
                    assert message.to in (ref, ours)
                    assert message.payload == (call[1][1], Atom("yes"))
                    return
            data = stream.recv(65_536)
            assert data


def test_a_beam_of_another_cookie_closes_upon_our_proof(beam: Beam) -> None:
    machine = Initiator(PYTHON, BEAM, b"another cookie", book())
    with beam.dial() as stream, pytest.raises(CookieRejected, match="most likely another cookie"):
        shake(stream, machine)
    assert machine.peer is not None
    assert machine.peer.creation > 0


def test_a_beam_tells_not_allowed_to_who_lacks_flags(beam: Beam) -> None:
    flags = int(OUR_FLAGS & ~(Flag.MAP_TAG | Flag.MANDATORY_25_DIGEST))
    machine = Initiator(Identity(PYTHON.name, flags, 5), BEAM, COOKIE, book())
    with beam.dial() as stream, pytest.raises(HandshakeRefused, match="does not allow"):
        shake(stream, machine)


def test_a_beam_tells_nok_to_its_own_name(beam: Beam) -> None:
    machine = Initiator(Identity(BEAM, int(OUR_FLAGS), 5), BEAM, COOKIE, book())
    with beam.dial() as stream, pytest.raises(HandshakeNok):
        shake(stream, machine)


@pytest.fixture
def watching_beam(erlang: Erlang, tmp_path: Path) -> Iterator[Beam]:
    # Its handshake is over for us a moment before its net_kernel takes the connection to be up.
    code = (
        "(fun F() -> case net_kernel:node_info('py@127.0.0.2', state) of "
        '{ok, up} -> io:format("connected~n"), receive after infinity -> ok end; '
        "_ -> receive after 1 -> F() end end end)()."
    )
    with running(erlang, tmp_path, code) as found:
        yield found


def test_a_beam_asks_whether_its_old_connection_is_alive(watching_beam: Beam) -> None:
    with watching_beam.dial() as old, watching_beam.dial() as new:
        shake(old, Initiator(PYTHON, BEAM, COOKIE, book()))
        assert watching_beam.line() == "connected"
        machine = Initiator(PYTHON, BEAM, COOKIE, book())
        new.sendall(machine.begin())
        assert machine.receive(new.recv(100)) == [AliveAsked()]
        new.sendall(machine.answer_alive(True))
        while True:
            for event in machine.receive(new.recv(100)):
                if isinstance(event, Done):
                    assert event.peer.name == BEAM
                    return
                assert isinstance(event, Send)
                new.sendall(event.data)


def dialling(erlang: Erlang, home: Path) -> Iterator[Beam]:
    code = (
        "(fun F() -> io:format(\"~p~n\", [net_kernel:connect_node('py@127.0.0.2')]), "
        "receive after 50 -> F() end end)()."
    )
    with running(erlang, home, code) as found:
        yield found


@pytest.fixture
def dialling_beam(erlang: Erlang, tmp_path: Path) -> Iterator[Beam]:
    yield from dialling(erlang, tmp_path)


def test_a_beam_that_dials_is_accepted(dialling_beam: Beam) -> None:
    with dialling_beam.listen() as accept, accept() as stream:
        done, _ = shake(stream, Acceptor(PYTHON, book()))
        assert done.peer.name == BEAM
        assert done.agreed == OUR_FLAGS
        while (line := dialling_beam.line()) == "false":
            pass  # from before we listened
        assert line == "true"


def test_a_beam_of_another_cookie_is_not_accepted(dialling_beam: Beam) -> None:
    with dialling_beam.listen() as accept:
        with accept() as stream, pytest.raises(CookieRejected, match="does not know the cookie"):
            shake(stream, Acceptor(PYTHON, book()), b"another cookie")
        with accept() as stream:  # it tries again, and finds us willing
            assert shake(stream, Acceptor(PYTHON, book()))[0].peer.name == BEAM


def test_a_beam_answers_whether_it_lost_its_connection(dialling_beam: Beam) -> None:
    with dialling_beam.listen() as accept, accept() as stream:
        machine = Acceptor(PYTHON, book())
        seen: list[object] = []
        while not any(isinstance(event, Done) for event in seen):
            data = stream.recv(100)
            assert data
            for event in machine.receive(data):
                seen.append(event)
                if isinstance(event, NameReceived):
                    stream.sendall(machine.ask_alive(COOKIE))
                elif isinstance(event, Send):
                    stream.sendall(event.data)
        assert AliveAnswered(True) in seen


def test_a_beam_gives_up_a_node_that_lacks_flags(dialling_beam: Beam) -> None:
    flags = int(OUR_FLAGS & ~(Flag.MAP_TAG | Flag.MANDATORY_25_DIGEST))
    with dialling_beam.listen() as accept, accept() as stream:
        machine = Acceptor(Identity(PYTHON.name, flags, 5), book())
        with pytest.raises(PeerUnreachable, match="closed upon this node's challenge"):
            shake(stream, machine)
