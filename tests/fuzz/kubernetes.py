"""What a Kubernetes API server sends. The first byte chooses the kind of objects and the slices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from barnacle_trio.strategies._kube_objects import Entry, Junk, Lookup, read_entry
from barnacle_trio.strategies._kube_wire import (
    RESOURCES,
    Changed,
    Deleted,
    LineCutter,
    TooMuch,
    read_event,
    read_message,
    read_page,
)
from tests.fuzz.checks import check_brief

MAX_LINE = 400
_LOOKUPS: tuple[Lookup, ...] = ("pods", "endpoints", "endpointslices")


def page(data: bytes) -> None:
    """One page of a list, and what is said with a refusal."""
    if not data:
        return
    lookup = _LOOKUPS[data[0] % 3]
    body = data[1:]
    assert len(read_message(body)) < 900
    try:
        found = read_page(lookup, RESOURCES[lookup][0].kind, body)
    except Junk as junk:
        check_brief(junk)
        return
    assert found.version
    assert all(map(_is_sound, found.entries))


def watch(data: bytes) -> None:
    """A watch: the same lines in whatever slices, and of each an event or none."""
    if not data:
        return
    lookup = _LOOKUPS[data[0] % 3]
    size = 1 + data[0] // 3
    stream = data[1:]
    whole = _cut([stream])
    pieces = _cut([stream[at : at + size] for at in range(0, len(stream), size)])
    assert whole is None or pieces is None or whole == pieces
    assert (whole is None) == (pieces is None)
    for line in pieces or ():
        try:
            event = read_event(lookup, RESOURCES[lookup][0].kind, line)
        except Junk as junk:
            check_brief(junk)
            continue
        if isinstance(event, Changed | Deleted):
            assert event.entry.version
            assert _is_sound(event.entry)


def objects(data: bytes) -> None:
    """Objects of any shape. Few faults in JSON leave it JSON, so these are spelt by bytes here."""
    thing = _built(iter(data), 0)
    for lookup in _LOOKUPS:
        try:
            entry = read_entry(lookup, thing)
        except Junk:
            continue
        assert _is_sound(entry)


def _built(data: Iterator[int], depth: int) -> Any:
    kind = next(data, 0)
    if kind < len(_VALUES) or depth > 8:
        return _VALUES[kind % len(_VALUES)]
    size = kind % 8
    if kind % 2:
        return [_built(data, depth + 1) for _ in range(size // 2)]
    return {
        _FIELDS[next(data, 0) % len(_FIELDS)]: _built(data, depth + 1) for _ in range(size // 2 + 1)
    }


def _spelt(thing: Any) -> bytes:
    """The bytes of which an object is built."""
    least = len(_VALUES) + -len(_VALUES) % 8
    if isinstance(thing, dict):
        parts = [bytes([_FIELDS.index(key)]) + _spelt(value) for key, value in thing.items()]
        return bytes([least + 2 * (len(parts) - 1)]) + b"".join(parts)
    if isinstance(thing, list):
        return bytes([least + 1 + 2 * len(thing)]) + b"".join(map(_spelt, thing))
    return bytes([next(at for at, value in enumerate(_VALUES) if value is thing)])


def _cut(slices: list[bytes]) -> list[bytes] | None:
    cutter = LineCutter(MAX_LINE)
    lines: list[bytes] = []
    try:
        for piece in slices:
            lines += cutter.feed(piece)
    except TooMuch:
        return None
    assert all(line.strip() and b"\n" not in line and len(line) <= MAX_LINE for line in lines)
    return lines


def _is_sound(entry: Entry) -> bool:
    hash(entry)
    return bool(entry.key) and all(each.target for each in entry.instances)


_META = {"name": "a", "namespace": "n", "resourceVersion": "5"}
_POD: dict[str, Any] = {
    "kind": "Pod",
    "metadata": _META,
    "spec": {"hostname": "a", "subdomain": "s"},
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}
_SLICE: dict[str, Any] = {
    "kind": "EndpointSlice",
    "metadata": {**_META, "labels": {"kubernetes.io/service-name": "s"}},
    "endpoints": [
        {
            "addresses": ["10.0.0.1"],
            "conditions": {"ready": True, "serving": None, "terminating": False},
            "targetRef": {"kind": "Pod", "name": "a"},
        }
    ],
}
_ENDPOINTS: dict[str, Any] = {
    "kind": "Endpoints",
    "metadata": _META,
    "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}]}],
}
_OBJECTS = (_POD, _ENDPOINTS, _SLICE)


def _collected(thing: Any, fields: list[str], values: list[Any]) -> None:
    for each in thing.values() if isinstance(thing, dict) else thing:
        if isinstance(each, dict | list):
            _collected(each, fields, values)
        else:
            values.append(each)
    fields += thing if isinstance(thing, dict) else ()


_FIELDS: list[str] = []
_VALUES: list[Any] = [0, -1, 1.5, "", "Succeeded", "::1", "x" * 300, "\x00"]
for _each in _OBJECTS:
    _collected(_each, _FIELDS, _VALUES)
_FIELDS[:] = dict.fromkeys([*_FIELDS, "ip", "hostname", "deletionTimestamp"])


def _text(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def page_seeds() -> list[bytes]:
    pages = [
        {"kind": f"{each['kind']}List", "metadata": {"resourceVersion": "9"}, "items": [each]}
        for each in _OBJECTS
    ]
    encoded = [bytes([number]) + _text(each) for number, each in enumerate(pages)]
    empty = {"kind": "PodList", "metadata": {"resourceVersion": "9", "continue": "x"}}
    return [*encoded, b"\0" + _text(empty), b"\0" + _text({"kind": "Status", "message": "no"})]


def object_seeds() -> list[bytes]:
    seeds = [_spelt(each) for each in _OBJECTS]
    assert [_built(iter(seed), 0) for seed in seeds] == list(_OBJECTS)
    return seeds


def watch_seeds() -> list[bytes]:
    seeds = [
        bytes([number + 30]) + _text({"type": what, "object": each}) + b"\n"
        for number, (what, each) in enumerate(
            zip(("ADDED", "MODIFIED", "DELETED"), _OBJECTS, strict=True)
        )
    ]
    mark = {"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": "7"}}}
    error = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Gone"}}
    return [*seeds, b"\3" + _text(mark) + b"\n\r\n" + _text(error) + b"\n"]
