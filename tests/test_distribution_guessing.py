"""How often a cookie may be guessed, by the clock: who is slowed down, and who is not."""

from __future__ import annotations

import random

from barnacle_trio.distribution import _guessing
from barnacle_trio.distribution._guessing import (
    GUESSES,
    MAX_REMEMBERED,
    PAIR_GUESSES,
    PAIR_PAUSE,
    PAUSE,
    PROOF_PAUSE,
    PROOFS,
    Guesses,
    Proofs,
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def guess(guesses: Guesses, address: str, name: str) -> bool:
    """Guess wrongly, if that is heard."""
    heard = guesses.may_try(address, name)
    if heard:
        guesses.was_wrong(address, name)
    return heard


def test_41_one_name_at_one_address_is_heard_ever_more_rarely() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    heard = 0
    while clock.now < 100:
        heard += guess(guesses, "10.0.0.1", "a@h")
        clock.now += 0.01
    assert heard <= PAIR_GUESSES + 100 / PAIR_PAUSE + 1


def test_41_others_at_that_address_and_that_name_elsewhere_are_not_concerned() -> None:
    guesses = Guesses(Clock())
    for _ in range(1000):
        guess(guesses, "10.0.0.1", "a@h")
    assert not guesses.may_try("10.0.0.1", "a@h")
    assert guesses.may_try("10.0.0.1", "b@h")
    assert guesses.may_try("10.0.0.2", "a@h")


def test_41_a_new_name_for_each_guess_is_of_little_use() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    heard = number = 0
    while clock.now < 60:
        number += 1
        heard += guess(guesses, f"10.0.{number % 200}.1", f"a{number}@h")
        clock.now += 0.0001
    assert number >= 600_000
    assert heard <= GUESSES + 60 / PAUSE + 1


def test_41_in_the_midst_of_that_a_newcomer_gets_in_before_long() -> None:
    clock, chance = Clock(), random.Random(41)
    guesses = Guesses(clock)
    waits = []
    for newcomer in range(50):
        began, tries = clock.now, 0
        while True:
            clock.now += chance.expovariate(1000)
            guess(guesses, "10.0.0.1", f"a{chance.random()}@h")
            if clock.now - began >= 0.2 * tries:  # as a node of ours tries
                tries += 1
                if guesses.may_try("10.0.0.1", f"good{newcomer}@h"):
                    guesses.was_right("10.0.0.1", f"good{newcomer}@h")
                    break
        waits.append(clock.now - began)
    waits.sort()
    assert waits[25] < 2.5
    assert waits[-1] < 15


def test_41_who_has_proven_itself_does_not_wait_at_all() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    guesses.was_right("10.0.0.1", "good@h")
    for number in range(100_000):
        guess(guesses, "10.0.0.1", f"a{number}@h")
        clock.now += 0.001
        assert guesses.may_try("10.0.0.1", "good@h")


def test_41_a_proven_name_is_no_way_round_for_others_at_its_address() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    guesses.was_right("10.0.0.1", "good@h")
    heard = 0
    while clock.now < 60:
        heard += guess(guesses, "10.0.0.1", "good@h")
        clock.now += 0.001
    allowed = PAIR_GUESSES + 60 / PAIR_PAUSE + GUESSES + 60 / PAUSE + 2
    assert heard <= allowed


def test_41_once_it_is_over_all_is_forgiven() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    for _ in range(10_000):
        guesses.was_wrong("10.0.0.1", "a@h")
    clock.now += (PAIR_GUESSES + 1) * PAIR_PAUSE
    assert guesses.may_try("10.0.0.1", "a@h")


def test_46_what_is_remembered_is_bounded() -> None:
    clock = Clock()
    guesses, proofs = Guesses(clock), Proofs(clock)
    for number in range(2 * MAX_REMEMBERED):
        guesses.may_try("10.0.0.1", f"c{number}@h")
        guesses.was_wrong("10.0.0.1", f"a{number}@h")
        guesses.was_right("10.0.0.1", f"b{number}@h")
        proofs.was_wasted(f"10.{number}")
    assert len(guesses) == 2 * MAX_REMEMBERED
    assert len(proofs) == MAX_REMEMBERED


def test_57_an_address_is_given_few_proofs_for_nothing() -> None:
    clock = Clock()
    proofs = Proofs(clock)
    given = 0
    while clock.now < 100:
        if proofs.may_give("10.0.0.1"):
            given += 1
            proofs.was_wasted("10.0.0.1")
        clock.now += 0.01
    assert given <= PROOFS + 100 / PROOF_PAUSE + 1
    assert proofs.may_give("10.0.0.2")


def test_only_hashes_of_what_strangers_say_are_kept() -> None:
    guesses = Guesses(Clock())
    guesses.was_wrong("10.0.0.1", "a" * 255)
    assert all(type(key) is int for key in guesses._wrong._rations)
    assert _guessing.MAX_REMEMBERED <= 10_000
