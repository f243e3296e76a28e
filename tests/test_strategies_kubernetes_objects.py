"""Objects of Kubernetes, lists and watches of them, read without a network."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barnacle_trio.strategies._kube_hosts import HostRule, Mode
from barnacle_trio.strategies._kube_objects import Junk, Lookup, read_entry
from barnacle_trio.strategies._kube_state import Entries, WatchState
from barnacle_trio.strategies._kube_wire import (
    RESOURCES,
    Changed,
    Deleted,
    LineCutter,
    Position,
    TooMuch,
    read_event,
    read_message,
    read_page,
)

LOOKUPS: tuple[Lookup, ...] = ("endpointslices", "endpoints", "pods")


def hosts(
    lookup: Lookup,
    things: Iterable[object],
    *,
    mode: Mode = "ip",
    not_ready: bool = False,
    local: str = "here",
) -> set[str]:
    rule = HostRule(mode=mode, service=None, cluster_domain="k8s", not_ready=not_ready)
    entries = Entries(read_entry(lookup, thing) for thing in things)
    return rule.hosts(entries.instances(), local)[0]


def slice_of(*endpoints: dict[str, Any], name: str = "s") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "n"}, "endpoints": list(endpoints)}


@pytest.mark.parametrize(
    ("conditions", "named", "named_when_not_ready"),
    [
        (None, True, True),  # nothing is known: ready
        ({}, True, True),
        ({"ready": True}, True, True),
        ({"ready": False}, False, True),
        ({"ready": None, "serving": None, "terminating": None}, True, True),
        ({"ready": True, "serving": True, "terminating": False}, True, True),
        # On its way out, and still there for those who are connected.
        ({"ready": False, "serving": True, "terminating": True}, True, True),
        ({"ready": False, "serving": False, "terminating": True}, False, False),
        ({"ready": False, "terminating": True}, False, False),
        # The service publishes addresses that are not ready, and then says so of all.
        ({"ready": True, "serving": False, "terminating": False}, True, True),
        ({"ready": True, "serving": False, "terminating": True}, False, False),
    ],
)
def test_the_conditions_of_an_endpoint(
    conditions: object, named: bool, named_when_not_ready: bool
) -> None:
    things = [slice_of({"addresses": ["10.0.0.1"], "conditions": conditions})]
    assert bool(hosts("endpointslices", things)) is named
    assert bool(hosts("endpointslices", things, not_ready=True)) is named_when_not_ready


@pytest.mark.parametrize(
    ("pod", "named", "named_when_not_ready"),
    [
        ({"phase": "Running", "ready": "True"}, True, True),
        ({"phase": "Running", "ready": "True", "deleted": True}, True, True),
        ({"phase": "Running", "ready": "False"}, False, True),
        ({"phase": "Running", "ready": "False", "deleted": True}, False, False),
        ({"phase": "Pending", "ready": "False"}, False, True),
        ({"phase": "Unknown", "ready": "Unknown"}, False, True),
        ({"phase": "Succeeded", "ready": "False"}, False, False),
        ({"phase": "Failed", "ready": "True"}, False, False),
    ],
)
def test_the_phase_and_the_readiness_of_a_pod(
    pod: dict[str, Any], named: bool, named_when_not_ready: bool
) -> None:
    meta = {"name": "a", "namespace": "n"}
    if pod.get("deleted"):
        meta["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    conditions = [{"type": "Initialized", "status": "True"}]
    conditions.append({"type": "Ready", "status": pod["ready"]})
    status = {"phase": pod["phase"], "podIP": "10.0.0.1", "conditions": conditions}
    things = [{"metadata": meta, "status": status}]
    assert bool(hosts("pods", things)) is named
    assert bool(hosts("pods", things, not_ready=True)) is named_when_not_ready


def test_one_pod_in_several_slices_is_one_host_whatever_their_order() -> None:
    pod = {"kind": "Pod", "name": "a"}
    things = [
        slice_of({"addresses": ["fd00::1"], "targetRef": pod}, name="v6"),
        slice_of({"addresses": ["10.0.0.1"], "targetRef": pod}, name="v4"),
        slice_of({"addresses": ["10.0.0.1"], "targetRef": pod}, name="v4-again"),
    ]
    for order in (things, things[::-1]):
        assert hosts("endpointslices", order) == {"10.0.0.1"}
        assert hosts("endpointslices", order, local="fd00::9") == {"fd00::1"}
        assert hosts("endpointslices", order, mode="dns") == {"10-0-0-1.n.pod.k8s"}


def test_the_first_address_of_an_endpoint_is_the_one_to_take() -> None:
    assert hosts("endpointslices", [slice_of({"addresses": ["10.0.0.2", "10.0.0.1"]})]) == {
        "10.0.0.2"
    }


def test_ipv6_addresses_are_dashed_and_written_as_erlang_does() -> None:
    things = [slice_of({"addresses": ["fd00:0:0:1:0:0:0:3"]})]
    assert hosts("endpointslices", things) == {"fd00:0:0:1::3"}
    assert hosts("endpointslices", things, mode="dns") == {"fd00-0-0-1--3.n.pod.k8s"}


def of_service(
    lookup: Lookup, service: str, hostname: str | None, address: str = "10.0.0.1"
) -> dict[str, Any]:
    """What a service says of the pod ``my-app-0``."""
    endpoint: dict[str, Any] = {"targetRef": {"kind": "Pod", "name": "my-app-0"}}
    if hostname is not None:
        endpoint["hostname"] = hostname
    meta = {"name": service, "namespace": "n"}
    if lookup == "endpoints":
        return {"metadata": meta, "subsets": [{"addresses": [{**endpoint, "ip": address}]}]}
    meta["name"] = f"{service}-{address}"
    labels = {"kubernetes.io/service-name": service}
    return {
        "metadata": {**meta, "labels": labels},
        "endpoints": [{**endpoint, "addresses": [address]}],
    }


@pytest.mark.parametrize("lookup", ["endpointslices", "endpoints"])
def test_a_host_name_goes_with_the_service_that_tells_it_whatever_the_order(
    lookup: Lookup,
) -> None:
    things = [
        of_service(lookup, "my-app", None),
        of_service(lookup, "my-app-headless", "my-app-0"),
        of_service(lookup, "other", None),
    ]
    for order in permutations(things):
        assert hosts(lookup, order, mode="hostname") == {"my-app-0.my-app-headless.n.svc.k8s"}
        assert hosts(lookup, order) == {"10.0.0.1"}


@pytest.mark.parametrize("lookup", ["endpointslices", "endpoints"])
def test_of_several_services_that_tell_a_host_name_it_is_always_the_same(lookup: Lookup) -> None:
    things = [
        of_service(lookup, "a", None),
        of_service(lookup, "b", "y"),
        of_service(lookup, "c", "x"),
    ]
    for order in permutations(things):
        assert hosts(lookup, order, mode="hostname") == {"y.b.n.svc.k8s"}


def test_a_slice_of_no_service_lends_its_host_name_to_none_of_the_others() -> None:
    nobodys = of_service("endpointslices", "", "my-app-0")
    things = [of_service("endpointslices", "my-app", None), nobodys]
    for order in permutations(things):
        assert hosts("endpointslices", order, mode="hostname") == set()
        both = [of_service("endpointslices", "z", "my-app-0", "fd00::1"), *order]
        assert hosts("endpointslices", both, mode="hostname") == {"my-app-0.z.n.svc.k8s"}


def test_who_has_no_host_name_is_left_out_and_told() -> None:
    rule = HostRule(mode="hostname", service=None, cluster_domain="k8s", not_ready=False)
    entry = read_entry("endpointslices", slice_of({"addresses": ["10.0.0.1"]}))
    found, left_out = rule.hosts(entry.instances, "here")
    assert found == set()
    assert [text.partition(" (")[2] for text in left_out] == [
        "no host name of its own in a service)"
    ]


def test_an_address_that_is_nobodys_is_left_out_and_told() -> None:
    rule = HostRule(mode="ip", service=None, cluster_domain="k8s", not_ready=False)
    entry = read_entry("endpointslices", slice_of({"addresses": ["0.0.0.0"]}))  # noqa: S104
    found, left_out = rule.hosts(entry.instances, "here")
    assert found == set()
    assert "(0.0.0.0)" in left_out.pop()


# -- anything -------------------------------------------------------------------------------------

WORDS = """
    kind metadata items name namespace labels endpoints addresses conditions ready serving status
    terminating hostname targetRef subsets notReadyAddresses ip podIP podIPs phase spec subdomain
    type object code message continue resourceVersion deletionTimestamp annotations
    endpoints.kubernetes.io/over-capacity
