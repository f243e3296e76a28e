"""For tests of programs that use barnacle-trio: no network, no Erlang, any clock."""

from barnacle_trio.testing._conformance import check_strategy, check_transport
from barnacle_trio.testing._memory import MemoryNetwork, open_memory_nodes
from barnacle_trio.testing._recorder import EventRecorder
from barnacle_trio.testing._scripted import HANG, ScriptedStrategy
from barnacle_trio.testing._transport import FakePeer, FakeTransport

__all__ = [
    "HANG",
    "EventRecorder",
    "FakePeer",
    "FakeTransport",
    "MemoryNetwork",
    "ScriptedStrategy",
    "check_strategy",
    "check_transport",
    "open_memory_nodes",
]
