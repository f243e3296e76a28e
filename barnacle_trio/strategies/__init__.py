"""How nodes are discovered: one file for each way, and what joins them.

A strategy is any async callable from the local node's name to node names, so an ``async def`` of
your own stands beside these on equal terms.
"""

from barnacle_trio.strategies._ask import ASK
from barnacle_trio.strategies._dns import dns
from barnacle_trio.strategies._dns_srv import dns_srv
from barnacle_trio.strategies._erlang_hosts import erlang_hosts
from barnacle_trio.strategies._fallback import fallback
from barnacle_trio.strategies._fly import fly
from barnacle_trio.strategies._gossip import gossip
from barnacle_trio.strategies._known import epmd
from barnacle_trio.strategies._kubernetes import kubernetes
from barnacle_trio.strategies._kubernetes_dns import kubernetes_dns, kubernetes_dns_srv
from barnacle_trio.strategies._local_epmd import local_epmd
from barnacle_trio.strategies._merge import merge
from barnacle_trio.strategies._only import only
from barnacle_trio.strategies._postgres import postgres
from barnacle_trio.strategies._remember import remember
from barnacle_trio.strategies._rename import rename

__all__ = [
    "ASK",
    "dns",
    "dns_srv",
    "epmd",
    "erlang_hosts",
    "fallback",
    "fly",
    "gossip",
    "kubernetes",
    "kubernetes_dns",
    "kubernetes_dns_srv",
    "local_epmd",
    "merge",
    "only",
    "postgres",
    "remember",
    "rename",
]
