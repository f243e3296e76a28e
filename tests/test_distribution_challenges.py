"""The book of challenges: fresh ones, and for how long they are known as ours."""

from __future__ import annotations

import secrets

import pytest

from barnacle_trio._errors import CookieRejected, PeerUnreachable
from barnacle_trio.distribution import _challenges
from barnacle_trio.distribution._challenges import ChallengeBook, digest
from tests.handshakes import (
    COOKIE,
    Clock,
    book,
    challenge_in,
    challenge_message,
    challenged,
    initiator_told,
    reply_message,
    sent,
    status,
)


def test_a_challenge_is_ours_while_pending_and_for_300_seconds_more() -> None:
    clock = Clock()
    challenges = ChallengeBook(clock)
    challenge = challenges.issue()
    clock.now += 200
    assert challenges.is_ours(challenge)
    challenges.retire(challenge)
    challenges.retire(challenge)
    clock.now += 299
    assert challenges.is_ours(challenge)
    clock.now += 2
    assert not challenges.is_ours(challenge)
    challenges.issue()
    assert challenges.remembered == 1


def test_a_challenge_that_nobody_retires_is_forgotten_in_the_end() -> None:
    clock = Clock()
    challenges = ChallengeBook(clock)
    forgotten = challenges.issue()
    clock.now += 301
    challenges.issue()
    assert challenges.is_ours(forgotten)
    clock.now += 301
    challenges.issue()
    assert not challenges.is_ours(forgotten)


def test_the_book_is_bounded_and_never_evicts_what_is_pending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_challenges, "MAX_REMEMBERED", 10)
    challenges = book()
    pending = [challenges.issue() for _ in range(20)]
    retired = []
    for _ in range(50):
        retired.append(challenges.issue())
        challenges.retire(retired[-1])
    assert challenges.remembered == 30
    assert all(map(challenges.is_ours, pending))
    assert [challenges.is_ours(each) for each in retired] == [False] * 40 + [True] * 10


def test_no_challenge_is_issued_that_is_known_or_was_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws = iter([5, 5, 6, 5, 6, 7, 8])
    monkeypatch.setattr(secrets, "randbits", lambda _bits: next(draws))
    challenges = book()
    assert challenges.issue() == 5
    assert challenges.issue() == 6
    challenges.retire(5)
    challenges.note_answered(7)
    assert challenges.issue() == 8


def test_an_initiator_never_issues_the_challenge_that_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else its own proof, sent back as the acknowledgement, would be right."""
    draws = iter([1, 2])
    monkeypatch.setattr(secrets, "randbits", lambda _bits: next(draws))
    assert challenge_in(sent(initiator_told(status(b"ok") + challenge_message(1)))) == 2


def test_challenges_are_fresh_unsigned_32_bit_numbers() -> None:
    challenges = book()
    drawn = [challenges.issue() for _ in range(1000)]
    assert len(set(drawn)) == 1000
    assert all(0 <= each < 2**32 for each in drawn)
    assert max(drawn) > 2**31


@pytest.mark.parametrize("way", ["done", "error", "eof", "close"])
def test_every_end_of_a_handshake_retires_its_challenge(way: str) -> None:
    clock = Clock()
    challenges = ChallengeBook(clock)
    acceptor, challenge = challenged(challenges=challenges)
    match way:
        case "done":
            acceptor.receive(reply_message(1, digest(COOKIE, challenge)))
        case "error":
            with pytest.raises(CookieRejected):
                acceptor.receive(reply_message(1, bytes(16)))
        case "eof":
            with pytest.raises(PeerUnreachable):
                acceptor.eof()
        case "close":
            acceptor.close()
            acceptor.close()
    clock.now += 301
    assert not challenges.is_ours(challenge)
