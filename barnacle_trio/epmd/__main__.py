"""A port mapper as a process: ``python -m barnacle_trio.epmd`` serves until it is stopped.

With ``--take-over`` it becomes the detached successor of one inside a program. That program waits,
so until the sockets are held here, nothing is imported that takes time.
"""

import json
import os
import sys


def main() -> None:
    """Serve on the usual port, or take over what the standard input tells of."""
    if sys.argv[1:] == ["--take-over"]:
        take_over()
    else:
        serve()


def serve() -> None:
    """Serve at all addresses, as OTP's `epmd` does, on ``ERL_EPMD_PORT`` or 4369."""
    import signal
    from functools import partial

    import trio

    from barnacle_trio._errors import ConfigurationError
    from barnacle_trio.epmd._embedding import public_addresses
    from barnacle_trio.epmd._server import serve_epmd

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the system frees all that there is to free
    try:
        trio.run(partial(serve_epmd, addresses=public_addresses()))
    except (ConfigurationError, OSError) as error:
        sys.exit(f"the port mapper cannot be served: {error}")


def take_over() -> None:
    """Go on with the sockets that this process inherited, as a process that is nobody's child."""
    told = sys.stdin.buffer.read().decode()
    if os.fork():
        os._exit(0)  # whoever started us waits for this one
    os.write(1, b"ready")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.close(nowhere)

    sys.path[:] = json.loads(told)["path"]
    import trio

    from barnacle_trio.epmd._detached import serve_estate
    from barnacle_trio.epmd._estate import Estate

    trio.run(serve_estate, Estate.from_json(told))


if __name__ == "__main__":
    main()
