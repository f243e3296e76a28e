"""Distributed Erlang: this process as a node."""

from barnacle_trio.distribution._node import Node
from barnacle_trio.distribution._open import open_node
from barnacle_trio.distribution._options import NodeOptions

__all__ = ["Node", "NodeOptions", "open_node"]