"""
FIELDS = st.sampled_from(WORDS.split())
TEXTS = st.sampled_from(["Pod", "PodList", "EndpointSlice", "10.0.0.1", "ADDED", "ERROR", "\ud800"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=6),
    max_leaves=25,
)


@given(ANYTHING)
def test_no_object_raises_anything_but_junk(thing: object) -> None:
    named = {"metadata": {"name": "a"}}
    for lookup in LOOKUPS:
        given = [thing, {**thing, **named} if isinstance(thing, dict) else named]
        for each in given:
            try:
                hosts(lookup, [each], mode="hostname", not_ready=True)
                hosts(lookup, [each], not_ready=True)
            except Junk:
                continue


@given(ANYTHING | st.binary(max_size=30))
def test_no_answer_raises_anything_but_junk(thing: object) -> None:
    data = thing if isinstance(thing, bytes) else json.dumps(thing).encode()
    for read in (read_page, read_event):
        try:
            read("pods", "Pod", data)
        except Junk:
            continue
    assert read_message(data).isascii()


# -- lines ----------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=8)), st.data())
def test_lines_are_the_same_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"\n".join(lines)
    cutter = LineCutter(1000)
    found: list[bytes] = []
    at = 0
    while at < len(stream):
        size = data.draw(st.integers(1, 9))
        found += cutter.feed(stream[at : at + size])
        at += size
    *whole, rest = stream.split(b"\n")
    assert found == [line for line in whole if line.strip()]
    assert cutter.unfinished is bool(rest.strip())


def test_a_line_has_a_limit() -> None:
    LineCutter(3).feed(b"abc\nabc\n")
    with pytest.raises(TooMuch):
        LineCutter(3).feed(b"abcd")
    with pytest.raises(TooMuch):
        LineCutter(3).feed(b"abcd\n")


# -- what a watch makes of a list -----------------------------------------------------------------


def pod(name: str, address: str, version: int = 1) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True"}]
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "n", "resourceVersion": str(version)},
        "status": {"podIP": address, "conditions": conditions},
    }


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]),
        st.sampled_from("abc"),
        st.integers(1, 3),
    ),
    max_size=30,
)


@given(CHANGES)
def test_events_lead_to_what_a_list_would_say(changes: list[tuple[str, str, int]]) -> None:
    [resource] = RESOURCES["pods"]
    state = WatchState()
    state.replace(Entries(), Position(resource=resource, version="0"))
    model: dict[str, dict[str, Any]] = {}
    for version, (what, name, number) in enumerate(changes, 1):
        thing = pod(name, f"10.0.0.{number}", version)
        before = {each["status"]["podIP"]: key for key, each in model.items()}
        if what == "DELETED":
            model.pop(name, None)
        elif what != "BOOKMARK":
            model[name] = thing
        line = json.dumps({"type": what, "object": thing}).encode()
        event = read_event("pods", "Pod", line)
        assert event is not None
        changed = state.apply(event)
        after = {each["status"]["podIP"]: key for key, each in model.items()}
        assert changed or before.keys() == after.keys()
        assert state.position == Position(resource=resource, version=str(version))
    listed = Entries(read_entry("pods", thing) for thing in model.values())
    assert set(state.entries.instances()) == set(listed.instances())


def test_what_says_nothing_new_of_its_pods_is_no_change() -> None:
    state = WatchState()
    entry = read_entry("pods", pod("a", "10.0.0.1"))
    newer = read_entry("pods", pod("a", "10.0.0.1", 2))
    assert state.apply(Changed(entry=entry))
    assert not state.apply(Changed(entry=newer))
    assert state.apply(Deleted(entry=newer))
    assert not state.apply(Deleted(entry=newer))


def endpoints(*addresses: str, over: str | None = None) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": "s", "namespace": "n", "resourceVersion": "1"}
    if over is not None:
        meta["annotations"] = {"endpoints.kubernetes.io/over-capacity": over}
    return {"metadata": meta, "subsets": [{"addresses": [{"ip": each} for each in addresses]}]}


@pytest.mark.parametrize("over", [None, "warning", "", "Truncated"])
def test_endpoints_are_cut_where_they_say_so_and_nowhere_else(over: str | None) -> None:
    assert not read_entry("endpoints", endpoints("10.0.0.1", over=over)).cut
    cut = endpoints("10.0.0.1", over="truncated")
    assert read_entry("endpoints", cut).cut
    # Slices are never cut: whatever is written on them is about something else.
    assert not read_entry("endpointslices", cut).cut
    assert not read_entry("pods", cut).cut


def test_being_cut_is_a_change_and_so_is_its_end() -> None:
    whole = read_entry("endpoints", endpoints("10.0.0.1"))
    cut = read_entry("endpoints", endpoints("10.0.0.1", over="truncated"))
    state = WatchState()
    assert state.apply(Changed(entry=whole))
    assert state.entries.cut() == []
    assert state.apply(Changed(entry=cut))
    assert not state.apply(Changed(entry=cut))
    assert state.entries.cut() == ["n/s"]
    assert state.apply(Changed(entry=whole))
    assert state.entries.cut() == []
    position = Position(resource=RESOURCES["endpoints"][0], version="2")
    assert state.replace(Entries([cut]), position)
    assert not state.replace(Entries([cut]), position)
    assert state.replace(Entries([whole]), position)
    state.replace(Entries([cut]), position)
    assert state.apply(Deleted(entry=cut))
    assert state.entries.cut() == []


def test_more_than_there_is_room_for_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from barnacle_trio.strategies import _kube_state

    monkeypatch.setattr(_kube_state, "MAX_INSTANCES", 4)
    entries = Entries()
    assert entries.put(read_entry("pods", pod("a", "10.0.0.1")))
    assert entries.put(read_entry("pods", pod("b", "10.0.0.2")))
    assert not entries.overflowed
    assert not entries.put(read_entry("pods", pod("c", "10.0.0.3")))
    assert entries.overflowed
    assert entries.drop("n/a")
    assert entries.put(read_entry("pods", pod("c", "10.0.0.3")))
    assert len(list(entries.instances())) == 2
