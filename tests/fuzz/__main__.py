"""Fuzz one parser, or all of them one after the other, guided by what their code does.

    python -m tests.fuzz TARGET [--seconds N] [--runs N] [--keep FOLDER]
    python -m tests.fuzz all [--seconds N] [--runs N] [--jobs N]
    python -m tests.fuzz parsers [--seconds N] [--jobs N]

A target is one harness of `tests.fuzz.targets`; without a name they are listed, and `all` is all of
them, a process for each. `parsers` is all of them, too, but those of one parser share its seconds;
this is what CI does, with a seed that stays the same, so that no change fails for an old fault. A
harness raises on nothing but a fault: another error than the parser
declares, or a promise that is broken (what is read and written again is read as the same, slices
make no difference, nobody is let in without the proof, ...). Needs atheris, on Linux:
``pip install 'barnacle-trio[fuzz]'``.

The corpus, ``tests/fuzz/corpus/TARGET``, is where the search begins; what is found on the way goes
to ``--keep`` (else it is forgotten). An input that crashes is written to
``tests/fuzz/crashes/TARGET``, from where ``tests/test_fuzz.py`` tries it for ever, as it does with
the corpus and with faults of every entry of it. ``--seeds`` writes the corpus anew, from messages
that the package itself makes.

The long form, by hand, in two steps: a search, and then ten million inputs of terms and a million
of each other target. These are ``--blind``, faults at random of the corpus and of what was found:
without an eye on what the code does that takes a tenth of the time.

    python -m tests.fuzz all --seconds 120 --keep found
    python -m tests.fuzz etf --blind --runs 10000000 --keep found
    python -m tests.fuzz all --blind --runs 1000000 --keep found

An input that takes longer than `TIMEOUT` seconds, or 512 MiB, is a crash too. (The steps that it
takes, which no clock disturbs, are counted in ``tests/test_fuzz.py``.)
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random

SEVERAL = ("all", "parsers")
HERE = Path(__file__).parent
CORPUS, CRASHES = HERE / "corpus", HERE / "crashes"
TIMEOUT = 20
"""Seconds on the clock, of which a machine that is busy may give none for a while."""


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description="Fuzz one parser.")
    parser.add_argument("target", nargs="?", help="a harness by name, or all")
    parser.add_argument("--seconds", type=int, help="60 if nothing is said of runs either")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--keep", type=Path, help="where what is found on the way is kept")
    parser.add_argument("--blind", action="store_true", help="look at nothing, which is quick")
    parser.add_argument("--seeds", action="store_true", help="write the corpus anew instead")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    options = parser.parse_args()
    if options.seconds is options.runs is None:
        options.seconds = 60
    if options.target is None:
        from tests.fuzz.targets import TARGETS

        print(*TARGETS, *SEVERAL, sep="\n")
        return
    if options.target in SEVERAL:
        sys.exit(_each_one(options))
    if options.seeds:
        _write_seeds(options.target)
        return
    if options.blind:
        _try_faults(options)
        return
    _fuzz(options)


def _each_one(options: argparse.Namespace) -> int:
    """Fuzz them all, a process for each; gives 1 if one crashed."""
    from tests.fuzz.targets import PARSERS, TARGETS

    share = dict.fromkeys(TARGETS, options.seconds)
    if options.target == "parsers":
        share = {
            target: (options.seconds or 60) / len(targets)
            for targets in PARSERS.values()
            for target in targets
        }
    with ThreadPoolExecutor(options.jobs) as pool:
        return max(pool.map(partial(_apart, options), share, share.values()))


def _apart(options: argparse.Namespace, target: str, seconds: float | None) -> int:
    arguments = ["--seeds"] if options.seeds else [f"--seed={options.seed}"]
    arguments += [f"--seconds={math.ceil(seconds)}"] if seconds is not None else []
    arguments += [f"--runs={options.runs}"] if options.runs is not None else []
    arguments += [f"--keep={options.keep}"] if options.keep is not None else []
    arguments += ["--blind"] if options.blind else []
    command = [sys.executable, "-m", "tests.fuzz", target, *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    found = re.search(r"executed_units: ([1-9]\d*)", done.stderr)
    if options.seeds and not done.returncode:
        return 0
    if done.returncode or found is None:
        print(f"{target}: {'A CRASH' if done.returncode else 'NOTHING WAS TRIED'}", flush=True)
        print(done.stderr[-4000:], file=sys.stderr)
        return 1
    print(f"{target}: {found[1]} inputs, clean", flush=True)
    return 0


def _no_target(name: str, targets: Iterable[str]) -> str:
    return f"no target {name!r}; there are: {', '.join([*targets, *SEVERAL])}"


def _write_seeds(target: str) -> None:
    from tests.fuzz.targets import TARGETS

    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for seed in TARGETS[target].seeds():
        (folder / sha256(seed).hexdigest()[:12]).write_bytes(seed)


def _try_faults(options: argparse.Namespace) -> None:
    """Faults at random of what is known, for so many runs or seconds."""
    from tests.fuzz.mutation import mutated
    from tests.fuzz.targets import TARGETS

    if options.target not in TARGETS:
        sys.exit(_no_target(options.target, TARGETS))
    one_input = TARGETS[options.target].one_input
    folders = [CORPUS, CRASHES, *([options.keep] if options.keep else [])]
    known = [
        file.read_bytes()
        for folder in folders
        for file in sorted((folder / options.target).glob("*"))
    ]
    rng = Random(options.seed or None)
    ends = time.monotonic() + (options.seconds or math.inf)
    runs = 0
    while runs != options.runs and (runs % 1000 or time.monotonic() < ends):
        data = mutated(rng.choice(known), rng, known)
        try:
            one_input(data)
        except Exception:
            crash = CRASHES / options.target / sha256(data).hexdigest()[:12]
            crash.parent.mkdir(parents=True, exist_ok=True)
            crash.write_bytes(data)
            print(f"{crash}: {data!r}", file=sys.stderr)
            raise
        runs += 1
    print(f"stat::number_of_executed_units: {runs}", file=sys.stderr)


def _fuzz(options: argparse.Namespace) -> None:
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        sys.exit("fuzzing needs atheris: pip install 'barnacle-trio[fuzz]'")
    with atheris.instrument_imports(include=["barnacle_trio"], enable_loader_override=False):
        targets = importlib.import_module("tests.fuzz.targets").TARGETS
    if options.target not in targets:
        sys.exit(_no_target(options.target, targets))
    crashes = CRASHES / options.target
    crashes.mkdir(parents=True, exist_ok=True)
    found = (options.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))) / options.target
    found.mkdir(parents=True, exist_ok=True)
    arguments = [
        sys.argv[0],
        f"-timeout={TIMEOUT}",
        "-rss_limit_mb=512",
        "-max_len=1024",
        "-print_final_stats=1",
        f"-seed={options.seed}",
        f"-artifact_prefix={crashes}{os.sep}",
        f"-max_total_time={options.seconds or 0}",  # 0: no end
        f"-runs={-1 if options.runs is None else options.runs}",  # -1: no end
        str(found),
        str(CORPUS / options.target),
    ]
    atheris.Setup(arguments, targets[options.target].one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
