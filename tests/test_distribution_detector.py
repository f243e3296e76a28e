"""The failure detector's policy, without a clock."""

from __future__ import annotations

import math

import pytest

from barnacle_trio.distribution._detector import STALL_WINDOW, Detector, Due, Patience


def spend(
    detector: Detector, seconds: float, step: float = 0.5, *, in_frame: bool = False
) -> list[float]:
    """Let time pass in steps; the moments at which the peer was given up."""
    silent = []
    for number in range(1, round(seconds / step) + 1):
        if Due.SILENT in detector.pass_time(step, in_frame=in_frame):
            silent.append(number * step)
    return silent


def test_a_peer_that_answers_probes_is_given_up_after_the_failure_timeout() -> None:
    detector = Detector(Patience(failure_timeout=10, net_ticktime=60))
    detector.answered()
    assert spend(detector, 12)[0] == 10


def test_a_peer_that_never_answered_a_probe_is_judged_by_ticks_alone() -> None:
    detector = Detector(Patience(failure_timeout=10, net_ticktime=60))
    given_up = spend(detector, 80)
    assert given_up
    assert 45 <= given_up[0] <= 75


def test_a_host_that_acknowledges_nothing_is_given_up_whoever_was_there() -> None:
    detector = Detector(Patience(failure_timeout=10, net_ticktime=60))
    given_up = []
    for number in range(1, 41):
        if Due.SILENT in detector.pass_time(0.5, unheard=lambda n=number: n * 0.5 - 2):  # type: ignore[misc]
            given_up.append(number * 0.5)
    assert given_up[0] == 12


def test_who_does_not_answer_but_acknowledges_is_judged_by_ticks_alone() -> None:
    for unheard in (lambda: 2.1, lambda: None):
        detector = Detector(Patience(failure_timeout=10, net_ticktime=60))
        assert all(Due.SILENT not in detector.pass_time(0.5, unheard=unheard) for _ in range(80))


def test_an_infinite_failure_timeout_judges_everybody_by_ticks() -> None:
    detector = Detector(Patience(failure_timeout=math.inf, net_ticktime=8))
    detector.answered()
    assert spend(detector, 7.5) == []
    assert spend(detector, 1) != []


def test_reading_a_byte_starts_the_count_anew() -> None:
    detector = Detector(Patience(failure_timeout=10))
    detector.answered()
    for _ in range(100):
        assert spend(detector, 9) == []
        detector.read(1)


def test_probes_come_after_three_seconds_of_silence_and_every_three_after_that() -> None:
    detector = Detector(Patience())
    at = []
    for number in range(1, 20):
        if Due.PROBE in detector.pass_time(0.5):
            at.append(number * 0.5)
            detector.probed()
    assert at == [3.0, 6.0, 9.0]


def test_a_tick_is_due_two_seconds_after_the_last_write() -> None:
    detector = Detector(Patience())
    detector.read(1)
    dues = [detector.pass_time(0.5) for _ in range(4)]
    assert [Due.TICK in due for due in dues] == [False, False, False, True]
    detector.wrote()
    assert detector.pass_time(0.5) is Due.NOTHING


def test_time_in_which_this_process_did_not_run_accuses_nobody() -> None:
    detector = Detector(Patience(failure_timeout=10))
    detector.answered()
    assert Due.SILENT not in detector.pass_time(3600)
    assert detector.silence <= 1.0


def test_bytes_acknowledged_while_a_write_waits_are_life() -> None:
    detector = Detector(Patience(failure_timeout=10))
    detector.answered()
    for count in range(200):
        assert Due.SILENT not in detector.pass_time(0.5, acknowledged=count * 1000)
    for _ in range(19):
        assert Due.SILENT not in detector.pass_time(0.5, acknowledged=199_000)
    assert Due.SILENT in detector.pass_time(0.5, acknowledged=199_000)


def test_bytes_acknowledged_while_no_write_waits_are_no_life() -> None:
    detector = Detector(Patience(failure_timeout=10))
    detector.answered()
    assert spend(detector, 10) == [10]


def test_a_frame_that_drips_in_is_stalled() -> None:
    detector = Detector(Patience())
    seen = []
    for second in range(int(STALL_WINDOW) + 1):
        detector.read(1)
        if Due.STALLED in detector.pass_time(1, in_frame=True):
            seen.append(second)
    assert seen == [STALL_WINDOW - 1]


def test_a_long_frame_that_moves_is_not_stalled() -> None:
    detector = Detector(Patience())
    for _ in range(600):
        detector.read(2000)
        assert Due.STALLED not in detector.pass_time(1, in_frame=True)


@pytest.mark.parametrize("timeout", [0.2, 1.0, 10.0, 300.0])
def test_a_peer_is_probed_several_times_before_it_is_given_up(timeout: float) -> None:
    patience = Patience(failure_timeout=timeout)
    detector = Detector(patience)
    detector.answered()
    probes = 0
    while True:
        due = detector.pass_time(patience.interval)
        if Due.SILENT in due:
            break
        if Due.PROBE in due:
            probes += 1
            detector.probed()
    assert probes >= 2
