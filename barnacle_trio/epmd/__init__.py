"""The port mapper: ask one, register with one, be one."""

from barnacle_trio.epmd._client import Registration, lookup, names, open_registration
from barnacle_trio.epmd._mapper import Epmd, FixedPort, PortMapper
from barnacle_trio.epmd._server import serve_epmd
from barnacle_trio.epmd._wire import PortEntry

__all__ = [
    "Epmd",
    "FixedPort",
    "PortEntry",
    "PortMapper",
    "Registration",
    "lookup",
    "names",
    "open_registration",
    "serve_epmd",
]
