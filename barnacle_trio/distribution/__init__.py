"""Distributed Erlang: this process as a node, and its processes."""

from barnacle_trio.distribution._inbox import Down, Exit
from barnacle_trio.distribution._mailbox import Mailbox, Process
from barnacle_trio.distribution._node import Node
from barnacle_trio.distribution._open import open_node
from barnacle_trio.distribution._options import NodeOptions
from barnacle_trio.distribution._tls import TlsOptions

__all__ = ["Down", "Exit", "Mailbox", "Node", "NodeOptions", "Process", "TlsOptions", "open_node"]
