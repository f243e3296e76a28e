"""Self-healing clusters for Trio programs.

A *strategy* discovers nodes, a *transport* connects them, and a *barnacle* keeps them connected::

    async with (
        open_node("my_app@127.0.0.1", cookie="my_cookie") as node,
        open_barnacle(local_epmd(), node) as barnacle,
    ):
        await barnacle.wait_for_nodes(2)
"""

from barnacle_trio._barnacle import Barnacle
from barnacle_trio._custom_transport import custom_transport
from barnacle_trio._errors import (
    BarnacleCrashed,
    BarnacleError,
    BarnaclePaused,
    ConfigurationError,
    ConnectError,
    CookieRejected,
    DisconnectError,
    DiscoveryError,
    HandshakeRefused,
    NameTakenError,
    NodeCrashed,
    PeerUnreachable,
    ProcessDown,
    ProcessExit,
    RemoteError,
    RemoteProtocolError,
)
from barnacle_trio._events import (
    DownReason,
    Draining,
    Event,
    Missed,
    NodeDown,
    NodeUp,
    Paused,
    PeerStatus,
    Refreshed,
    RefreshFailed,
    RefreshResult,
    Restarted,
    Resumed,
    ShutDown,
    Status,
)
from barnacle_trio._names import Match, NodeName
from barnacle_trio._running import barnacle_child, open_barnacle, run_once, serve_barnacle
from barnacle_trio._strategy import Strategy
from barnacle_trio._supervisor import ChildSpec, RestartPolicy, supervise
from barnacle_trio._transport import PeerChange, PeerDown, PeerUp, Transport
from barnacle_trio._values import AsyncValue
from barnacle_trio.distribution import (
    Down,
    Exit,
    Mailbox,
    Node,
    NodeOptions,
    Process,
    open_node,
)
from barnacle_trio.epmd import FixedPort
from barnacle_trio.etf import (
    Atom,
    BitString,
    Export,
    Fun,
    ImproperList,
    Pid,
    Port,
    Reference,
)
from barnacle_trio.strategies import (
    ASK,
    dns,
    dns_srv,
    epmd,
    fallback,
    fly,
    gossip,
    kubernetes_dns,
    kubernetes_dns_srv,
    local_epmd,
    merge,
    only,
)

__version__ = "0.1.0"

__all__ = [
    "ASK",
    "AsyncValue",
    "Atom",
    "Barnacle",
    "BarnacleCrashed",
    "BarnacleError",
    "BarnaclePaused",
    "BitString",
    "ChildSpec",
    "ConfigurationError",
    "ConnectError",
    "CookieRejected",
    "DisconnectError",
    "DiscoveryError",
    "Down",
    "DownReason",
    "Draining",
    "Event",
    "Exit",
    "Export",
    "FixedPort",
    "Fun",
    "HandshakeRefused",
    "ImproperList",
    "Mailbox",
    "Match",
    "Missed",
    "NameTakenError",
    "Node",
    "NodeCrashed",
    "NodeDown",
    "NodeName",
    "NodeOptions",
    "NodeUp",
    "Paused",
    "PeerChange",
    "PeerDown",
    "PeerStatus",
    "PeerUnreachable",
    "PeerUp",
    "Pid",
    "Port",
    "Process",
    "ProcessDown",
    "ProcessExit",
    "Reference",
    "RefreshFailed",
    "RefreshResult",
    "Refreshed",
    "RemoteError",
    "RemoteProtocolError",
    "RestartPolicy",
    "Restarted",
    "Resumed",
    "ShutDown",
    "Status",
    "Strategy",
    "Transport",
    "barnacle_child",
    "custom_transport",
    "dns",
    "dns_srv",
    "epmd",
    "fallback",
    "fly",
    "gossip",
    "kubernetes_dns",
    "kubernetes_dns_srv",
    "local_epmd",
    "merge",
    "only",
    "open_barnacle",
    "open_node",
    "run_once",
    "serve_barnacle",
    "supervise",
]
