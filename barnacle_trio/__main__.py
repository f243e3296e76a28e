"""The `barnacle` command, also as ``python -m barnacle_trio``."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        if any(find_spec(needed) is None for needed in ("cyclopts", "rich")):
            sys.exit("barnacle: the command line needs an extra: pip install 'barnacle-trio[cli]'")
        from barnacle_trio.cli._main import run_command_line
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run_command_line(sys.argv[1:]))


if __name__ == "__main__":
    main()
