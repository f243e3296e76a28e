"""The ninety hostile inputs, and the tests that show what comes of each.

A test says by its name which ones it shows: ``test_36_...``, ``test_30_31_...``,
``test_33_to_49_...``. Those that bear other names stand in `ELSEWHERE`. One that is gone, or a
number that nothing shows any more, fails here.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
INPUTS = range(1, 91)
_NUMBERS = re.compile(r"test_(\d{1,2}(?:_(?:to_)?\d{1,2})*)_(?=[a-z])")

ELSEWHERE: dict[str, str] = {
    # port mappers that are asked
    "5-10": "epmd_client: malformed_answers_to_lookups",
    "16": "epmd_mapper: an_unknown_peer_is_unreachable_and_our_own_port_is_no_peers;"
    " epmd_client: a_socket_connected_to_itself_is_nobody;"
    " node_beam: dialling_oneself_under_another_host_name_is_refused_at_once",
    # port mappers that ask
    "18-20": "epmd_server_hostile: garbage_is_dropped_without_an_answer",
    "26": "epmd_server_hostile: thousands_of_garbage_connections_leave_nothing_behind",
    # frames
    "58": "distribution_frames: an_announcement_costs_no_memory the_limit_holds_at_any_slicing",
    "59": "messages_hostile: a_large_frame_that_drips_is_given_up;"
    " distribution_detector: a_frame_that_drips_in_is_stalled",
    "60-64": "messages_hostile: frames_that_were_not_agreed_on_cost_their_connection_alone",
    "65": "messages_hostile: messages_for_other_nodes_and_incarnations_are_dropped"
    " nobody_speaks_for_processes_of_another_node",
    "66": "messages_hostile: a_flood_of_links_or_monitors_costs_its_sender_alone"
    " the_end_of_what_was_held_is_told_however_full_the_mailbox",
    "67": "messages_hostile: a_flood_of_ticks_delays_nobody",
    "68": "messages_hostile: nothing_is_run_that_was_not_exposed"
    " the_nodes_own_processes_cannot_be_ended_or_led;"
    " messages_rpc_hostile: a_strange_request_is_refused",
    "69": "messages_hostile: the_nodes_own_processes_cannot_be_ended_or_led;"
    " node_beam: callers_on_a_beam_node_never_hang_because_of_us;"
    " messages_rpc_hostile: a_strange_request_is_refused",
    "70": "messages_large:"
    " a_peer_that_does_not_read_holds_up_large_and_small_ones_within_bounds;"
    " messages_hostile: a_slow_mailbox_is_bounded_in_bytes_as_well",
    # discovery
    "85": "strategies_gossip_packets: nothing_else_is_read"
    " what_is_encrypted_with_another_secret_is_ignored a_sealed_packet_counts_once"
    " an_older_packet_does_not_come_after_a_newer_one a_stranger_of_other_times_is_refused"
    " every_bit_of_a_sealed_packet_counts no_more_senders_are_remembered_than_there_is_room"
    " no_mutated_packet_raises_or_names_whom_it_may_not;"
    " strategies_gossip_members: packets_are_looked_at_in_moderation new_names_have_a_budget"
    " with_a_secret_everybody_may_be_named_but_loopback_of_others"
    " another_host_does_not_speak_for_this_node many_strangers_take_little_room"
    " there_are_no_more_names_than_allowed one_address_leaves_half_of_the_budget_to_others",
    "86": "strategies_dns_faults: what_answers_no_question_of_ours_is_passed_over"
    " nothing_but_junk_is_a_failure a_loop_is_a_failure a_referral_is_no_answer;"
    " strategies_dns: more_addresses_than_the_bound_are_a_partial_answer"
    " a_thousand_addresses_come_over_tcp what_is_no_nodes_address_is_left_out_and_told_once"
    " what_is_no_name_is_refused_at_the_call;"
    " strategies_addresses: no_node_has_such_an_address",
    "87": "distribution_cookie: no_cookie_is_shown",
    "88": "strategies_kubernetes_hostile: it_is_a_failed_answer_with_a_reason"
    " nothing_in_an_error_holds_the_token a_redirect_is_not_followed_and_no_token_goes_there"
    " items_that_are_none_are_no_pods pods_of_all_shapes a_list_without_an_end_has_one"
    " memory_stays_within_bounds 429_is_honoured_by_asking_no_more_for_as_long"
    " another_authority_is_not_believed_and_sees_no_token another_name_is_not_believed"
    " what_is_verified_is_verified_always a_watch_that_goes_wrong_is_begun_again",
    "89": "strategies_erlang_hosts: a_bad_line_is_told_with_its_number_and_the_others_count"
    " a_file_of_anything_else_is_told_line_by_line a_file_is_not_read_for_ever"
    " no_bytes_are_too_odd what_is_no_file_is_a_failure",
    "90": "distribution_cookie: a_short_cookie_stays_on_loopback each_new_one_is_another;"
    " epmd_mapper: lookups_are_answered_where_nodes_of_this_process_can_be_reached",
    # all parsers of what peers send
    "5-86": "fuzz: faults_of_what_is_right_are_none_of_ours",
}
"""Numbers, or from one to another, and by files the tests that show them beside those so named."""

GENERAL = frozenset({"5-86"})
"""Entries that are of use, but alone show nothing."""


def functions() -> set[tuple[str, str]]:
    """All tests: the file, without ``test_`` and ``.py``, and the name, without ``test_``."""
    found: set[tuple[str, str]] = set()
    for path in HERE.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and node.name[:5] == "test_"
            ):
                found.add((path.stem[5:], node.name[5:]))
    return found


def numbers(name: str) -> set[int]:
    """The hostile inputs that a test bears in its name."""
    match = _NUMBERS.match(f"test_{name}")
    if match is None:
        return set()
    found: set[int] = set()
    for part in re.findall(r"\d+(?:_to_\d+)?", match[1]):
        first, _, last = part.partition("_to_")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def listed(entry: str) -> set[tuple[str, str]]:
    """The tests of one entry of `ELSEWHERE`."""
    return {
        (file.strip(), name)
        for part in entry.split(";")
        for file, _, names in [part.partition(":")]
        for name in names.split()
    }


def shown() -> dict[int, set[tuple[str, str]]]:
    """For each hostile input the tests that show what comes of it."""
    index: dict[int, set[tuple[str, str]]] = defaultdict(set)
    for file, name in functions():
        for number in numbers(name):
            index[number].add((file, name))
    for span, entry in ELSEWHERE.items():
        first, _, last = span.partition("-")
        if span not in GENERAL:
            for number in range(int(first), int(last or first) + 1):
                index[number] |= listed(entry)
    return index


def test_every_hostile_input_is_shown() -> None:
    index = shown()
    assert [number for number in INPUTS if not index[number]] == []
    assert set(index) <= set(INPUTS)


def test_every_test_that_is_named_is_there() -> None:
    named = {test for entry in ELSEWHERE.values() for test in listed(entry)}
    assert named - functions() == set()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("36_names", {36}),
        ("30_31_silence", {30, 31}),
        ("33_to_36_garbage", {33, 34, 35, 36}),
        ("429_is_honoured", set()),
        ("200_megabytes", set()),
        ("l5_there", set()),
    ],
)
def test_names_are_read(name: str, expected: set[int]) -> None:
    assert numbers(name) == expected
