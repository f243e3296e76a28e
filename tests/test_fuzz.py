"""Every parser against what others might write: the corpus, what ever crashed, and faults of both.

The searching is done by ``python -m tests.fuzz``. With ``BARNACLE_TRIO_LONG=1`` two hundred
thousand faults are tried of each target, else some thousands, the same ones each time.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest

from tests.fuzz.mutation import mutated
from tests.fuzz.targets import PARSERS, TARGETS
from tests.scale import scaled

FOLDER = Path(__file__).parent / "fuzz"
FAULTS = scaled(10_000, 200_000)
COUNTED_EVERY = 50
# Lines of Python that an input may cost: so many, and so many for each of its bytes. What is linear
# stays far below, what is quadratic comes above it at some length.
STEPS, STEPS_PER_BYTE = 30_000, 150


def inputs(*folders: str) -> list[bytes]:
    files = [file for folder in folders for file in sorted((FOLDER / folder).glob("*"))]
    return [file.read_bytes() for file in files]


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_the_corpus_is_what_the_package_writes(target: str) -> None:
    assert sorted(inputs(f"corpus/{target}")) == sorted(TARGETS[target].seeds())


def test_what_is_right_and_what_crashed_once_is_no_fault(target: str) -> None:
    known = inputs(f"corpus/{target}", f"crashes/{target}")
    assert known
    for data in known:
        TARGETS[target].one_input(data)
        assert steps(target, data) <= STEPS + STEPS_PER_BYTE * len(data), data


def test_faults_of_what_is_right_are_none_of_ours(target: str) -> None:
    known = inputs(f"corpus/{target}", f"crashes/{target}")
    rng = Random(target)
    for number in range(FAULTS):
        data = mutated(rng.choice(known), rng, known)
        try:
            if number % COUNTED_EVERY:
                TARGETS[target].one_input(data)
            else:
                assert steps(target, data) <= STEPS + STEPS_PER_BYTE * len(data)
        except Exception as error:
            error.add_note(f"{target} was given {data!r}")
            raise


def test_the_cost_of_an_input_is_linear_in_its_length(target: str) -> None:
    for data in inputs(f"corpus/{target}"):
        for long in (data * 40, data + data[-1:] * 4000, data[:1] * 4000 + data):
            assert steps(target, long[:6000]) <= STEPS + STEPS_PER_BYTE * 6000, data


def steps(target: str, data: bytes) -> int:
    """How many lines of Python an input costs. Unlike its time, that is the same each time."""
    count = 0

    def trace(_frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        TARGETS[target].one_input(data)
    finally:
        sys.settrace(before)
    return count


def test_a_target_that_is_none_is_refused_by_name() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "nothing", "--runs", "1"],
        cwd=FOLDER.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode
    assert "no target 'nothing'; there are: etf" in done.stderr or "needs atheris" in done.stderr


def test_without_a_target_they_are_listed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz"],
        cwd=FOLDER.parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [*TARGETS, "all", "parsers"]


def test_each_target_is_one_of_a_parsers() -> None:
    assert sorted(target for targets in PARSERS.values() for target in targets) == sorted(TARGETS)


def test_a_corpus_has_its_target() -> None:
    folders = {each.name for kind in ("corpus", "crashes") for each in (FOLDER / kind).glob("*")}
    assert folders == set(TARGETS)
