"""The port mapper, in both roles: what it is asked, and what it answers."""

from __future__ import annotations

from barnacle_trio._errors import RemoteProtocolError
from barnacle_trio._names import NodeName
from barnacle_trio.epmd import _wire as wire
from barnacle_trio.epmd._registry import Holding, Registry

NAME = "app"


def server(data: bytes) -> None:
    """Requests, each behind a byte that says in which slices it comes, to one table of names."""
    registry = Registry(next_creation=0xFFFF_FFFE)
    for number, part in enumerate(data.split(b"\xee\xee")[:20]):
        if part:
            _ask(registry, part[1:], 1 + part[0], number)
    for holding in registry:
        registry.release(holding)
    assert not len(registry)


def _ask(registry: Registry, data: bytes, size: int, number: int) -> None:
    whole = _cut([data])
    pieces = _cut([data[at : at + size] for at in range(0, len(data), size)])
    # Sliced, a request can be whole before the bytes come that are too many.
    assert whole == pieces or whole is None
    if pieces is None:
        return
    assert 0 < len(pieces) <= wire.MAX_REQUEST
    try:
        request = wire.parse_request(pieces)
    except RemoteProtocolError:
        return
    match request:
        case wire.AliveRequest(entry):
            _register(registry, entry, number)
        case wire.PortRequest(name) | wire.StopRequest(name):
            name.isprintable()
            again = wire.encode_request(request) if _is_text(name) else b""
            assert not again or wire.parse_request(again[2:]) == request


def _cut(slices: list[bytes]) -> bytes | None:
    cutter = wire.RequestCutter()
    for piece in slices:
        try:
            body = cutter.feed(piece)
        except RemoteProtocolError:
            return None
        if body is not None:
            return body
    return None


def _register(registry: Registry, entry: wire.PortEntry, number: int) -> None:
    before = len(registry)
    answer = registry.register(Holding(entry, number))
    encoded = wire.encode_alive_answer(answer, highest=entry.highest)
    read = wire.parse_alive_answer(encoded)
    assert read is not None
    assert read.result == answer.result
    assert len(registry) == before + (answer.result == 0)
    if answer.result:
        return
    assert answer.creation >= 4
    # What is held can be asked for, and is listed as one line.
    asked = wire.parse_request(wire.encode_request(wire.PortRequest(entry.name))[2:])
    assert asked == wire.PortRequest(entry.name)
    entries = [holding.entry for holding in registry]
    listed = wire.encode_names_answer(4369, entries)
    assert listed.count(b"\n") == len(entries)
    names = wire.parse_names_answer(listed)
    assert len(names.names) + names.skipped == len(entries)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def client(data: bytes) -> None:
    """What a port mapper answers: to a registration, to a look-up, to the question for names."""
    try:
        alive = wire.parse_alive_answer(data)
    except RemoteProtocolError:
        alive = None
    if alive is not None:
        assert len(data) in (4, 6)
    try:
        entry = wire.parse_port_answer(data, name=NAME)
    except RemoteProtocolError:
        entry = None
    if entry is not None:
        assert entry.name == NAME
        assert 0 < entry.port < 1 << 16
        assert wire.encode_port_answer(entry) == data
    try:
        answer = wire.parse_names_answer(data)
    except RemoteProtocolError:
        return
    lines = data[4:].count(b"\n") + (not data.endswith(b"\n") and len(data) > 4)
    assert len(answer.names) + answer.skipped == lines
    for name, port in answer.names.items():
        NodeName(f"{name}@host")
        assert 0 < port < 1 << 16
    entries = [wire.PortEntry(name=name, port=port) for name, port in answer.names.items()]
    again = wire.parse_names_answer(wire.encode_names_answer(4369, entries))
    assert again == wire.NamesAnswer(answer.names, 0)


_ENTRY = wire.PortEntry(name=NAME, port=9100)


def server_seeds() -> list[bytes]:
    requests: list[wire.Request] = [
        wire.AliveRequest(_ENTRY),
        wire.AliveRequest(wire.PortEntry(name="old", port=1, highest=5, extra=b"extra")),
        wire.PortRequest(NAME),
        wire.StopRequest(NAME),
        wire.NamesRequest(),
        wire.DumpRequest(),
        wire.KillRequest(),
    ]
    encoded = [b"\xff" + wire.encode_request(request) for request in requests]
    together = b"\xee\xee".join([*encoded, encoded[0], b"\0" + encoded[1][1:]])
    return [*encoded, together, b"\2" + wire.encode_request(requests[0])]


def client_seeds() -> list[bytes]:
    return [
        wire.encode_alive_answer(wire.AliveAnswer(0, 77), highest=6),
        wire.encode_alive_answer(wire.AliveAnswer(1, 99), highest=5),
        wire.encode_port_answer(_ENTRY),
        wire.encode_port_answer(wire.PortEntry(name=NAME, port=1, extra=b"extra")),
        wire.encode_port_answer(None),
        wire.encode_names_answer(4369, [_ENTRY, wire.PortEntry(name="b-2", port=65535)]),
        wire.encode_names_answer(4369, []),
        bytes(4) + b"name a at port 1\nname a at port 2\nname @ at port 3\nname b at port",
    ]
