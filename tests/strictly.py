"""What mypy, at its strictest, says of code that a user of the library would write."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


def type_errors(folder: Path, modules: dict[str, str]) -> list[str]:
    """Check modules, by name, in a folder of their own; what mypy complains of, a line each."""
    if importlib.util.find_spec("mypy") is None:
        missing = "mypy is not installed (it comes with the extra `dev`): types were NOT checked"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    options = ["--strict", "--no-error-summary", "--config-file=", "--hide-error-context"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *(f"{name}.py" for name in modules)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()
