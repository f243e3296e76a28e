"""The `barnacle` command, also as ``python -m barnacle_trio``."""

from __future__ import annotations

import sys

_EXTRA = frozenset({"cyclopts", "rich"})


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from barnacle_trio.cli._main import run_command_line
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        sys.exit("barnacle: the command line needs an extra: pip install 'barnacle-trio[cli]'")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run_command_line(sys.argv[1:]))


if __name__ == "__main__":
    main()
